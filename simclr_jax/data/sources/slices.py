"""Splits of the in-memory sources: 'train', 'test', 'train[:500]', '[80%:]'."""

from __future__ import annotations

from collections.abc import Mapping
import difflib
import re

_PATTERN = re.compile(r'([\w.]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?')


def parse(split: str, sizes: Mapping[str, int]) -> tuple[str, range]:
  """Name and example range of a split, in TFDS syntax without '+'.

  Args:
    split: 'name' or 'name[from:to]'; the ends count examples, from the end if
      negative, or are a percentage, rounded to the closest number of examples
      as in TFDS. As in Python, and not in TFDS, ends may lie beyond the split.
    sizes: Examples of each known name.

  Raises:
    ValueError: If it does not parse, names no known split or is empty.
  """
  match = _PATTERN.fullmatch(split.strip())
  if not match or match.group(1) not in sizes:
    close = difflib.get_close_matches(split, sizes, n=1)
    hint = f' (did you mean {close[0]!r}?)' if close else ''
    raise ValueError(
      f'split {split!r} is unknown{hint}; known: {", ".join(sizes)}, or a part '
      "such as 'train[:500]' or 'train[80%:]'"
    )
  name, low, high = match.groups()
  chosen = range(sizes[name])[
    _bound(low, sizes[name]) : _bound(high, sizes[name])
  ]
  if not chosen:
    raise ValueError(
      f'split {split!r} is empty: {name!r} has {sizes[name]} examples'
    )
  return name, chosen


def _bound(text: str | None, size: int) -> int | None:
  if text is None:
    return None
  if text.endswith('%'):
    percent = int(text[:-1])
    count = round(abs(percent) * size / 100)
    return count if percent >= 0 else size - count
  return int(text)
