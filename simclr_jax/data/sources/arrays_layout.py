"""Where the arrays of each split are, by the names of files and of arrays."""

from __future__ import annotations

import functools
import math
import os
import re
import stat
import tokenize
from typing import IO, NamedTuple
import zipfile
import zlib

from absl import logging
import numpy as np

from simclr_jax import retries
from simclr_jax.data import other_files
from simclr_jax.data.sources import folder_scan

_NPY_SPLIT = re.compile(r'([\w.]+)_images\.npy')
_KINDS = ('images', 'labels')
_KEY_SPLIT = re.compile(r'([\w.]+)_images')
_SHOWN = 10  # entries of a list in a message
# What zipfile and NumPy raise for damaged, encrypted or unknown contents.
_UNREADABLE = (
  OSError,
  ValueError,
  EOFError,
  KeyError,
  RuntimeError,  # And NotImplementedError: encrypted, unknown compression.
  OverflowError,
  SyntaxError,  # A header that is no Python literal.
  tokenize.TokenError,
  UnicodeError,
  zipfile.BadZipFile,
  zlib.error,
)


class Place(NamedTuple):
  """Where an array is: `key` of an .npz, '' for an .npy."""

  path: str
  key: str = ''


class Split(NamedTuple):
  """Where images and labels (None: there are none) of a split are."""

  images: Place
  labels: Place | None


def find_splits(path: str) -> dict[str, Split]:
  """Splits by the names of files and keys.

  Raises:
    ValueError: If there are none, or an .npz has no images.
  """
  if '://' in path:
    raise ValueError(
      f'config.data.path = {path!r}: arrays must be local or mounted'
    )
  if retries.is_file(path):
    advice = other_files.of_file(path)
    if advice and not path.endswith(('.npy', '.npz')):
      raise ValueError(
        f'config.data.path = {path!r} is no .npz file by its name; {advice}'
      )
    return _splits_of_npz(path)
  if not retries.is_dir(path):
    raise ValueError(
      f'config.data.path = {path!r} is neither a folder nor an .npz file'
    )
  splits = {}
  names = sorted(os.listdir(path))
  for name in names:
    full = os.path.join(path, name)
    if match := _NPY_SPLIT.fullmatch(name):
      labels = f'{match.group(1)}_labels.npy'
      place = Place(os.path.join(path, labels)) if labels in names else None
      splits[match.group(1)] = Split(Place(full), place)
    elif name.endswith('.npz'):
      keys = _keys(full)
      if 'images' not in keys:
        raise ValueError(f'{full} has no array images; {_wanted(keys)}')
      place = Place(full, 'labels') if 'labels' in keys else None
      splits[name.removesuffix('.npz')] = Split(Place(full, 'images'), place)
  if not splits:
    advice = other_files.advise(path, folder_scan.list_pictures(path).ignored)
    raise ValueError(
      f'{path} has neither SPLIT.npz nor SPLIT_images.npy (SPLIT as in '
      f'config.data.train_split); it holds {names[:_SHOWN]}'
      + (f'; {advice}' if advice else '')
    )
  used = {f'{split}_{kind}.npy' for split in splits for kind in _KINDS}
  _say_left_out(
    path, tuple(n for n in names if n.endswith('.npy') and n not in used)
  )
  return splits


# Every split that is opened looks at the files.
@functools.cache
def _say_left_out(path: str, names: tuple[str, ...]) -> None:
  if names:
    logging.warning(
      '%s: left out, because no file is named SPLIT_images.npy or '
      'SPLIT_labels.npy beside its images: %s',
      path,
      ', '.join(names[:_SHOWN]),
    )


def _splits_of_npz(path: str) -> dict[str, Split]:
  keys = _keys(path)
  splits = {
    match.group(1): Split(
      Place(path, key),
      Place(path, labels)
      if (labels := f'{match.group(1)}_labels') in keys
      else None,
    )
    for key in keys
    if (match := _KEY_SPLIT.fullmatch(key))
  }
  if 'images' in keys:
    labels_of_all = Place(path, 'labels') if 'labels' in keys else None
    splits.setdefault('train', Split(Place(path, 'images'), labels_of_all))
  if not splits:
    raise ValueError(f'{path} has no images; {_wanted(keys)}')
  return splits


def _wanted(keys: list[str]) -> str:
  return (
    'needed are images and labels, or train_images, train_labels, test_images '
    f'and so on; its arrays are {keys[:_SHOWN]}'
  )


def _keys(path: str) -> list[str]:
  try:
    _check_regular(path)
    with zipfile.ZipFile(path) as archive:
      members = archive.namelist()
      if len(set(members)) < len(members):
        raise OSError('two of its arrays have the same name')
  except _UNREADABLE as error:
    if retries.may_pass(error):
      raise
    raise ValueError(
      f'{path} is no .npz file: {error}; an .npy must be named '
      'SPLIT_images.npy, and config.data.path its folder'
    ) from error
  return [name.removesuffix('.npy') for name in members]


def load(place: Place) -> np.ndarray:
  """The array, read-only; mapped into memory where it is an .npy.

  Raises:
    ValueError: If it cannot be read.
  """
  try:
    _check_regular(place.path)
    if not place.key:
      return np.load(place.path, mmap_mode='r', allow_pickle=False)
    with zipfile.ZipFile(place.path) as archive:
      array = _read_member(archive, place.key)
  except _UNREADABLE as error:
    if retries.may_pass(error):
      raise
    raise ValueError(f'{describe(place)} cannot be read: {error}') from error
  array.flags.writeable = False
  return array


def load_npz(path: str) -> dict[str, np.ndarray]:
  """All arrays of an .npz, by name.

  Raises:
    ValueError: If it, or one of them, cannot be read.
  """
  try:
    _check_regular(path)
    with zipfile.ZipFile(path) as archive:
      keys = [name.removesuffix('.npy') for name in archive.namelist()]
      return {key: _read_member(archive, key) for key in keys}
  except _UNREADABLE as error:
    if retries.may_pass(error):
      raise
    raise ValueError(f'{path} is no readable .npz file: {error}') from error


def _check_regular(path: str) -> None:
  # A pipe would be waited for, for ever.
  if not stat.S_ISREG(os.stat(path).st_mode):
    raise ValueError('it is a pipe, socket or device, not a file')


def _read_member(archive: zipfile.ZipFile, key: str) -> np.ndarray:
  """An array of an .npz, once it is known to be as large as it says.

  A thousandth of its size may hold an array, and a header of 128 bytes may
  claim any size: NumPy would begin to make room for it.
  """
  (info,) = (
    i for i in archive.infolist() if i.filename.removesuffix('.npy') == key
  )
  memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  if info.file_size > memory:
    raise ValueError(
      f'it has {info.file_size / 1e9:.1f} GB, this machine {memory / 1e9:.1f} '
      'of memory; write it as SPLIT_images.npy, which is mapped'
    )
  with archive.open(info) as file:
    shape, dtype = _read_header(file)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > info.file_size:
      raise ValueError(
        f'its header says {dtype} {list(shape)}, which is {claimed} bytes, and '
        f'it holds {info.file_size}'
      )
  with archive.open(info) as file:
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
  version = np.lib.format.read_magic(file)
  if version not in ((1, 0), (2, 0)):
    raise ValueError(f'its .npy format {version} is unknown')
  read = (
    np.lib.format.read_array_header_1_0
    if version == (1, 0)
    else np.lib.format.read_array_header_2_0
  )
  shape, _, dtype = read(file)
  return shape, dtype


def describe(place: Place) -> str:
  """For messages."""
  return f'{place.path}[{place.key!r}]' if place.key else place.path
