"""Which files of a folder are pictures, and which of them can be decoded.

Every picture is decoded once before training, because a file that fails in the
tenth hour is dearer. The result is kept and reused for files whose path and
`cache.stamp` are the same, so a restart only looks at those.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
import concurrent.futures
import hashlib
import os
import pathlib
import stat
import time
from typing import NamedTuple
import warnings
import zlib

import numpy as np
import PIL
from PIL import Image

from simclr_jax import retries
from simclr_jax.data import cache, plain_image
from simclr_jax.data.progress import Progress

EXTENSIONS = (
  '.jpg',
  '.jpeg',
  '.jpe',
  '.jfif',
  '.png',
  '.webp',
  '.bmp',
  '.gif',
)
_VERSION = 5  # Raise when columns, the meaning of `plain` or limits change.
# A picture of image_header.MAX_PIXELS takes less in every format.
_MAX_BYTES = 1 << 30
_BLOCK = 4096  # files between looking at the clock
_SAVE_EVERY_S = 60.0
_SHOWN = 5  # errors in a message


class Listing(NamedTuple):
  """Files below a folder.

  Attributes:
    pictures: Relative paths with '/', sorted by their bytes.
    ignored: Number of other files by extension, hidden ones not counted.
  """

  pictures: list[str]
  ignored: dict[str, int]


class File(NamedTuple):
  """One picture file; `reason` is empty where it can be read."""

  path: str
  size: int = 0
  mtime_ns: int = 0
  ctime_ns: int = 0
  inode: int = 0
  crc: int = 0
  format: str = ''
  width: int = 0
  height: int = 0
  plain: bool = False
  highest: int = 0
  reason: str = ''


def list_pictures(root: str) -> Listing:
  """Finds picture files by extension, following links but no loops.

  Names that start with a dot are left out. The order is that of the bytes of
  the paths: the same on every host and file system.

  Raises:
    ValueError: If a folder cannot be listed.
  """
  pictures: list[str] = []
  ignored: collections.Counter[str] = collections.Counter()
  for path in walk(root):
    if is_picture(path):
      pictures.append(path)
    else:
      ignored[os.path.splitext(path)[1].lower() or 'no extension'] += 1
  return Listing(sorted(pictures, key=os.fsencode), dict(ignored))


def is_picture(path: str) -> bool:
  """Whether its extension is that of an image that is read."""
  return os.path.splitext(path)[1].lower() in EXTENSIONS


def walk(
  root: str, relative: str = '', *, ancestors: tuple[tuple[int, int], ...] = ()
) -> Iterator[str]:
  """Relative paths of all files, following links but no loops.

  Names that start with a dot are left out.

  Args:
    root: Folder.
    relative: Folder below it that is walked.
    ancestors: Device and inode of the folders that it lies in.

  Raises:
    ValueError: If a folder cannot be listed.
  """
  folder = os.path.join(root, relative)
  try:
    status = os.stat(folder)
    with os.scandir(folder) as entries:
      found = [
        (entry.name, is_folder(entry))
        for entry in entries
        if not entry.name.startswith('.')
      ]
  except OSError as error:
    if retries.may_pass(error):
      raise
    raise ValueError(
      f'cannot list the folder {folder}: {error}; make it readable or move it '
      'out of config.data.path, else what it holds would be missing silently'
    ) from error
  # A link to a folder that we are in would never end.
  here = (status.st_dev, status.st_ino)
  if here in ancestors:
    return
  for name, is_dir in found:
    path = f'{relative}/{name}' if relative else name
    if is_dir:
      yield from walk(root, path, ancestors=(*ancestors, here))
    else:
      yield path


def is_folder(entry: os.DirEntry[str]) -> bool:
  """Whether it is a folder or a link to one; a link to itself is neither."""
  try:
    return entry.is_dir()
  except OSError as error:
    if retries.may_pass(error):
      raise
    return False


def scan(
  root: str, paths: Sequence[str], *, cache_folder: pathlib.Path
) -> list[File]:
  """Decodes every file that is not known yet.

  Args:
    root: Folder.
    paths: Relative paths of its pictures.
    cache_folder: Where results are kept, one file for each root.

  Returns:
    One `File` for each path, in order.

  Raises:
    ValueError: If the system does not let some be read. That says nothing of
      the pictures, so it is not kept, and they are not left out.
    retries.DataAway: If it does not let one be read for now.
  """
  name = f'{_VERSION} {PIL.__version__} {os.path.abspath(root)}'
  key = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
  kept = cache_folder / f'folder_scan_{key}.npz'
  known = _load(kept)
  files: list[File] = []
  refused: list[OSError] = []
  fresh, saved = 0, time.monotonic()
  progress = Progress('Checked', len(paths))
  with (
    concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool,
    warnings.catch_warnings(),
  ):
    # `plain_image` turns this one into an error; the others (odd EXIF blocks)
    # do not concern the pixels.
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)
    warnings.simplefilter('ignore', UserWarning)
    for start in range(0, len(paths), _BLOCK):
      block = paths[start : start + _BLOCK]
      before = [known.get(path) for path in block]
      after = list(
        pool.map(lambda p, b: _examine(root, p, known=b), block, before)
      )
      files += [a for a in after if isinstance(a, File)]
      refused += [a for a in after if isinstance(a, OSError)]
      fresh += sum(a is not b for a, b in zip(after, before, strict=True))
      progress.add(len(block))
      now = time.monotonic()
      if fresh and now - saved > _SAVE_EVERY_S:
        saved = now
        _save(kept, files)
  if fresh or len(known) != len(files):
    _save(kept, files)
  if refused:
    examples = '\n'.join(f'  {error}' for error in refused[:_SHOWN])
    raise ValueError(
      f'{len(refused)} of {len(paths)} pictures in {root} cannot be opened; '
      'make them readable (chmod, chown) or move them out of config.data.path, '
      f'else they would be missing silently. The first:\n{examples}'
    )
  return files


def _examine(root: str, path: str, *, known: File | None) -> File | OSError:
  """Result for one file; `known` itself where the file has not changed.

  An error of the system where that does not let it be read.
  """
  full = os.path.join(root, path)
  file = File(path)

  def read() -> bytes | None:
    nonlocal file
    status = os.stat(full)
    file = File(path, *cache.stamp(status))
    if known and known[:5] == file[:5]:
      return None
    # A pipe would be waited for, and a device gives bytes for ever.
    if not stat.S_ISREG(status.st_mode):
      raise ValueError('it is a pipe, socket or device, not a file')
    if status.st_size > _MAX_BYTES:
      raise ValueError('it is larger than 1 GiB, which no picture is')
    with open(full, 'rb') as handle:
      return handle.read()

  def is_gone(error: BaseException) -> bool:
    # It was there when the folder was listed; a link may lead nowhere.
    return isinstance(error, FileNotFoundError) and not os.path.islink(full)

  try:
    data = retries.retry(
      read, what=full, passing=lambda e: retries.may_pass(e) or is_gone(e)
    )
    if data is None:
      return known or file
    file = file._replace(crc=zlib.crc32(data))
    found = plain_image.inspect(data)
  except (MemoryError, retries.DataAway):
    raise
  except PermissionError as error:
    return error
  # Pillow's decoders raise nearly every built-in exception for damaged data;
  # each is a reason why this file cannot be read, and is reported as such.
  except Exception as error:
    text = f'{type(error).__name__}: {error}'
    # The path stands beside it, and an address would differ in every run.
    text = text.split(' file <_io.')[0].replace(f": '{full}'", '')
    return file._replace(reason=' '.join(text.split()))
  return file._replace(
    format=found.format,
    width=found.width,
    height=found.height,
    plain=found.plain,
    highest=found.highest,
  )


_NUMBERS = {
  'size': np.int64,
  'mtime_ns': np.int64,
  'ctime_ns': np.int64,
  'inode': np.uint64,
  'crc': np.uint32,
  'width': np.int32,
  'height': np.int32,
  'plain': np.bool_,
  'highest': np.uint16,
}
_TEXTS = ('path', 'format', 'reason')


def _save(path: pathlib.Path, files: Sequence[File]) -> None:
  columns: dict[str, np.ndarray] = {
    name: np.array([getattr(f, name) for f in files], dtype)
    for name, dtype in _NUMBERS.items()
  }
  for name in _TEXTS:
    # File names are bytes without NUL that need not be valid text.
    joined = b'\0'.join(os.fsencode(getattr(f, name)) for f in files)
    columns[name] = np.frombuffer(joined, np.uint8)
  cache.save(path, columns)


def _load(path: pathlib.Path) -> dict[str, File]:
  columns = cache.load(path)
  if columns is None or not len(columns['size']):
    return {}
  values = {name: columns[name].tolist() for name in _NUMBERS}
  for name in _TEXTS:
    parts = columns[name].tobytes().split(b'\0')
    values[name] = [os.fsdecode(part) for part in parts]
  rows = zip(*(values[name] for name in File._fields), strict=True)
  return {row[0]: File(*row) for row in rows}
