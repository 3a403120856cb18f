"""Tells damage of a checkpoint from everything else that ends a reading.

Damage is what is known to be broken content. What the system refused (rights,
I/O, open files, network) and what nobody expected is not: it would be called
damaged today and be whole tomorrow. Imports no JAX.
"""

from __future__ import annotations

from collections.abc import Collection
import json
import os
import re
from typing import Any

from etils import epath

from simclr_jax import retries, writes

# As TensorStore begins the message of an error that the content causes; one
# without a status is of an invalid value.
_BROKEN = re.compile(
  '(DATA_LOSS|OUT_OF_RANGE|INVALID_ARGUMENT|FAILED_PRECONDITION|NOT_FOUND)\\b'
  '|Error (opening|reading|decoding|parsing) '
)
# The system's number in such a message, of another cause than a missing file.
_BY_SYSTEM = re.compile(r"os_error_code='(?!(2|20|21)')")
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_VALUE_TYPES = ('jax.Array', 'np.ndarray', 'scalar')


class NotAsSaved(ValueError):
  """Content of a checkpoint that is known not to be what was written."""


def raise_refusal(path: str | os.PathLike[str], error: BaseException) -> None:
  """Raises an OSError if the system refused the reading of a file.

  What a library raises for broken content may be an OSError too; it has no
  number.
  """
  if retries.is_system(error) and not _is_missing(error):
    raise OSError(
      f'{os.fspath(path)} cannot be read now: {error}; run the same command '
      'again once that is mended'
    ) from error


def is_damage(error: BaseException) -> bool:
  """Whether a failed reading means that the files are not what was written.

  Orbax wraps what it meets: the first cause decides, unless the system refused
  something on the way.
  """
  causes = list(writes.chain(error))
  if any(_is_refusal(each) for each in causes):
    return False
  if isinstance(error, NotAsSaved):
    return True
  first = causes[-1]
  if _is_missing(first) or isinstance(first, NotAsSaved):
    return True
  # TensorStore's and Orbax's own; those of Python are of derived types.
  return type(first) in (ValueError, Exception) and bool(
    _BROKEN.match(str(first))
  )


def _is_refusal(error: BaseException) -> bool:
  if isinstance(error, (MemoryError, OSError)):
    return not _is_missing(error)
  return bool(_BY_SYSTEM.search(str(error)))


def _is_missing(error: BaseException) -> bool:
  # TensorFlow's error, of an object store, has no class of Python's.
  is_tf = type(error).__name__ == 'NotFoundError'
  return is_tf or isinstance(error, _MISSING)


def reason_of(error: BaseException) -> str:
  """Type and message of the first cause; TensorStore appends pages of specs."""
  if not isinstance(error, NotAsSaved):
    error = list(writes.chain(error))[-1]
  text = ' '.join(str(error).split('[tensorstore_spec')[0].split())[:500]
  return (
    text if isinstance(error, NotAsSaved) else f'{type(error).__name__}: {text}'
  )


def read_json(path: epath.Path) -> Any:
  """A JSON file of a checkpoint.

  Raises:
    NotAsSaved: If it holds something else.
    OSError: If it cannot be read.
  """
  data = path.read_bytes()
  try:
    return json.loads(data)
  except (ValueError, RecursionError) as error:
    raise NotAsSaved(f'{os.fspath(path)} is no JSON: {error}') from error


def check_descriptions(folder: epath.Path, names: Collection[str]) -> None:
  """Raises NotAsSaved unless Orbax's descriptions are those of the arrays.

  Asked after a failure that says nothing of the content: Orbax reads these
  files before the arrays, and raises whatever follows from a changed byte.

  Args:
    folder: Of the arrays.
    names: Of the arrays, 'params/head/kernel'.
  """
  for path, check_fn in (
    (folder / '_METADATA', _describes_tree),
    *((p, _describes_arrays) for p in _files(folder / 'array_metadatas')),
  ):
    if not path.exists():
      continue  # Orbax does without.
    try:
      sound = check_fn(read_json(path), names)
    except (LookupError, TypeError, AttributeError):
      sound = False
    if not sound:
      raise NotAsSaved(f'{os.fspath(path)} is not what was saved')


def _files(folder: epath.Path) -> list[epath.Path]:
  return list(folder.iterdir()) if folder.exists() else []


def _describes_tree(whole: Any, names: Collection[str]) -> bool:
  entries = list(whole['tree_metadata'].values())
  keys = [entry['key_metadata'] for entry in entries]
  values = [entry['value_metadata'] for entry in entries]
  return (
    sorted('/'.join(k['key'] for k in each) for each in keys) == sorted(names)
    and all(k['key_type'] == 2 for each in keys for k in each)
    and all(v['value_type'] in _VALUE_TYPES for v in values)
    and all(v['skip_deserialize'] is False for v in values)
    and whole['use_ocdbt'] is True
    and whole['use_zarr3'] is False
  )


def _describes_arrays(whole: Any, names: Collection[str]) -> bool:
  known = {name.replace('/', '.') for name in names}
  return all(
    entry['array_metadata']['param_name'] in known
    and all(
      isinstance(size, int)
      for key in ('write_shape', 'chunk_shape')
      for size in entry['array_metadata'][key]
    )
    for entry in whole['array_metadatas']
  )
