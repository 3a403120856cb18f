"""What makes a config impossible, each problem with what is allowed instead.

`simclr_jax.config` calls `find_problems`; a rule is one line below. This file
knows nothing of devices and data: rules that need them are in
`simclr_jax.resolve`.
"""

from __future__ import annotations

from collections.abc import Sequence
import difflib
import math
from typing import TYPE_CHECKING, Any

from simclr_jax import durations

if TYPE_CHECKING:
  from simclr_jax.config import Config

DATA_SOURCES = (
  'tfds',
  'folder',
  'parquet',
  'arrays',
  'digits',
  'procedural',
)
PATH_SOURCES = {
  'folder': 'a folder of pictures',
  'parquet': 'a folder of Parquet files',
  'arrays': 'an .npz file or a folder of arrays',
}
OBJECTIVES = ('simclr',)  # Keys of simclr_jax.objectives.OBJECTIVES.
COUPLING_OBJECTIVES = ('simclr',)  # Those with Objective.couples_batch.
LOSS_IMPLEMENTATIONS = ('auto', 'plain', 'chunked', 'ring')
BEST_METRICS = ('knn_top1', 'online_top1', 'loss', 'holdout_top1')
BACKBONE_DEPTHS = (18, 34, 50, 101, 152, 200)
PARAM_ROLES = ('batch_norm', 'bias', 'online_head')
# Beyond these a slip of the keyboard would be answered by the operating system,
# after it has killed the process for want of memory.
MAX_SIDE = 8192  # pixels of a view
MAX_UNITS = 2**20  # of a layer
MAX_RANDAUGMENT_LAYERS = 16
MAX_RANDAUGMENT_MAGNITUDE = 30  # data/randaugment.py:MAX_MAGNITUDE
MAX_INT = 2**31 - 1  # What counts on devices holds.
_MAX_SHOWN = 200  # characters of a value in a message


class Checker:
  """Collects problems; each names field, value and what is allowed.

  Attributes:
    config: What is checked.
    unreadable: Fields (and sections, with a dot at their end) that came with
      the wrong type and hold their default: nothing can be said about them.
    problems: What was found.
  """

  def __init__(self, config: Any, unreadable: Sequence[str] = ()):
    self.config = config
    self.unreadable = tuple(unreadable)
    self.problems: list[str] = []

  def get(self, path: str) -> Any:
    """Value of the field at a dotted path."""
    value: Any = self.config
    for part in path.split('.'):
      value = getattr(value, part)
    return value

  def fail(self, path: str, allowed: str, *, given: Sequence[str] = ()) -> None:
    """Reports `path`, unless it or a field of `given` could not be read.

    Args:
      path: The field at fault.
      allowed: What it may be, and what would go wrong.
      given: The other fields on whose values the verdict rests.
    """
    readable = not any(
      p == u or (u.endswith('.') or not u) and p.startswith(u)
      for p in (path, *given)
      for u in self.unreadable
    )
    if readable:
      value = show(self.get(path))
      self.problems.append(f'config.{path} = {value}: {allowed}')

  def one_of(self, path: str, *allowed: Any) -> None:
    """The value is one of these."""
    value = self.get(path)
    if value not in allowed:
      close = difflib.get_close_matches(
        str(value), [str(a) for a in allowed], 1
      )
      hint = f' (did you mean {close[0]!r}?)' if close else ''
      self.fail(path, f'must be one of {", ".join(map(repr, allowed))}{hint}')

  def within(self, path: str, low: float, high: float = math.inf) -> None:
    """low <= value <= high; NaN, infinity, int above MAX_INT never pass."""
    value = self.get(path)
    if isinstance(value, int):
      high = min(high, MAX_INT)
    if not (low <= value <= high) or math.isinf(value):
      upper = '' if math.isinf(high) else f' and at most {high:g}'
      self.fail(path, f'must be at least {low:g}{upper} and finite')

  def positive(self, path: str) -> None:
    """0 < value, and finite."""
    value = self.get(path)
    if not 0 < value < math.inf:
      self.fail(path, 'must be above 0 and finite')

  def ordered(self, path: str, low: float, high: float = math.inf) -> None:
    """Two values, low <= first <= second <= high."""
    first, second = self.get(path)
    if not low <= first <= second <= high or math.isinf(second):
      bounds = f'{low:g} <= low <= high' + (
        '' if math.isinf(high) else f' <= {high:g}'
      )
      self.fail(path, f'must be (low, high) with {bounds}')

  def grid(
    self, path: str, *, low: float = -math.inf, above: float = -math.inf
  ) -> None:
    """One value or more, each finite, >= low and > above."""
    values = self.get(path)
    if not values or not all(low <= v > above and v < math.inf for v in values):
      bound = f'above {above:g}' if math.isinf(low) else f'at least {low:g}'
      self.fail(path, f'needs one value or more, each {bound} and finite')

  def duration(self, path: str, *, zero: bool, share: bool = False) -> None:
    """A duration, longer than 0 unless `zero`; '10 %' if `share`."""
    try:
      value = durations.parse(self.get(path), share=share)
    except ValueError as error:
      self.fail(path, str(error))
      return
    if not zero and value.amount <= 0:
      self.fail(path, 'must be longer than 0')


