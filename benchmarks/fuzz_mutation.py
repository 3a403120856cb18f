"""Changes to sound inputs: bytes, and values of JSON or of a config."""

from __future__ import annotations

from typing import Any

import numpy as np

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
ODD_VALUES: tuple[Any, ...] = (
  *(None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e-300, 1e308, 2**31, 2**63),
  *(10**40, float('nan'), float('inf'), -float('inf'), '', 'x' * 5000, '\0'),
  *(
    'nan',
    '../../x',
    '/etc/passwd',
    'a\nb',
    '\udcff',
    '1e308 epochs',
    '-1 steps',
  ),
  *('train[:0%]', 'train[5:2]', '9' * 5000, '[]', [], {}, [None], [[]], [1, 2]),
  *([float('nan'), 1.0], [1e300, 1e300], {'a': {'b': 1}}),
)


def mutate(
  seed: bytes, rng: np.random.Generator, *, others: tuple[bytes, ...]
) -> bytes:
  """One to eight changes of `seed`; `others` are there to splice with."""
  data = bytearray(seed)
  for _ in range(int(rng.integers(1, 9))):
    _change(data, rng, others)
  return bytes(data)


def _change(
  data: bytearray, rng: np.random.Generator, others: tuple[bytes, ...]
) -> None:
  size = len(data)
  at = int(rng.integers(0, size + 1))
  # Headers are short and decide most: half of the changes are there.
  if rng.integers(2):
    at = min(at, int(rng.integers(0, 64)))
  count = int(rng.integers(1, 17))
  match int(rng.integers(0, 9)):
    case 0 if at < size:
      data[at] ^= 1 << int(rng.integers(8))
    case 1 if at < size:
      data[at] = int(rng.integers(256))
    case 2:
      data[at : at + count] = rng.bytes(count)
    case 3:
      data[at:at] = rng.bytes(count)
    case 4:
      del data[at : at + count]
    case 5:
      del data[at:]
    case 6:
      data[at:at] = data[max(0, at - 16 * count) : at]
    case 7:
      number = int(rng.choice(_NUMBERS))
      width = int(rng.choice((1, 2, 4, 8)))
      order = 'big' if rng.integers(2) else 'little'
      number &= (1 << 8 * width) - 1
      data[at : at + width] = number.to_bytes(width, order)
    case _:
      other = others[int(rng.integers(len(others)))]
      start = int(rng.integers(0, len(other) + 1))
      data[at:] = other[start:]


def mutate_tree(tree: Any, rng: np.random.Generator) -> Any:
  """A copy of nested dicts and lists with one to four values changed."""
  for _ in range(int(rng.integers(1, 5))):
    tree = _change_tree(tree, rng)
  return tree


def _change_tree(tree: Any, rng: np.random.Generator) -> Any:
  odd = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
  is_tree = isinstance(tree, (dict, list)) and len(tree) > 0
  if not is_tree or rng.integers(8) == 0:
    return odd
  if isinstance(tree, list):
    at = int(rng.integers(len(tree)))
    return [*tree[:at], _change_tree(tree[at], rng), *tree[at + 1 :]]
  keys = list(tree)
  key = keys[int(rng.integers(len(keys)))]
  match int(rng.integers(0, 8)):
    case 0:
      return {k: v for k, v in tree.items() if k != key}
    case 1:
      return {**tree, f'{key}x': odd}
    case 2:
      other = keys[int(rng.integers(len(keys)))]
      return {**tree, key: tree[other]}
    case _:
      return {**tree, key: _change_tree(tree[key], rng)}
