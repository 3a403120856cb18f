"""The arrays of a checkpoint by name: shape, type and digest.

Orbax casts types silently when it restores, and a flipped byte in stored array
data goes unnoticed (zstd frames without checksum; measured with 0.12.8). The
manifest, saved beside the arrays, makes both an error.
"""

from __future__ import annotations

from collections.abc import Mapping
import concurrent.futures
import hashlib
import json
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from simclr_jax.training.damage import NotAsSaved

PyTree = Any
Entry = dict[str, Any]
_MOST_NAMES = 20


class CheckpointMismatch(ValueError):
  """A sound checkpoint that does not fit the state it is wanted for."""


def flatten(tree: PyTree) -> dict[str, Any]:
  """Leaves by name, 'params/head/kernel'; positions count as '0', '1', ..."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in leaves
  }


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Nested dicts from names; what is stored.

  Plain dicts without empty containers, so that neither an optax state without
  arrays nor a renamed container class decides whether a checkpoint is readable.
  """
  tree: dict[str, Any] = {}
  for name, leaf in flat.items():
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  return tree


def describe(tree: PyTree) -> dict[str, Entry]:
  """Name -> {'shape', 'dtype'} of arrays or of their abstract forms."""
  return {
    name: {'shape': list(leaf.shape), 'dtype': str(leaf.dtype)}
    for name, leaf in flatten(tree).items()
  }


def make_manifest(
  items: Mapping[str, PyTree], *, passport: Any, **facts: Any
) -> dict[str, Any]:
  """Manifest of a checkpoint; every process has to call it.

  Args:
    items: Item name -> arrays. A leaf that two items share is read once.
    passport: JSON saved beside the arrays.
    **facts: Further JSON to keep.

  Returns:
    JSON: entries of every item with their digests, the passport's digest, the
    facts, and a digest of all that.
  """
  flat = {item: flatten(tree) for item, tree in items.items()}
  leaves = {id(x): x for by_name in flat.values() for x in by_name.values()}
  digests = dict(zip(leaves, _digests(list(leaves.values())), strict=True))
  arrays = {
    item: {
      name: {**entry, 'sha256': digests[id(flat[item][name])]}
      for name, entry in describe(tree).items()
    }
    for item, tree in items.items()
  }
  body = {**facts, 'passport': digest_json(passport), 'arrays': arrays}
  return {**body, 'sha256': digest_json(body)}


def check_manifest(manifest: Any, passport: Any) -> None:
  """Raises NotAsSaved unless manifest and passport are as they were saved."""
  if not isinstance(manifest, dict):
    raise NotAsSaved(f'the manifest is no JSON object: {str(manifest)[:80]!r}')
  body = {k: v for k, v in manifest.items() if k != 'sha256'}
  if manifest.get('sha256') != digest_json(body):
    raise NotAsSaved('the manifest is not what was saved (sha256 differs)')
  if manifest.get('passport') != digest_json(passport):
    raise NotAsSaved('the passport is not what was saved (sha256 differs)')


def check_digests(saved: Mapping[str, Entry], tree: PyTree) -> None:
  """Raises NotAsSaved naming the arrays that are not what was saved."""
  flat = flatten(tree)
  changed = [
    name
    for name, digest in zip(flat, _digests(list(flat.values())), strict=True)
    if saved[name]['sha256'] != digest
  ]
  if changed:
    raise NotAsSaved(
      'not what was saved (sha256 differs): ' + _shorten(changed)
    )


def check_match(
  saved: Mapping[str, Entry], wanted: Mapping[str, Entry], *, where: str
) -> None:
  """Raises unless names, shapes and types are exactly those wanted.

  Raises:
    CheckpointMismatch: Saying how many match and naming all that do not.
  """
  both = [name for name in wanted if name in saved]
  differ = {
    key: [
      f'{name} (saved {saved[name][key]}, wanted {wanted[name][key]})'
      for name in both
      if saved[name][key] != wanted[name][key]
    ]
    for key in ('shape', 'dtype')
  }
  problems = {
    'missing in the checkpoint': [n for n in wanted if n not in saved],
    'unexpected in the checkpoint': [n for n in saved if n not in wanted],
    'of another shape': differ['shape'],
    'of another dtype': differ['dtype'],
  }
  if not any(problems.values()):
    return
  num_match = sum(
    all(saved[name][key] == wanted[name][key] for key in differ)
    for name in both
  )
  lines = [f'{num_match} of {len(wanted)} arrays match']
  lines += [
    f'{len(names)} {kind}: {_shorten(names)}'
    for kind, names in problems.items()
    if names
  ]
  raise CheckpointMismatch(
    f'{where} does not fit this model and optimizer; nothing was loaded:\n'
    + '\n'.join(f'  - {line}' for line in lines)
    + '\nUse the config that wrote it, or another workdir'
  )


def fingerprint(variables: PyTree) -> str:
  """SHA-256 over names, shapes, types and bytes of all arrays.

  Equal exactly if the variables are bitwise equal; containers do not count.
  """
  entries = describe(variables)
  leaves = list(flatten(variables).values())
  for name, digest in zip(entries, _digests(leaves), strict=True):
    entries[name]['sha256'] = digest
  return digest_json(entries)


def digest_json(value: Any) -> str:
  """SHA-256 of a JSON value, whatever the order of its keys."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _digests(leaves: list[Any]) -> list[str]:
  # Hashing leaves Python's lock, so threads help; fetching stays in order,
  # because it is a collective where arrays are spread over processes.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return list(pool.map(_digest, map(_to_host, leaves)))


def _digest(array: np.ndarray) -> str:
  data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  return hashlib.sha256(data.data).hexdigest()


def _to_host(leaf: Any) -> np.ndarray:
  if isinstance(leaf, jax.Array):
    if leaf.is_fully_replicated:
      # A new view of one device's copy: np.asarray(leaf) would pin a host copy
      # to the leaf for as long as it lives.
      leaf = leaf.addressable_data(0)
    elif not leaf.is_fully_addressable:
      return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
  return np.asarray(leaf)


def _shorten(names: list[str]) -> str:
  more = len(names) - _MOST_NAMES
  text = ', '.join(names[:_MOST_NAMES])
  return f'{text} and {more} more' if more > 0 else text