def find_problems(
  config: Config, *, unreadable: Sequence[str] = ()
) -> list[str]:
  """Every impossible value or combination, one sentence each.

  Args:
    config: What to check.
    unreadable: Paths of fields that only hold a default because what was given
      had the wrong type; nothing is said about them.
  """
  check = Checker(config, unreadable)
  _check_data(check)
  _check_augment(check)
  _check_model(check)
  _check_training(check)
  _check_evaluation(check)
  return check.problems


def show(value: Any) -> str:
  """`repr`, cut where it is long: a message is read by a person."""
  try:
    text = repr(value)
  except ValueError:  # Python writes no integer of more than 4300 digits.
    return 'a number of thousands of digits'
  if len(text) <= _MAX_SHOWN:
    return text
  return f'{text[:_MAX_SHOWN]}... ({len(text)} characters)'


def _check_data(check: Checker) -> None:
  data = check.config.data
  check.one_of('data.source', *DATA_SOURCES)
  check.one_of('data.labels_from', 'none', 'folders')
  check.within('data.image_size', 4, MAX_SIDE)
  check.one_of('data.loader', 'tf', 'opencv')
  check.one_of('data.augment_on', 'host', 'hybrid', 'device')
  check.one_of('data.device_cache', 'auto', 'replicated', 'sharded')
  check.within('data.canvas_size', 0, MAX_SIDE)
  check.within('data.bits', 8, 16)
  check.within('data.max_bad_fraction', 0, 1)
  check.within('data.num_workers', 0, 1024)
  check.within('data.prefetch_batches', 1, 1024)
  if data.source == 'tfds' and not data.name:
    check.fail(
      'data.name',
      "source 'tfds' needs the name of a data set",
      given=['data.source'],
    )
  if data.source in PATH_SOURCES and not data.path:
    check.fail(
      'data.path',
      f'source {data.source!r} needs the path of {PATH_SOURCES[data.source]}',
      given=['data.source'],
    )
  _check_unread_data_fields(check)
  if data.source != 'folder' and not data.train_split:
    check.fail(
      'data.train_split',
      "only source 'folder' may leave it empty",
      given=['data.source'],
    )
  if data.test_split and data.test_split == data.train_split:
    check.fail(
      'data.test_split',
      'is the training split, so probe and kNN would be judged on images they '
      "were fitted to; name a held-out split, or '' for none",
      given=['data.train_split'],
    )


def _check_unread_data_fields(check: Checker) -> None:
  """A field that the source does not read would name data that nobody uses."""
  data = check.config.data
  if data.augment_on != 'device' and data.canvas_size > 0:
    check.fail(
      'data.canvas_size',
      "is read by data.augment_on='device' only: elsewhere images are cropped "
      'at their own size; leave it 0',
      given=['data.augment_on'],
    )
  if data.source not in DATA_SOURCES:
    return
  # A source may be named after itself.
  if data.source != 'tfds' and data.name not in ('', data.source):
    check.fail(
      'data.name',
      f"is read by source 'tfds' only, and data.source is {data.source!r}: set "
      "data.source='tfds' or leave the name empty",
      given=['data.source'],
    )
  if data.path and data.source not in PATH_SOURCES:
    check.fail(
      'data.path',
      f'is read by the sources {", ".join(map(repr, PATH_SOURCES))} only, and '
      f'data.source is {data.source!r}: set it to one of them (as '
      'configs/folder.py does) or leave the path empty',
      given=['data.source'],
    )
  if data.labels_from == 'folders' and data.source != 'folder':
    check.fail(
      'data.labels_from',
      f"is read by source 'folder' only, and data.source is {data.source!r}, "
      'whose labels are its own',
      given=['data.source'],
    )


