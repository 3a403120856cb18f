"""Combinations that are known to end badly, each with its reason.

A config that cannot run is refused elsewhere (`config_checks`, `resolve`); what
is found here runs, and is likely not what was meant. Figures are of the sources
named in configs/ and README.md: Chen et al. 2020 ('the paper', v1) and its
code, and the recipes of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses

from simclr_jax import config as config_lib
from simclr_jax import resolve
from simclr_jax.planning.topology import Topology

# Views up to this side are CIFAR's kind: other stem, strengths, temperature.
_SMALL_VIEWS = 32
_HOUR = 3600.0


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known of the run besides its config.

  Attributes:
    resolved: Its derived numbers.
    topology: What it runs on.
    step_seconds: Least time of a step; None where no peak is published.
    bound: What bounds it, see `estimate.Roofline`.
    input_rate: Pairs of views a second that this machine makes; None if not
      measured.
    num_test: Examples of the test split; 0 if not known.
  """

  resolved: resolve.Resolved
  topology: Topology
  step_seconds: float | None = None
  bound: str | None = None
  input_rate: float | None = None
  num_test: int = 0


@dataclasses.dataclass(frozen=True)
class Advice:
  """One warning.

  Attributes:
    rule: Short name.
    field: The config field, with its value, that it is about.
    text: What goes wrong, and what to do instead.
  """

  rule: str
  field: str
  text: str


# A rule gives (field, text) for everything that it finds.
_Found = Iterator[tuple[str, str]]
_Rule = Callable[[config_lib.Config, Facts], _Found]
_RULES: dict[str, _Rule] = {}


def _rule(function: _Rule) -> _Rule:
  _RULES[function.__name__.removeprefix('_')] = function
  return function


def find(config: config_lib.Config, facts: Facts) -> list[Advice]:
  """All warnings, in the order of this file."""
  return [
    Advice(
      rule=name, field=f'config.{field} = {_value(config, field)!r}', text=t
    )
    for name, function in _RULES.items()
    for field, t in function(config, facts)
  ]


def rules() -> tuple[str, ...]:
  """Names of all rules."""
  return tuple(_RULES)


def _value(config: config_lib.Config, field: str) -> object:
  value: object = config
  for part in field.split('.'):
    value = getattr(value, part)
  return value


@_rule
def _large_batch_without_lars(
  config: config_lib.Config, facts: Facts
) -> _Found:
  if config.optim.name != 'lars' and config.train.batch_size > 1024:
    yield (
      'optim.name',
      f'at batch {config.train.batch_size} a learning rate scaled up for '
      "momentum or Adam is unstable (the paper's reason for LARS); every "
      "published recipe above 1024 uses 'lars'",
    )


@_rule
def _learning_rate(config: config_lib.Config, facts: Facts) -> _Found:
  peak = facts.resolved.peak_lr
  if config.optim.name == 'lars' and not 0.5 <= peak <= 10:
    yield (
      'optim.base_lr',
      f'the peak learning rate is {peak:g}; with LARS published runs peak '
      'between 1 (batch 256, linear) and 6.4 (v2), ImageNet at 4.8',
    )
  if config.optim.name == 'sgd' and peak > 1:
    yield (
      'optim.base_lr',
      f'the peak learning rate is {peak:g}; published runs with SGD peak '
      'between 0.06 and 0.24 (batch 512). Rates of the LARS recipes are not '
      'for SGD',
    )
  if config.optim.name in ('adam', 'adamw') and peak > 0.01:
    yield (
      'optim.base_lr',
      f'the peak learning rate is {peak:g}; Adam moves every weight by about '
      'that much in each step, and rates of LARS or SGD diverge with it',
    )


@_rule
def _unscaled_learning_rate(config: config_lib.Config, facts: Facts) -> _Found:
  large = config.train.batch_size > 512
  if config.optim.lr_scaling == 'none' and large:
    yield (
      'optim.lr_scaling',
      f'the learning rate does not follow the batch of '
      f'{config.train.batch_size}: a base rate found at another batch is wrong '
      "here; 'linear' or 'sqrt' are what recipes assume",
    )


@_rule
def _loss_scale(config: config_lib.Config, facts: Facts) -> _Found:
  if config.optim.name == 'sgd' and config.loss.scale == 'official':
    yield (
      'loss.scale',
      'the official loss is exactly twice the mean over 2B that the published '
      "SGD recipes' learning rates assume; 'paper' is theirs",
    )
  if config.optim.name == 'lars' and config.loss.scale == 'paper':
    yield (
      'loss.scale',
      'LARS itself is indifferent to the scale, but batch norm, biases and the '
      'online head step without its ratio, and the official rates assume '
      "'official', which is twice as large",
    )


@_rule
def _temperature(config: config_lib.Config, facts: Facts) -> _Found:
  small = config.data.image_size <= _SMALL_VIEWS
  low, high, usual = (0.1, 0.7, '0.5') if small else (0.05, 0.3, '0.1')
  if not low <= config.loss.temperature <= high:
    yield (
      'loss.temperature',
      f'published runs use {usual} at this size ({low:g} to {high:g} among '
      'all); far below only the nearest negative counts, far above all count '
      'alike, and either costs several points in the paper',
    )


@_rule
def _unnormalized(config: config_lib.Config, facts: Facts) -> _Found:
  if not config.loss.normalize:
    yield (
      'loss.normalize',
      'dot products grow with the norms of z, so the temperature means nothing '
      'fixed; in the paper the contrastive accuracy rises and the linear one '
      'falls',
    )


