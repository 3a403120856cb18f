"""A source of images: random access to examples by index, no TensorFlow.

Every kind of data set is one function `make(config.data, split, *, workdir)` in
`simclr_jax/data/sources/`. The pipeline decides order, sharding and
augmentation; a source only knows how to read example i.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

NO_LABEL = -1
# More is a column of ids taken for classes: the online head and the probe would
# have a row of weights for each.
MAX_CLASSES = 1_000_000

# Name -> array [b, ...] of one host's share of a batch.
Batch = dict[str, np.ndarray]


class Example(NamedTuple):
  """One example as stored.

  Attributes:
    image: Encoded bytes (JPEG, PNG, BMP, GIF) or uint8 array [H, W, 3].
    label: Class, or NO_LABEL.
  """

  image: bytes | np.ndarray
  label: int


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set split with random access.

  Attributes:
    name: For people, e.g. 'cifar10/train'.
    num_examples: Number of readable examples.
    num_classes: 0 where there are no labels.
    encoded: Whether `read` gives encoded bytes (else uint8 arrays).
    read: Index in [0, num_examples) -> Example; called from many threads.
    example_id: Index -> a name a person can find the example by (a path). The
      same record of the data set has the same name in every split and part of
      one: splits that overlap are found by it.
    fingerprint: Hash that changes when examples, labels or their order do; the
      same for a copy of the data.
    class_names: One per class, or empty.
    skipped: (path, reason) of files that could not be read.
    label_fn: Index -> label, where it is known without reading the image; None
      where it stands in the record beside the image.
    stamp: Changes with any write to the files, for a source whose fingerprint
      is not of the content (TFDS: of names and sizes).
  """

  name: str
  num_examples: int
  num_classes: int
  encoded: bool
  read: Callable[[int], Example]
  example_id: Callable[[int], str]
  fingerprint: str
  class_names: tuple[str, ...] = ()
  skipped: tuple[tuple[str, str], ...] = ()
  label_fn: Callable[[int], int] | None = None
  stamp: str = ''

  @property
  def cache_key(self) -> str:
    """What is computed from the examples may be kept under this name."""
    if not self.stamp:
      return self.fingerprint
    key = f'{self.fingerprint} {self.stamp}'
    return hashlib.sha256(key.encode()).hexdigest()