def _check_augment(check: Checker) -> None:
  check.one_of('augment.crop_sampler', 'official', 'torchvision', 'none')
  check.one_of('augment.resize', 'bicubic', 'bilinear')
  check.one_of('augment.jitter_order', 'random', 'fixed')
  check.one_of('augment.brightness_mode', 'multiplicative', 'additive')
  check.one_of('augment.color_ops', 'official', 'torchvision', 'affine')
  check.one_of('augment.blur_sigma_per', 'image', 'batch')
  for name in ('flip', 'jitter', 'gray', 'blur', 'solarize'):
    check.within(f'augment.{name}_prob', 0, 1)
  for name in ('jitter_strength', 'brightness', 'contrast', 'saturation'):
    check.within(f'augment.{name}', 0)
  check.within('augment.hue', 0)
  augment = check.config.augment
  if augment.hue * augment.jitter_strength > 0.5:
    check.fail(
      'augment.hue',
      'times jitter_strength must be at most 0.5 turns',
      given=['augment.jitter_strength'],
    )
  check.within('augment.solarize_threshold', 0, 1)
  check.ordered('augment.crop_area', 0, 1)
  check.ordered('augment.crop_aspect', 1e-3)
  check.ordered('augment.blur_sigma', 1e-3)
  check.within('augment.randaugment_layers', 0, MAX_RANDAUGMENT_LAYERS)
  check.within('augment.randaugment_magnitude', 0, MAX_RANDAUGMENT_MAGNITUDE)
  if augment.randaugment_layers > 0 and check.config.data.augment_on != 'host':
    check.fail(
      'augment.randaugment_layers',
      "RandAugment is made on the host: set data.augment_on='host', or 0 "
      'layers',
      given=['data.augment_on'],
    )


def _check_model(check: Checker) -> None:
  model = check.config.model
  check.one_of('model.depth', *BACKBONE_DEPTHS)
  check.within('model.width', 1e-3, 100)
  check.within('model.sk_ratio', 0, 1)
  check.within('model.se_ratio', 0, 1)
  if model.sk_ratio > 0 and model.se_ratio > 0:
    check.fail(
      'model.se_ratio',
      'SK and SE exclude each other; set one to 0',
      given=['model.sk_ratio'],
    )
  if model.sk_ratio > 0 and model.padding == 'torch':
    check.fail(
      'model.padding',
      "SK networks have no torchvision form; use 'official'",
      given=['model.sk_ratio'],
    )
  check.one_of('model.stem', 'auto', 'cifar', 'imagenet')
  check.one_of('model.padding', 'official', 'torch')
  check.one_of('model.shortcut', 'group', 'shape')
  check.within('model.bn_decay', 0, 1)
  check.positive('model.bn_epsilon')
  check.one_of('model.head', 'nonlinear', 'linear', 'none')
  check.within('model.head_layers', 0, 4)
  check.within('model.head_hidden', 0, MAX_UNITS)
  check.within('model.head_dim', 1, MAX_UNITS)
  check.one_of('model.head_norm', 'batch', 'none')
  check.within('model.classifier_layer', 0, 4)
  num_layers = {'none': 0, 'linear': 1}.get(model.head, model.head_layers)
  if num_layers < model.classifier_layer <= 4:
    check.fail(
      'model.classifier_layer',
      f'the projection head has {num_layers} layers; at most that, 0 is h',
      given=['model.head', 'model.head_layers'],
    )
  check.one_of('model.compute_dtype', 'float32', 'bfloat16')
  check.one_of('model.batch_norm', 'folded', 'plain')
  check.one_of('model.remat', 'none', 'norms', 'blocks')


def _check_training(check: Checker) -> None:
  config = check.config
  check.within('seed', 0, 2**31 - 1)
  check.one_of('objective', *OBJECTIVES)
  check.positive('loss.temperature')
  check.one_of('loss.scale', 'official', 'paper')
  check.one_of('loss.implementation', *LOSS_IMPLEMENTATIONS)
  _check_loss_chunks(check)
  check.one_of('optim.name', 'lars', 'sgd', 'adam', 'adamw')
  check.positive('optim.base_lr')
  check.one_of('optim.lr_scaling', 'linear', 'sqrt', 'none')
  check.one_of('optim.schedule', 'cosine', 'constant', 'step')
  check.duration('optim.warmup', zero=True, share=True)
  milestones = config.optim.step_milestones
  if list(milestones) != sorted(m for m in milestones if 0 < m < 1):
    check.fail('optim.step_milestones', 'must rise and lie between 0 and 1')
  check.positive('optim.step_gamma')
  check.within('optim.weight_decay', 0)
  for name in ('decay_exclude', 'adapt_exclude'):
    if not set(check.get(f'optim.{name}')) <= set(PARAM_ROLES):
      check.fail(f'optim.{name}', f'may only hold {", ".join(PARAM_ROLES)}')
  for name in ('momentum', 'adam_b1', 'adam_b2'):
    # At 1 the average never moves, and Adam divides by 1 - b2^t = 0.
    check.within(f'optim.{name}', 0, 1 - 1e-9)
  check.positive('optim.trust_coefficient')
  check.positive('optim.adam_eps')
  check.within('optim.clip_grad_norm', 0)
  check.within('train.batch_size', 2)
  check.duration('train.duration', zero=False)
  check.duration('train.log_every', zero=False)
  check.duration('train.diagnostics_every', zero=True)
  check.within('train.profile_start', -1)
  check.within('train.profile_steps', 1)
  check.one_of('train.matmul_precision', 'default', 'highest')
  check.one_of('train.state_sharding', 'replicated', 'fsdp')
  _check_accumulation(check)
  check.one_of('train.on_non_finite', 'stop', 'skip')
  check.within('train.max_skipped_steps', 1)
  check.duration('checkpoint.every', zero=False)
  check.within('checkpoint.keep_latest', 1)
  check.within('checkpoint.keep_best', 0)
  check.within('checkpoint.max_failed_saves', 0)
  check.one_of('checkpoint.best_metric', *BEST_METRICS)
  _check_online_lr(check)
  check.duration('monitor.knn_every', zero=True)
  check.within('monitor.knn_max_bank', 1)
  _check_best_metric(check)


