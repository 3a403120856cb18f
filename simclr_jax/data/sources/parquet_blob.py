"""Parquet files made randomly accessible: pictures in one file, index beside.

A Parquet file gives rows only by decoding whole row groups, hundreds of
pictures for one. So each file is read once, from front to end; the encoded
pictures go one behind the other into a file of the cache folder, and where each
begins, its label, checksum and name into an .npz beside it. From then on a
picture is one `pread`: nothing is held in memory but the index (some 30 bytes
a picture, and names where the data set has any), the page cache is shared by
all processes, and no Parquet library is needed by those that read.

Every picture is decoded once on the way, as those of a folder are, because one
that fails in the tenth hour is dearer; only where `simclr_jax.prepare` wrote
the file it has done that already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import concurrent.futures
import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
import shutil
from typing import Any, NamedTuple
import warnings
import zlib

from absl import logging
import numpy as np
import PIL
from PIL import Image

from simclr_jax.data import cache
from simclr_jax.data.progress import Progress
from simclr_jax.data.sources import parquet_rows, parquet_schema

_VERSION = 3  # Raise when columns, the meaning of `plain` or limits change.
_COLUMNS: dict[str, type] = {
  'sizes': np.int64,
  'crcs': np.uint32,
  'labels': np.int64,
  'plain': np.bool_,
  'highest': np.uint16,
  'name_sizes': np.int64,
}


class Index(NamedTuple):
  """The rows of one Parquet file.

  Attributes:
    blob: Path of the pictures, one behind the other.
    sizes: int64 [n], bytes of each; 0 where it cannot be read.
    crcs: uint32 [n], CRC-32 of each.
    labels: int64 [n], NO_LABEL where there is none.
    plain: bool [n], see `plain_image.Inspection`.
    highest: uint16 [n], see there.
    bad_rows: int64 [k], rows that cannot be read, in order.
    reasons: k texts, why not.
    names: uint8, UTF-8 of the stored names one behind the other.
    name_sizes: int64 [n], bytes of each; [0] where none are stored.
  """

  blob: str
  sizes: np.ndarray
  crcs: np.ndarray
  labels: np.ndarray
  plain: np.ndarray
  highest: np.ndarray
  bad_rows: np.ndarray
  reasons: tuple[str, ...]
  names: np.ndarray
  name_sizes: np.ndarray


def convert(
  paths: Sequence[str],
  *,
  columns: parquet_schema.Columns,
  cache_folder: pathlib.Path,
) -> list[Index]:
  """Index of each file; what has not been converted before is now.

  Processes of one machine take turns at a file. What an interrupted conversion
  has finished is kept.

  Args:
    paths: Parquet files.
    columns: What to read of them.
    cache_folder: Where the results are; needs about as much room as the files.

  Raises:
    ValueError: If a file is damaged or holds no pictures but their paths, or
      the cache folder cannot be written or has not enough room.
  """
  kept = {path: _kept_paths(path, columns, cache_folder) for path in paths}
  pending = [path for path in paths if _load(*kept[path]) is None]
  if pending:
    with _explained(cache_folder, pending):
      cache_folder.mkdir(parents=True, exist_ok=True)
      progress = _announce(pending, columns, cache_folder)
      for path in pending:
        _convert_locked(path, *kept[path], columns=columns, progress=progress)
  indices = []
  for path in paths:
    index = _load(*kept[path])
    if index is None:
      raise ValueError(
        f'the conversion of {path} cannot be read back from {cache_folder}; '
        'make the folder writable and large enough, or name another one by '
        'the environment variable XDG_CACHE_HOME'
      )
    indices.append(index)
  return indices


def read(blob: str, offset: int, *, size: int) -> bytes:
  """Encoded picture; from any thread and process.

  The file is opened for each read, which takes some microseconds: nothing is
  open that a worker process could not be handed, and no limit is met.

  Raises:
    ValueError: If the file has become shorter since it was written.
  """
  descriptor = os.open(blob, os.O_RDONLY)
  try:
    data = os.pread(descriptor, size, offset)
  finally:
    os.close(descriptor)
  if len(data) != size:
    raise ValueError(
      f'{blob} is cut off: {len(data)} of {size} bytes at {offset}; delete it, '
      'the next start writes it again'
    )
  return data


def _kept_paths(
  path: str, columns: parquet_schema.Columns, folder: pathlib.Path
) -> tuple[pathlib.Path, pathlib.Path]:
  """Blob and index; their name changes with everything they depend on."""
  parts = (
    _VERSION,
    PIL.__version__,
    os.path.abspath(path),
    cache.stamp(os.stat(path)),
    columns.image,
    columns.label,
    columns.id,
    columns.checked,
  )
  key = hashlib.sha256(os.fsencode(repr(parts))).hexdigest()[:32]
  return folder / f'parquet_{key}.bin', folder / f'parquet_{key}.npz'


def _load(blob: pathlib.Path, index: pathlib.Path) -> Index | None:
  arrays = cache.load(index)
  if arrays is None or not blob.exists():
    return None
  if blob.stat().st_size != arrays['sizes'].sum():
    logging.warning('Ignoring the damaged conversion %s', blob)
    return None
  text = arrays.pop('reasons').tobytes().decode()
  reasons = tuple(text.split('\0')) if text else ()
  return Index(blob=str(blob), reasons=reasons, **arrays)


@contextlib.contextmanager
def _explained(folder: pathlib.Path, paths: Sequence[str]) -> Iterator[None]:
  """Says what to do where the cache folder is read-only or full."""
  try:
    yield
  except OSError as error:
    if error.filename in paths:
      raise
    raise ValueError(
      f'the cache folder {folder} cannot be written: {error}; make it writable '
      'and large enough, or name another one by the environment variable '
      'XDG_CACHE_HOME'
    ) from error


def _announce(
  pending: Sequence[str], columns: parquet_schema.Columns, folder: pathlib.Path
) -> Progress:
  """Checks that there is room, and says how much is to be done."""
  needed = rows = 0
  for path in pending:  # One open at a time: there may be thousands.
    with parquet_schema.open_file(path) as file:
      needed += _picture_bytes(file.metadata, columns)
      rows += file.metadata.num_rows
  _check_room(folder, needed)
  logging.info(
    'Converting %d Parquet files (%s pictures, %.1f GB) for random access, '
    'once, to %s',
    len(pending),
    f'{rows:,}',
    needed / 1e9,
    folder,
  )
  return Progress('Converted', rows)


def _picture_bytes(metadata: Any, columns: parquet_schema.Columns) -> int:
  leaf = f'{columns.image}.bytes' if columns.nested else columns.image
  groups = map(metadata.row_group, range(metadata.num_row_groups))
  chunks = (g.column(i) for g in groups for i in range(g.num_columns))
  return sum(
    c.total_uncompressed_size for c in chunks if c.path_in_schema == leaf
  )


def _check_room(folder: pathlib.Path, needed: int) -> None:
  free = shutil.disk_usage(folder).free
  if free < needed:
    raise ValueError(
      f'{folder} has {free / 1e9:.1f} GB free, the pictures need '
      f'{needed / 1e9:.1f}: make room, or name a folder on a larger disk by '
      'the environment variable XDG_CACHE_HOME'
    )


def _convert_locked(
  path: str,
  blob: pathlib.Path,
  index: pathlib.Path,
  *,
  columns: parquet_schema.Columns,
  progress: Progress,
) -> None:
  """Converts one file unless another process does it while we wait."""
  with open(blob.with_suffix('.lock'), 'w') as lock:
    # Freed by the system however this process ends.
    fcntl.flock(lock, fcntl.LOCK_EX)
    if _load(blob, index) is None:
      # One name: the remains of a killed process are overwritten.
      temporary = blob.with_suffix('.tmp')
      try:
        arrays = _write_blob(
          path, temporary, columns=columns, progress=progress
        )
        os.replace(temporary, blob)
      except BaseException:
        with contextlib.suppress(OSError):
          temporary.unlink()
        raise
      cache.save(index, arrays)


def _write_blob(
  path: str,
  temporary: pathlib.Path,
  *,
  columns: parquet_schema.Columns,
  progress: Progress,
) -> dict[str, np.ndarray]:
  """Writes the pictures; gives the arrays of the index."""
  # Begun with nothing, because a file may have no rows.
  parts: dict[str, list[np.ndarray]] = {
    name: [np.zeros(0, dtype)] for name, dtype in _COLUMNS.items()
  }
  examine = functools.partial(parquet_rows.examine, checked=columns.checked)
  names: list[bytes] = []
  reasons: dict[int, str] = {}
  start = 0
  with (
    open(temporary, 'wb') as out,
    concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool,
    _quiet_pillow(),
  ):
    for batch in parquet_rows.batches(path, columns):
      pictures = parquet_rows.pictures(
        batch, path, start=start, columns=columns
      )
      found = list(pool.map(examine, pictures))
      reasons |= {start + i: f.why for i, f in enumerate(found) if f.why}
      good = [b'' if f.why else p for p, f in zip(pictures, found, strict=True)]
      out.writelines(good)
      parts['sizes'].append(np.array([len(p) for p in good], np.int64))
      parts['crcs'].append(np.array([zlib.crc32(p) for p in good], np.uint32))
      parts['plain'].append(np.array([f.plain for f in found], bool))
      parts['highest'].append(np.array([f.highest for f in found], np.uint16))
      parts['labels'].append(parquet_rows.labels(batch, path, columns=columns))
      encoded = parquet_rows.names(batch, columns)
      names += encoded
      parts['name_sizes'].append(np.array([len(n) for n in encoded], np.int64))
      start += len(good)
      progress.add(len(good))
    out.flush()
    os.fsync(out.fileno())
  arrays = {name: np.concatenate(part) for name, part in parts.items()}
  if columns.checked:
    _check_unchanged(path, arrays['sizes'], arrays['crcs'])
  texts = '\0'.join(reasons.values()).encode('utf-8', 'backslashreplace')
  return arrays | {
    'bad_rows': np.array(list(reasons), np.int64),
    'reasons': np.frombuffer(texts, np.uint8),
    'names': np.frombuffer(b''.join(names), np.uint8),
  }


def _check_unchanged(path: str, sizes: np.ndarray, crcs: np.ndarray) -> None:
  """Raises if these are not the pictures that `prepare` has decoded."""
  with parquet_schema.open_file(path) as file:
    stored = file.metadata.metadata[parquet_schema.PICTURES_KEY].decode()
  if stored != parquet_rows.digest(sizes, crcs):
    raise ValueError(
      f'{path} was changed after simclr_jax.prepare wrote it: its pictures are '
      'not those that were checked then; prepare the data set again, or remove '
      f'the key {parquet_schema.METADATA_KEY.decode()!r} from the metadata of '
      'the schema, so that they are checked anew'
    )


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
  """`plain_image` makes errors of what concerns the pixels; the rest is odd."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)
    warnings.simplefilter('ignore', UserWarning)
    yield
