"""Batches of views for training, of images for evaluation, with tf.data.

`order.py` says which example stands at which position; here the positions of
this host are read, decoded once, augmented and batched in parallel. Nothing has
state: a batch is a function of (seed, step, host_index, num_hosts), and the
global batch, read across the hosts, does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import order, stream, views
from simclr_jax.data.lazy_tf import tf
from simclr_jax.data.source import NO_LABEL, Source


def train_batches(
  source: Source,
  *,
  data: config_lib.DataConfig,
  augment: config_lib.AugmentConfig,
  batch_size: int,
  seed: int,
  num_views: int = 2,
  start_step: int = 0,
  num_steps: int | None = None,
  host_index: int = 0,
  num_hosts: int = 1,
) -> Iterator[stream.Batch]:
  """Endless (or `num_steps`) batches of augmented views, from any step on.

  Step s holds the global positions [s * batch_size, (s+1) * batch_size) of the
  shuffled epochs, this host rows [host_index * b, (host_index + 1) * b) of
  them, b = batch_size / num_hosts.

  Args:
    source: Training images.
    data: Reads `image_size`, `num_workers`, `prefetch_batches`.
    augment: How views are made.
    batch_size: Global batch, in images.
    seed: Of order and augmentation.
    num_views: Views of each image.
    start_step: First step.
    num_steps: Number of steps; None for no end.
    host_index: This host, in [0, num_hosts).
    num_hosts: Hosts that share the global batch.

  Returns:
    Iterator of {'views': float32 [b, V, H, W, 3] in [0, 1], 'label': int32 [b]
    (-1: none), 'index': int64 [b], place in the source}. Arrays may be
    read-only.

  Raises:
    ValueError: If the batch does not divide over the hosts or a number is out
      of range; at once, not at the first batch. While iterating: if an example
      cannot be read or decoded, with its name.
  """
  rows = _rows_per_host(
    'config.train.batch_size',
    batch_size,
    host_index=host_index,
    num_hosts=num_hosts,
  )
  if source.num_examples < 1 or start_step < 0:
    raise ValueError(
      f'{source.name} has {source.num_examples} examples and start_step is '
      f'{start_step}; need at least 1 and 0'
    )
  view_fn = views.make_view_fn(
    augment, image_size=data.image_size, num_views=num_views
  )

  def locate(local: np.ndarray) -> tuple[np.ndarray, ...]:
    """Local positions [k] -> indices [k], words and batch words [k, 2]."""
    steps, here = np.divmod(local, rows)
    positions = steps * batch_size + host_index * rows + here
    epochs, indices = order.locate(seed, positions, n=source.num_examples)
    words = order.example_words(seed, epochs, index=indices)
    return indices, words, order.batch_words(seed, steps)

  def to_row(image: Any, label: Any, index: Any, words: Any, batch: Any) -> Any:
    made = view_fn(image, words, batch)
    side = data.image_size
    made = tf.ensure_shape(made, [num_views, side, side, 3])
    return {'views': made, 'label': label, 'index': index}

  stop = 2**62 // batch_size if num_steps is None else start_step + num_steps
  local = range(start_step * rows, stop * rows)
  return stream.make_stream(
    source, locate, to_row=to_row, data=data, local=local, rows=rows
  )


def eval_batches(
  source: Source,
  *,
  data: config_lib.DataConfig,
  eval_config: config_lib.EvalConfig,
  host_index: int = 0,
  num_hosts: int = 1,
) -> Iterator[stream.Batch]:
  """Every example once, in the order of the source, without augmentation.

  Global batch i holds examples [i * B, (i+1) * B), B = eval_config.batch_size,
  this host its share as in `train_batches`. The last batch is padded, also to
  nothing but padding, so that all hosts yield equally many batches.

  Args:
    source: Images.
    data: Reads `image_size`, `num_workers`, `prefetch_batches`.
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
  batch_size, n = eval_config.batch_size, source.num_examples
  rows = _rows_per_host(
    'config.eval.batch_size',
    batch_size,
    host_index=host_index,
    num_hosts=num_hosts,
  )
  eval_fn = views.make_eval_fn(eval_config, image_size=data.image_size)

  def locate(local: np.ndarray) -> tuple[np.ndarray, ...]:
    batches, here = np.divmod(local, rows)
    return (batches * batch_size + host_index * rows + here,)

  side = data.image_size

  def to_row(image: Any, label: Any, index: Any) -> Any:
    made = tf.ensure_shape(eval_fn(image), [side, side, 3])
    return {'image': made, 'label': label, 'index': index}

  # Only the last global batch is short; this host may have none of it.
  full, rest = divmod(n, batch_size)
  local = range(full * rows + min(max(rest - host_index * rows, 0), rows))
  real = stream.make_stream(
    source, locate, to_row=to_row, data=data, local=local, rows=rows
  )
  nothing: stream.Batch = {
    'image': np.zeros((0, side, side, 3), np.float32),
    'label': np.zeros(0, np.int32),
    'index': np.zeros(0, np.int64),
  }
  num_batches = full + (rest > 0)
  return (_pad(next(real, nothing), rows) for _ in range(num_batches))


def _rows_per_host(
  field: str, batch_size: int, *, host_index: int, num_hosts: int
) -> int:
  if batch_size < 1 or num_hosts < 1 or not 0 <= host_index < num_hosts:
    raise ValueError(
      f'{field} = {batch_size} and host {host_index} of {num_hosts}: need a '
      'batch of at least 1 and a host in [0, number of hosts)'
    )
  if batch_size % num_hosts:
    near = max(round(batch_size / num_hosts), 1) * num_hosts
    raise ValueError(
      f'{field} = {batch_size} does not divide over {num_hosts} hosts; the '
      f'nearest multiple is {near}'
    )
  return batch_size // num_hosts


def _pad(batch: stream.Batch, rows: int) -> stream.Batch:
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