@_rule
def _few_negatives(config: config_lib.Config, facts: Facts) -> _Found:
  if config.train.batch_size < 256:
    yield (
      'train.batch_size',
      f'{facts.resolved.negatives_per_anchor} negatives for each view: below '
      'a batch of 256 the paper loses several points, the more the shorter the '
      'run; train.micro_batches makes large batches fit',
    )


@_rule
def _warmup(config: config_lib.Config, facts: Facts) -> _Found:
  resolved = facts.resolved
  if resolved.warmup_steps > 0.2 * resolved.total_steps:
    share = resolved.warmup_steps / resolved.total_steps
    yield (
      'optim.warmup',
      f'{share:.0%} of the run is warm-up; published runs use 1 to 10 %',
    )
  large = config.train.batch_size >= 1024
  if resolved.warmup_steps == 0 and config.optim.name == 'lars' and large:
    yield (
      'optim.warmup',
      'LARS at a large batch starts with a warm-up in every published run (10 '
      'epochs); without it the first steps can destroy the initialisation',
    )


@_rule
def _no_colour(config: config_lib.Config, facts: Facts) -> _Found:
  augment = config.augment
  strengths = (augment.brightness, augment.contrast, augment.saturation)
  off = augment.jitter_prob * augment.jitter_strength * max(strengths) == 0
  if off:
    yield (
      'augment.jitter_prob'
      if not augment.jitter_prob
      else 'augment.jitter_strength',
      'without colour jitter two crops of a picture are matched by their '
      'colours: the loss falls and the features stay bad '
      '(docs/results/color_shortcut.json)',
    )


@_rule
def _no_crops(config: config_lib.Config, facts: Facts) -> _Found:
  augment = config.augment
  if augment.crop_sampler == 'none' or augment.crop_area[0] > 0.5:
    field = 'crop_sampler' if augment.crop_sampler == 'none' else 'crop_area'
    yield (
      f'augment.{field}',
      'two views show nearly the same part of a picture; random crops (from '
      '8 % of the area on) together with colour jitter are what the paper '
      'finds essential',
    )


@_rule
def _blur(config: config_lib.Config, facts: Facts) -> _Found:
  small = config.data.image_size <= _SMALL_VIEWS
  if not small and config.augment.blur_prob == 0:
    yield (
      'augment.blur_prob',
      'the published ImageNet runs blur half of all views; without it the '
      'paper loses a point (its appendix on augmentation)',
    )
  if small and config.augment.blur_prob > 0:
    yield (
      'augment.blur_prob',
      'the official CIFAR-10 recipe does not blur: at 32 px little is left to '
      'see',
    )


@_rule
def _colour_strength(config: config_lib.Config, facts: Facts) -> _Found:
  augment = config.augment
  strength = augment.jitter_strength * augment.brightness
  if config.data.image_size <= _SMALL_VIEWS and strength > 0.41:
    yield (
      'augment.jitter_strength',
      f'brightness {strength:g}: the CIFAR-10 recipes use half of the ImageNet '
      'strength (0.4; hue 0.1)',
    )


@_rule
def _head(config: config_lib.Config, facts: Facts) -> _Found:
  model = config.model
  if model.head != 'nonlinear' or model.head_layers == 0:
    yield (
      'model.head',
      'h is then trained to forget what augmentation changes: in the paper a '
      'nonlinear head is 3 points better than a linear one and more than 10 '
      'better than none',
    )


@_rule
def _stem(config: config_lib.Config, facts: Facts) -> _Found:
  size = config.data.image_size
  cifar = config.model.stem == 'cifar' or (
    config.model.stem == 'auto' and size <= _SMALL_VIEWS
  )
  if not cifar and size < 96:
    yield (
      'data.image_size',
      f'the ImageNet stem leaves {-(-size // 32)} x {-(-size // 32)} positions '
      f"of {size} px for the last blocks; model.stem='cifar' keeps them",
    )


@_rule
def _float32(config: config_lib.Config, facts: Facts) -> _Found:
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


@_rule
def _online_head(config: config_lib.Config, facts: Facts) -> _Found:
  if facts.resolved.num_classes and not config.monitor.online_head:
    yield (
      'monitor.online_head',
      'the data have labels, and without the online head (and kNN) nothing '
      'tells a run that learns from one that found a shortcut until it is '
      'over; it costs next to nothing and does not touch the encoder',
    )


@_rule
def _knn_cost(config: config_lib.Config, facts: Facts) -> _Found:
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


@_rule
def _slow_input(config: config_lib.Config, facts: Facts) -> _Found:
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


@_rule
def _checkpoint_period(config: config_lib.Config, facts: Facts) -> _Found:
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


@_rule
def _starved_chips(config: config_lib.Config, facts: Facts) -> _Found:
  if facts.step_seconds and facts.step_seconds < 3e-3:
    yield (
      'train.batch_size',
      f'{facts.resolved.per_device_batch} images for each device: the least '
      f'time of a step is {1e3 * facts.step_seconds:.1f} ms, and the latency '
      'of some hundred all-reduces of batch norm and of dispatch, which no '
      'roofline knows, will be longer; fewer chips or a larger batch',
    )


@_rule
def _links(config: config_lib.Config, facts: Facts) -> _Found:
  if facts.bound == 'links':
    yield (
      'train.batch_size',
      'what crosses the links bounds the step: a larger batch for each device '
      'gives the gradients more work to hide behind',
    )
