"""Pictures as uint8 arrays: an .npz file, or a folder of .npz or .npy files.

  FILE.npz             images and labels (then all of it is 'train'), or
                       train_images, train_labels, test_images, ...
  FOLDER/train.npz     images and labels
  FOLDER/train_images.npy, FOLDER/train_labels.npy

Images are [n, H, W, 3], or [n, H, W] and [n, H, W, 1] grey, which become three
equal channels. Labels are integers [n] or [n, 1], -1 for none; they may be
left out. Files .npy are mapped into memory and so may be larger than it; an
.npz is held in memory by every process that reads.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib

from etils import epath
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import cache, split_names
from simclr_jax.data.progress import Progress
from simclr_jax.data.source import MAX_CLASSES, NO_LABEL, Example, Source
from simclr_jax.data.sources import arrays_layout, slices

_VERSION = 1  # Raise when the fingerprint is computed differently.
_HASHED = 64 << 20  # bytes at a time


@dataclasses.dataclass(frozen=True)
class _Pictures:
  """Images of a split; a copy for another process reads the file again.

  Attributes:
    place: Where the images are.
    stamp: `cache.stamp` of the file when it was opened first.
    part: Rows of the array.
    labels: int64 [n] of the part.
  """

  place: arrays_layout.Place
  stamp: tuple[int, ...]
  part: range
  labels: np.ndarray

  @functools.cached_property
  def images(self) -> np.ndarray:
    """uint8 [n, H, W, 3], or [n, H, W] or [n, H, W, 1], of the whole array."""
    if cache.stamp(os.stat(self.place.path)) != self.stamp:
      raise ValueError(
        f'{self.place.path} has changed since this run opened it; start again'
      )
    return arrays_layout.load(self.place)

  def __getstate__(self) -> dict[str, object]:
    return {k: v for k, v in self.__dict__.items() if k != 'images'}

  def read(self, i: int) -> Example:
    """Example i; from any thread."""
    image = self.images[self.part[i]]
    if image.ndim == 2:
      image = image[..., None]
    if image.shape[-1] == 1:
      image = np.repeat(image, 3, axis=-1)
    return Example(np.asarray(image), int(self.labels[i]))

  def label(self, i: int) -> int:
    """Label of example i."""
    return int(self.labels[i])

  def example_id(self, i: int) -> str:
    """File, key and row."""
    name = os.path.basename(self.place.path)
    key = f' {self.place.key}' if self.place.key else ''
    return f'{name}{key} row {self.part[i]}'


def make(
  data: config_lib.DataConfig,
  split: str,
  *,
  workdir: epath.PathLike | None = None,
) -> Source:
  """Source of a split of arrays, or of a part such as 'train[:80%]'.

  Args:
    data: Reads `path` and, because a class may be missing from a held-out
      split, `train_split`; `label_key` '' ignores labels.
    split: See the top of this file.
    workdir: Where the fingerprint of a large array is kept.

  Raises:
    ValueError: If a file or split is missing or damaged, or arrays are of the
      wrong type, shape or length.
  """
  splits = check_split(data, split)
  name = split.split('[')[0].strip()
  place = splits[name].images
  images = _check_images(arrays_layout.load(place), place)
  labels = _read_labels(splits[name], data=data, count=len(images))
  _, part = slices.parse(split, {name: len(images)})
  num_classes = _count_classes(splits, data=data, name=name, labels=labels)
  labels = labels[part.start : part.stop]
  if (labels == NO_LABEL).all():
    num_classes = 0
  stamp = cache.stamp(os.stat(place.path))
  pictures = _Pictures(place, stamp, part, labels)
  # Spares reading it a second time in this process.
  pictures.__dict__['images'] = images
  return Source(
    name=os.path.join(data.path, split),
    num_examples=len(part),
    num_classes=num_classes,
    encoded=False,
    read=pictures.read,
    example_id=pictures.example_id,
    fingerprint=_fingerprint(pictures, num_classes, cache.folder(workdir)),
    label_fn=pictures.label,
  )


def check_split(
  data: config_lib.DataConfig, split: str
) -> dict[str, arrays_layout.Split]:
  """All splits; raises ValueError where there is no such split."""
  splits = arrays_layout.find_splits(data.path)
  name = split.split('[')[0].strip()
  if name not in splits:
    advice = split_names.advice(data, split, splits)
    raise ValueError(
      f'split {name!r} is not in {data.path}; it has '
      f"{', '.join(splits)}, and parts such as 'train[:80%]'"
      + (f'; {advice}' if advice else '')
    )
  return splits


def _check_images(images: np.ndarray, place: arrays_layout.Place) -> np.ndarray:
  found = (
    f'{arrays_layout.describe(place)} is {images.dtype} {list(images.shape)}'
  )
  if images.dtype != np.uint8:
    scale = ''
    if images.dtype == np.uint16:
      scale = (
        '; of 16 bits keep the upper 8 of those in use, the same for all '
        'images: (x >> int(x.max()).bit_length() - 8).astype(np.uint8)'
      )
    if images.dtype.kind == 'f':
      scale = (
        '; floats in [0, 1] become it by np.rint(255 * x).astype(np.uint8)'
      )
    raise ValueError(f'{found}; images must be uint8, 0 to 255{scale}')
  shape = images.shape
  if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
    raise ValueError(
      f'{found}: channels come first (NCHW); write '
      'images.transpose(0, 2, 3, 1), which is [n, H, W, 3]'
    )
  if not (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))):
    raise ValueError(
      f'{found}; images must be [n, H, W, 3], or [n, H, W] for grey'
    )
  if not images.size:
    raise ValueError(f'{found}: it is empty')
  return images


def _read_labels(
  split: arrays_layout.Split, *, data: config_lib.DataConfig, count: int
) -> np.ndarray:
  """int64 [count], NO_LABEL where there are none."""
  if split.labels is None or not data.label_key:
    return np.full(count, NO_LABEL, np.int64)
  labels = arrays_layout.load(split.labels)
  place = arrays_layout.describe(split.labels)
  found = f'{place} is {labels.dtype} {list(labels.shape)}'
  if labels.dtype.kind not in 'iu':
    raise ValueError(f'{found}; labels must be integers from 0 (-1 for none)')
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  if labels.shape != (count,):
    raise ValueError(f'{found}; there are {count} images, one label for each')
  labels = np.asarray(labels, np.int64)
  if labels.min() < NO_LABEL:
    raise ValueError(
      f'{found} and holds {labels.min()}; labels must be integers from 0 (-1 '
      'for none)'
    )
  return labels


def _count_classes(
  splits: dict[str, arrays_layout.Split],
  *,
  data: config_lib.DataConfig,
  name: str,
  labels: np.ndarray,
) -> int:
  """Of this and the training split; what is held out does not change that."""
  largest = int(labels.max())
  key = data.train_split.split('[')[0].strip()
  place = splits[key].labels if key in splits and key != name else None
  if place and data.label_key:
    found = arrays_layout.load(place)
    if found.size and found.dtype.kind in 'iu':
      largest = max(largest, int(found.max()))
  if largest >= MAX_CLASSES:
    raise ValueError(
      f'{data.path} has the label {largest}; labels number the classes from 0, '
      f"and there are at most {MAX_CLASSES:,}: config.data.label_key='' leaves "
      'them out'
    )
  return largest + 1


def _fingerprint(
  pictures: _Pictures, num_classes: int, folder: pathlib.Path
) -> str:
  """Hash of images, labels and their order.

  Kept for files that do not change: hashing reads all of a large array.
  """
  images = pictures.images
  parts = (
    _VERSION,
    os.path.abspath(pictures.place.path),
    pictures.place.key,
    pictures.stamp,
    pictures.part,
  )
  key = hashlib.sha256(os.fsencode(repr(parts))).hexdigest()[:32]
  path = folder / f'arrays_{key}.npz'
  kept = cache.load(path)
  if kept is None:
    digest = hashlib.sha256(f'{images.shape[1:]}'.encode())
    start, stop = pictures.part.start, pictures.part.stop
    step = max(_HASHED * len(images) // images.nbytes, 1)
    progress = Progress('Fingerprint of', stop - start)
    for low in range(start, stop, step):
      block = images[low : min(low + step, stop)]
      digest.update(np.ascontiguousarray(block).tobytes())
      progress.add(len(block))
    kept = {'digest': np.frombuffer(digest.digest(), np.uint8)}
    if images.nbytes > _HASHED:
      cache.save(path, kept)
  of_labels = hashlib.sha256(f'{num_classes}'.encode())
  of_labels.update(kept['digest'].tobytes() + pictures.labels.tobytes())
  return of_labels.hexdigest()
