"""Batches of views for training, of images for evaluation.

`plan.py` says which examples they hold and how these are cropped and changed;
`config.data.loader` says who reads and computes: tf.data (`stream.py`) or
OpenCV (`opencv_stream.py`). Nothing has state: a batch is a function of (seed,
step, host_index, num_hosts), and the global batch, read across the hosts, does
not depend on their number.
"""

from __future__ import annotations

from collections.abc import Iterator
import importlib.util
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import opencv_stream, stream
from simclr_jax.data import plan as plan_lib
from simclr_jax.data.source import NO_LABEL, Batch, Source


class Loader(NamedTuple):
  """Who makes batches.

  Attributes:
    module: Has view_stream, crop_stream and eval_stream.
    packages: What it imports that may be missing, with the name to install.
  """

  module: Any
  packages: dict[str, str]


# By `config.data.loader`.
LOADERS = {
  'tf': Loader(stream, {'tensorflow': 'tensorflow-cpu'}),
  'opencv': Loader(
    opencv_stream,
    {'cv2': 'opencv-python-headless', 'cloudpickle': 'cloudpickle'},
  ),
}


def train_batches(
  source: Source,
  *,
  data: config_lib.DataConfig,
  augment: config_lib.AugmentConfig,
  batch_size: int,
  seed: int,
  num_views: int = 2,
  **share: Any,
) -> Iterator[Batch]:
  """Endless (or `num_steps`) batches of augmented views, from any step on.

  Args:
    source: Training images.
    data: Reads `loader`, `image_size`, `num_workers`, `prefetch_batches`.
    augment: How views are made.
    batch_size: Global batch, in images.
    seed: Of order and augmentation.
    num_views: Views of each image.
    **share: start_step, num_steps, host_index, num_hosts of `plan.train_plan`.

  Returns:
    Iterator of {'views': float32 [b, V, H, W, 3] in [0, 1], 'label': int32 [b]
    (-1: none), 'index': int64 [b], place in the source}. Arrays may be
    read-only.

  Raises:
    ValueError: If the batch does not divide over the hosts, a number is out of
      range or the loader's packages are missing; at once, not at the first
      batch. While iterating: if an example cannot be read or decoded, with its
      name.
  """
  plan = plan_lib.train_plan(
    source,
    augment=augment,
    image_size=data.image_size,
    batch_size=batch_size,
    seed=seed,
    num_views=num_views,
    **share,
  )
  module = _find_loader(data.loader)
  return module.view_stream(
    source, plan, data=data, augment=augment, num_views=num_views
  )


def crop_batches(
  source: Source,
  *,
  data: config_lib.DataConfig,
  augment: config_lib.AugmentConfig,
  batch_size: int,
  seed: int,
  num_views: int = 2,
  **share: Any,
) -> Iterator[Batch]:
  """As `train_batches`, cropped and resized alone, for `augment_on='hybrid'`.

  Returns:
    Iterator of {'crops': uint8 [b, V, H, W, 3], 'draws': float32 [b, V, 17] of
    `draws.COLUMNS`, 'label', 'index'}: crops limited to [0, 255] and rounded,
    neither flipped nor changed in colour.
  """
  plan = plan_lib.train_plan(
    source,
    augment=augment,
    image_size=data.image_size,
    batch_size=batch_size,
    seed=seed,
    num_views=num_views,
    **share,
  )
  module = _find_loader(data.loader)
  return module.crop_stream(
    source, plan, data=data, augment=augment, num_views=num_views
  )


def eval_batches(
  source: Source,
  *,
  data: config_lib.DataConfig,
  eval_config: config_lib.EvalConfig,
  host_index: int = 0,
  num_hosts: int = 1,
) -> Iterator[Batch]:
  """Every example once, in the order of the source, without augmentation.

  The last batch is padded, also to nothing but padding, so that all hosts yield
  equally many batches.

  Args:
    source: Images.
    data: Reads `loader`, `image_size`, `num_workers`, `prefetch_batches`.
    eval_config: Preprocessing and global batch.
    host_index: This host, in [0, num_hosts).
    num_hosts: Hosts that share the batch.

  Returns:
    Iterator of {'image': float32 [b, H, W, 3] in [0, 1], 'label': int32 [b]
    (-1: none), 'index': int64 [b], 'mask': bool [b]}. Where the mask is False
    the row is padding: image 0, label -1, index -1.

  Raises:
    ValueError: As `train_batches`.
  """
  plan = plan_lib.eval_plan(
    source,
    eval_config=eval_config,
    image_size=data.image_size,
    host_index=host_index,
    num_hosts=num_hosts,
  )
  module = _find_loader(data.loader)
  real = module.eval_stream(source, plan, data=data, eval_config=eval_config)
  side = data.image_size
  nothing: Batch = {
    'image': np.zeros((0, side, side, 3), np.float32),
    'label': np.zeros(0, np.int32),
    'index': np.zeros(0, np.int64),
  }
  num_batches = -(-source.num_examples // eval_config.batch_size)
  return (_pad(next(real, nothing), plan.rows) for _ in range(num_batches))


def _find_loader(name: str) -> Any:
  """Module of `config.data.loader`.

  Raises:
    ValueError: If what it needs is not installed.
  """
  loader = LOADERS[name]
  missing = [
    package
    for module, package in loader.packages.items()
    if importlib.util.find_spec(module) is None
  ]
  if missing:
    (other,) = LOADERS.keys() - {name}
    raise ValueError(
      f'config.data.loader = {name!r} needs packages that are not installed: '
      f'pip install {" ".join(missing)}; or set data.loader={other!r}, which '
      'gives the same batches without them'
    )
  return loader.module


def _pad(batch: Batch, rows: int) -> Batch:
  """Adds the mask, and padding up to `rows`."""
  count = len(batch['index'])
  fill = {'image': 0, 'label': NO_LABEL, 'index': -1}
  padded = {}
  for name, values in batch.items():
    width = [(0, rows - count)] + [(0, 0)] * (values.ndim - 1)
    padded[name] = (
      np.pad(values, width, constant_values=fill[name])
      if count < rows
      else values
    )
  return {**padded, 'mask': np.arange(rows) < count}
