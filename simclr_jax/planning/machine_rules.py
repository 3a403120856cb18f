"""Rules about the recipe on its machines: what it costs and waits for."""

from __future__ import annotations

from simclr_jax import config as config_lib
from simclr_jax.planning.rule import Facts, Found, Rule

_HOUR = 3600.0


def _float32(config: config_lib.Config, facts: Facts) -> Found:
  on_accelerator = facts.topology.platform in ('tpu', 'gpu')
  if on_accelerator and config.model.compute_dtype == 'float32':
    yield (
      'model.compute_dtype',
      "'bfloat16' halves the activations in memory and its traffic, which "
      'bounds the step; statistics, sums, loss and parameters stay float32 '
      '(docs/performance.md, Precision)',
    )
  if on_accelerator and config.train.matmul_precision == 'highest':
    yield (
      'train.matmul_precision',
      'convolutions take six passes instead of one on a TPU, and no tensor '
      'cores on a GPU: for tests, not for runs',
    )


def _online_head(config: config_lib.Config, facts: Facts) -> Found:
  if facts.resolved.num_classes and not config.monitor.online_head:
    yield (
      'monitor.online_head',
      'the data have labels, and without the online head (and kNN) nothing '
      'tells a run that learns from one that found a shortcut until it is '
      'over; it costs next to nothing and does not touch the encoder',
    )


def _knn_cost(config: config_lib.Config, facts: Facts) -> Found:
  resolved = facts.resolved
  every = resolved.knn_every_steps
  if not every:
    return
  # Forward passes: a step has two views and a backward pass twice as long.
  bank = min(config.monitor.knn_max_bank, resolved.num_examples)
  per_evaluation = bank + facts.num_test
  share = per_evaluation / (every * config.train.batch_size * 6)
  if share > 0.1:
    yield (
      'monitor.knn_every',
      f'each evaluation encodes {per_evaluation:,} images: about '
      f'{share:.0%} on top of training; rarer, or a smaller '
      'monitor.knn_max_bank',
    )


def _slow_input(config: config_lib.Config, facts: Facts) -> Found:
  if facts.input_rate is None or not facts.step_seconds:
    return
  needed = facts.resolved.per_host_batch / facts.step_seconds
  if facts.input_rate < needed:
    where = (
      'This machine'
      if facts.topology.text == 'local'
      else 'A host like this machine'
    )
    yield (
      'data.augment_on',
      f'{where} makes {facts.input_rate:,.0f} pairs of views a second, and '
      f'each host would be asked for up to {needed:,.0f}: the chips would '
      "wait. 'hybrid' leaves most of the work to them, 'device' all of it for "
      'data that fit; more cores help',
    )


def _checkpoint_period(config: config_lib.Config, facts: Facts) -> Found:
  if not facts.step_seconds:
    return
  between = facts.resolved.checkpoint_every_steps * facts.step_seconds
  if between > _HOUR:
    yield (
      'checkpoint.every',
      f'at least {between / _HOUR:.1f} h between checkpoints: a spot or '
      'preemptible machine may be gone before the first, and a machine that '
      'dies (no signal, no save) loses all since the last',
    )
  if between < 30 and facts.resolved.checkpoint_every_steps < (
    facts.resolved.total_steps
  ):
    yield (
      'checkpoint.every',
      f'a checkpoint every {between:.0f} s if a step takes its least time: '
      'saving may take longer than that',
    )


def _starved_chips(config: config_lib.Config, facts: Facts) -> Found:
  if facts.step_seconds and facts.step_seconds < 3e-3:
    yield (
      'train.batch_size',
      f'{facts.resolved.per_device_batch} images for each device: the least '
      f'time of a step is {1e3 * facts.step_seconds:.1f} ms, and the latency '
      'of some hundred all-reduces of batch norm and of dispatch, which no '
      'roofline knows, will be longer; fewer chips or a larger batch',
    )


def _links(config: config_lib.Config, facts: Facts) -> Found:
  if facts.bound == 'links':
    yield (
      'train.batch_size',
      'what crosses the links bounds the step: a larger batch for each device '
      'gives the gradients more work to hide behind',
    )


# In the order in which they are said.
RULES: dict[str, Rule] = {
  'float32': _float32,
  'online_head': _online_head,
  'knn_cost': _knn_cost,
  'slow_input': _slow_input,
  'checkpoint_period': _checkpoint_period,
  'starved_chips': _starved_chips,
  'links': _links,
}
