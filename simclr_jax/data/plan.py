"""Which examples one host's stream holds, and the numbers that go with each.

A plan is arithmetic on positions: no pixels, no TensorFlow, no state. Whatever
reads and decodes (`stream.py` with tf.data, `opencv_stream.py` without) follows
it, so batches are the same whoever makes them. Batch k of a plan holds its
local positions [k * rows, (k + 1) * rows) from `local.start` on.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import boxes, draws, order
from simclr_jax.data.source import Source


@dataclasses.dataclass(frozen=True)
class Plan:
  """One host's share of a stream of examples.

  Attributes:
    local: Local positions, in order.
    rows: Examples in a batch of this host; the last batch may be shorter.
    locate: Local positions int64 [k] -> example indices int64 [k].
    decide: (local positions [k], image sizes int [k, 2]) -> array [k, ...]: the
      draws of `draws.draw_views` for training, int32 boxes [k, 4] for
      evaluation.
  """

  local: range
  rows: int
  locate: Callable[[np.ndarray], np.ndarray]
  decide: Callable[[np.ndarray, np.ndarray], np.ndarray]


def train_plan(
  source: Source,
  *,
  augment: config_lib.AugmentConfig,
  image_size: int,
  batch_size: int,
  seed: int,
  num_views: int = 2,
  start_step: int = 0,
  num_steps: int | None = None,
  host_index: int = 0,
  num_hosts: int = 1,
) -> Plan:
  """Endless (or `num_steps`) shuffled epochs, from any step on.

  Step s holds the global positions [s * batch_size, (s+1) * batch_size) of the
  shuffled epochs, this host rows [host_index * b, (host_index + 1) * b) of
  them, b = batch_size / num_hosts.

  Args:
    source: Training images.
    augment: What is drawn.
    image_size: Side of the views in pixels; only to check `augment`.
    batch_size: Global batch, in images.
    seed: Of order and augmentation.
    num_views: Views of each image.
    start_step: First step.
    num_steps: Number of steps; None for no end.
    host_index: This host, in [0, num_hosts).
    num_hosts: Hosts that share the global batch.

  Raises:
    ValueError: If the batch does not divide over the hosts or a number is out
      of range.
  """
  rows = rows_per_host(
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
  draws.check_augment(augment, image_size=image_size, num_views=num_views)

  def find(local: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    steps, here = np.divmod(local, rows)
    positions = steps * batch_size + host_index * rows + here
    epochs, indices = order.locate(seed, positions, n=source.num_examples)
    return steps, epochs, indices

  def decide(local: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    steps, epochs, indices = find(local)
    return draws.draw_views(
      augment,
      order.example_words(seed, epochs, index=indices),
      batch_words=order.batch_words(seed, steps),
      sizes=sizes,
      num_views=num_views,
    )

  stop = 2**62 // batch_size if num_steps is None else start_step + num_steps
  return Plan(
    local=range(start_step * rows, stop * rows),
    rows=rows,
    locate=lambda local: find(local)[2],
    decide=decide,
  )


def eval_plan(
  source: Source,
  *,
  eval_config: config_lib.EvalConfig,
  image_size: int,
  host_index: int = 0,
  num_hosts: int = 1,
) -> Plan:
  """Every example once, in the order of the source.

  Global batch i holds examples [i * B, (i+1) * B), B = eval_config.batch_size,
  this host its share as in `train_plan`. Only the last global batch is short;
  this host may have none of it.

  Raises:
    ValueError: If the batch does not divide over the hosts or a number is out
      of range.
  """
  batch_size = eval_config.batch_size
  rows = rows_per_host(
    'config.eval.batch_size',
    batch_size,
    host_index=host_index,
    num_hosts=num_hosts,
  )

  def locate(local: np.ndarray) -> np.ndarray:
    batches, here = np.divmod(local, rows)
    return batches * batch_size + host_index * rows + here

  def decide(local: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    del local
    return boxes.eval_boxes(
      sizes, crop_fraction=eval_config.crop_fraction, image_size=image_size
    )

  full, rest = divmod(source.num_examples, batch_size)
  mine = min(max(rest - host_index * rows, 0), rows)
  return Plan(
    local=range(full * rows + mine), rows=rows, locate=locate, decide=decide
  )


def rows_per_host(
  field: str, batch_size: int, *, host_index: int, num_hosts: int
) -> int:
  """batch_size / num_hosts.

  Raises:
    ValueError: If it is no whole number, or there is no such host.
  """
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
