"""Scikit-learn's bundled digits: 1797 real 8 x 8 scans, no download.

Grey levels 0..16 become 0..255 in three equal channels. Every fifth image of
each class, in the order in which scikit-learn stores them, is the test split
(355 images), the rest is the train split (1442 images): stratified, and the
same for ever. The scans of a writer may stand in both splits, so a test
accuracy here says how well the digits are separated, not how it carries to new
hands.
"""

from __future__ import annotations

import functools
import hashlib
from typing import NamedTuple

from etils import epath
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data.source import Example, Source
from simclr_jax.data.sources import slices

_TEST_EVERY = 5


class _Split(NamedTuple):
  images: np.ndarray  # uint8 [n, 8, 8, 3]
  labels: np.ndarray  # int64 [n]
  rows: np.ndarray  # int64 [n], place in scikit-learn's data set


def make(
  data: config_lib.DataConfig,
  split: str,
  *,
  workdir: epath.PathLike | None = None,
) -> Source:
  """Source of the digits; `split` is 'train', 'test' or a part of one.

  Args:
    data: Not read: nothing about this data set can be chosen.
    split: E.g. 'train', 'test', 'train[:100]'.
    workdir: Not used.

  Raises:
    ValueError: If the split is unknown or empty.
  """
  del data, workdir
  splits = _load()
  name, chosen = slices.parse(
    split, {name: len(part.labels) for name, part in splits.items()}
  )
  part = slice(chosen.start, chosen.stop)
  images, labels, rows = (array[part] for array in splits[name])
  digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
  return Source(
    name=f'digits/{split}',
    num_examples=len(labels),
    num_classes=10,
    encoded=False,
    read=lambda i: Example(images[i], int(labels[i])),
    example_id=lambda i: f'digits row {rows[i]}',
    fingerprint=digest,
    class_names=tuple(str(digit) for digit in range(10)),
    label_fn=lambda i: int(labels[i]),
  )


@functools.cache
def _load() -> dict[str, _Split]:
  # Takes a second to import, which only this source should cost.
  from sklearn import datasets

  bunch = datasets.load_digits()
  grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
  images = np.repeat(grey[..., None], 3, axis=-1)
  images.flags.writeable = False
  labels = bunch.target.astype(np.int64)
  in_test = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    in_test[np.flatnonzero(labels == label)[_TEST_EVERY - 1 :: _TEST_EVERY]] = (
      True
    )
  parts = {'train': np.flatnonzero(~in_test), 'test': np.flatnonzero(in_test)}
  return {
    name: _Split(images[rows], labels[rows], rows)
    for name, rows in parts.items()
  }