def _check_online_lr(check: Checker) -> None:
  text = check.config.monitor.online_lr
  if text == 'recipe':
    return
  try:
    rate = float(text)
  except ValueError:
    rate = math.nan
  if not 0 < rate < math.inf:
    check.fail('monitor.online_lr', "must be 'recipe' or a number above 0")


def _check_accumulation(check: Checker) -> None:
  train, objective = check.config.train, check.config.objective
  check.within('train.micro_batches', 1)
  check.one_of('train.accumulation', 'exact', 'plain')
  if train.accumulation == 'plain' and objective in COUPLING_OBJECTIVES:
    check.fail(
      'train.accumulation',
      f'the objective {objective!r} compares the examples of a batch, so the '
      'mean of the losses of its parts is another loss (with fewer negatives); '
      "use 'exact'",
      given=['objective'],
    )
  if train.micro_batches > 0 and train.batch_size % train.micro_batches:
    check.fail(
      'train.micro_batches',
      f'does not divide train.batch_size = {train.batch_size}',
      given=['train.batch_size'],
    )


def _check_loss_chunks(check: Checker) -> None:
  chunk_size = check.config.loss.chunk_size
  if chunk_size < 0 or chunk_size == 1:
    check.fail(
      'loss.chunk_size',
      'must be at least 2, the two views of an image, or 0, which chooses',
    )
  if chunk_size > 0 and check.config.loss.implementation == 'plain':
    check.fail(
      'loss.chunk_size',
      "is read by 'chunked' and 'ring', and loss.implementation is 'plain', "
      'which holds all logits at once: leave it 0 or change that',
      given=['loss.implementation'],
    )


def _check_best_metric(check: Checker) -> None:
  """The metric that picks the best checkpoint must be measured."""
  config = check.config
  try:
    never_knn = durations.parse(config.monitor.knn_every).amount == 0
  except ValueError:
    return  # Reported by the check of monitor.knn_every.
  if not never_knn and not config.data.test_split:
    check.fail(
      'monitor.knn_every',
      "needs data.test_split: kNN is judged on held-out images; '0 steps' is "
      'never',
      given=['data.test_split'],
    )
  if config.checkpoint.keep_best <= 0:
    return
  metric = config.checkpoint.best_metric
  if metric == 'knn_top1' and never_knn:
    check.fail(
      'checkpoint.best_metric',
      'needs monitor.knn_every above 0, else no checkpoint would have it',
      given=['monitor.knn_every', 'checkpoint.keep_best'],
    )
  if metric == 'online_top1' and not config.monitor.online_head:
    check.fail(
      'checkpoint.best_metric',
      'needs monitor.online_head=True, else no checkpoint would have it',
      given=['monitor.online_head', 'checkpoint.keep_best'],
    )


def _check_evaluation(check: Checker) -> None:
  check.within('eval.batch_size', 1)
  check.within('eval.crop_fraction', 1e-3, 1)
  check.one_of('eval.resize', 'bicubic', 'bilinear')
  check.one_of('probe.mode', 'features', 'official')
  check.within('probe.batch_size', 1)
  check.within('probe.epochs', 1)
  check.within('probe.num_seeds', 1)
  check.within('probe.holdout_fraction', 0, 0.9)
  check.within('probe.labels_per_class', 0)
  check.within('probe.num_bootstrap', 1)
  check.grid('probe.base_lrs', above=0)
  check.grid('probe.weight_decays', low=0)
  check.grid('knn.ks', low=1)
  check.grid('knn.temperatures', above=0)
  check.within('knn.chunk_size', 1)
  check.one_of('knn.layer', 'h', 'z')
  check.within('knn.num_bootstrap', 1)
