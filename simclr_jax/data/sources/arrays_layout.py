"""Where the arrays of each split are, by the names of files and of arrays."""

from __future__ import annotations

import os
import re
from typing import NamedTuple
import zipfile

import numpy as np

_NPY_SPLIT = re.compile(r'([\w.]+)_images\.npy')
_KEY_SPLIT = re.compile(r'([\w.]+)_images')
_SHOWN = 10  # entries of a list in a message


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
  if os.path.isfile(path):
    return _splits_of_npz(path)
  if not os.path.isdir(path):
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
    raise ValueError(
      f'{path} has neither SPLIT.npz nor SPLIT_images.npy (SPLIT as in '
      f'config.data.train_split); it holds {names[:_SHOWN]}'
    )
  return splits


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
    # A single .npy would come as an array, which is no context.
    with zipfile.ZipFile(path) as archive:
      members = archive.namelist()
  except (OSError, zipfile.BadZipFile) as error:
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
    if not place.key:
      return np.load(place.path, mmap_mode='r', allow_pickle=False)
    with (
      open(place.path, 'rb') as handle,
      np.load(handle, allow_pickle=False) as file,
    ):
      array = file[place.key]
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f'{describe(place)} cannot be read: {error}') from error
  array.flags.writeable = False
  return array


def describe(place: Place) -> str:
  """For messages."""
  return f'{place.path}[{place.key!r}]' if place.key else place.path
