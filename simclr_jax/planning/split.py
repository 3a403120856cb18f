"""How many examples a training split has, also where it is not at hand."""

from __future__ import annotations

import os
from typing import NamedTuple

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data.source import Source
from simclr_jax.data.sources import slices
from simclr_jax.planning import program


class Published(NamedTuple):
  """A data set as its page says it is.

  Attributes:
    sizes: Examples of each split.
    num_classes: Of its labels.
    picture: (width, height) of a typical picture, pixels.
  """

  sizes: dict[str, int]
  num_classes: int
  picture: tuple[int, int]


_IMAGENET = {'validation': 50_000}
# By name in TFDS; tensorflow.org/datasets/catalog/imagenet2012,
# /imagenet2012_subset, /cifar10, /cifar100, /stl10. Pictures of ImageNet have
# many sizes; 500 x 375 is the commonest.
PUBLISHED = {
  'imagenet2012': Published(
    {'train': 1_281_167, **_IMAGENET}, 1000, (500, 375)
  ),
  'imagenet2012_subset/1pct': Published(
    {'train': 12_811, **_IMAGENET}, 1000, (500, 375)
  ),
  'imagenet2012_subset/10pct': Published(
    {'train': 128_116, **_IMAGENET}, 1000, (500, 375)
  ),
  'cifar10': Published({'train': 50_000, 'test': 10_000}, 10, (32, 32)),
  'cifar100': Published({'train': 50_000, 'test': 10_000}, 100, (32, 32)),
  'stl10': Published(
    {'train': 5_000, 'test': 8_000, 'unlabelled': 100_000}, 10, (96, 96)
  ),
}


class Split(NamedTuple):
  """What a plan knows of the training images.

  Attributes:
    num_examples, num_classes: Of the split.
    origin: Where the numbers come from, for people.
    source: The images, if they are here.
  """

  num_examples: int
  num_classes: int
  origin: str
  source: Source | None


def find(
  config: config_lib.Config, *, num_examples: int = 0, num_classes: int = -1
) -> Split:
  """The training split: as given, as it lies here, or as published.

  Args:
    config: Reads `data`.
    num_examples: Given by the user; 0 if not.
    num_classes: Given by the user; below 0 if not.

  Raises:
    ValueError: If nobody knows.
  """
  published = PUBLISHED.get(config.data.name.partition(':')[0])
  if num_examples:
    known = published.num_classes if published else 0
    classes = num_classes if num_classes >= 0 else known
    return Split(num_examples, classes, 'as given', None)
  if config.data.source != 'tfds' or _is_prepared(config.data):
    source = _open(config)
    return Split(source.num_examples, source.num_classes, source.name, source)
  if published is None:
    raise ValueError(
      f'config.data.name = {config.data.name!r} is not prepared here '
      '(--config.data.data_dir names another place) and its size is not in '
      'simclr_jax/planning/split.py: give --num_examples, and --num_classes if '
      'it has labels'
    )
  _, chosen = slices.parse(config.data.train_split, published.sizes)
  classes = num_classes if num_classes >= 0 else published.num_classes
  origin = f'published size of {config.data.name}, which is not here'
  return Split(len(chosen), classes, origin, None)


def stand_in(split: Split) -> Source:
  """The source, or what stands for it where only its size counts."""
  return split.source or program.absent_source(
    num_examples=split.num_examples, num_classes=split.num_classes
  )


def _open(config: config_lib.Config) -> Source:
  try:
    source = data.make_source(config.data, config.data.train_split)
  except ValueError as error:
    raise ValueError(
      f'{error}\n(a plan needs no data: --num_examples, and --num_classes if '
      'there are labels, say all that it must know)'
    ) from error
  data.check_held_out(config.data)
  return source


def _is_prepared(section: config_lib.DataConfig) -> bool:
  """Whether TFDS would look into a folder that exists (or is remote)."""
  root = (
    section.data_dir
    or os.environ.get('TFDS_DATA_DIR')
    or '~/tensorflow_datasets'
  )
  if '://' in root:
    return True
  name = section.name.partition(':')[0].partition('/')[0]
  return os.path.isdir(os.path.join(os.path.expanduser(root), name))
