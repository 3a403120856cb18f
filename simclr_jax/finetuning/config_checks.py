"""What makes a config of fine-tuning or distillation impossible.

What it shares with pretraining (`optim`, `train`) is judged by
`simclr_jax.config_checks`, on a pretraining config that has these sections.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import TYPE_CHECKING, Any

from simclr_jax import config as config_lib
from simclr_jax import config_checks
from simclr_jax.config_checks import Checker

if TYPE_CHECKING:
  from simclr_jax.finetuning.config import DistillConfig, FinetuneConfig

_SHARED = ('optim', 'train')


def find_finetune_problems(
  config: FinetuneConfig, *, unreadable: Sequence[str] = ()
) -> list[str]:
  """Every impossible value or combination, one sentence each."""
  check = Checker(config, unreadable)
  _check_stage(check)
  check.within('head_layer', 0, 4)
  check.one_of('classifier_init', 'zeros', 'normal')
  check.within('label_smoothing', 0, 1 - 1e-9)
  _check_labels(check)
  _check_patience(
    check,
    has_holdout=config.labels.holdout_fraction > 0,
    holdout_field='labels.holdout_fraction',
  )
  return check.problems + _shared_problems(config, unreadable)


def find_distill_problems(
  config: DistillConfig, *, unreadable: Sequence[str] = ()
) -> list[str]:
  """As `find_finetune_problems`."""
  check = Checker(config, unreadable)
  _check_stage(check)
  check.positive('temperature')
  check.within('labelled_weight', 0, 1 - 1e-9)
  student = config.student
  if student.depth:
    check.one_of('student.depth', 0, *config_checks.BACKBONE_DEPTHS)
  if student.width:
    check.within('student.width', 1e-3, 100)
  for name in ('sk_ratio', 'se_ratio'):
    if getattr(student, name) != -1:
      check.within(f'student.{name}', 0, 1)
  for name in ('mixup_alpha', 'cutmix_alpha'):
    if getattr(config.augment, name) > 0:
      check.fail(
        f'augment.{name}',
        'distillation mixes no pictures: the teacher was not trained to judge '
        'mixtures; leave it 0',
      )
  _check_patience(
    check, has_holdout=config.use_holdout, holdout_field='use_holdout'
  )
  return check.problems + _shared_problems(config, unreadable)


def _check_stage(check: Checker) -> None:
  check.within('seed', 0, 2**31 - 1)
  check.duration('evaluate_every', zero=False)
  check.duration('checkpoint_every', zero=False)
  check.within('patience', 0)
  check.within('keep_latest', 1)
  check.within('num_bootstrap', 1)
  data = check.config.data
  if data.image_size:
    check.within('data.image_size', 4, config_checks.MAX_SIDE)
  if data.bits:
    check.within('data.bits', 8, 16)
  check.within('data.num_workers', -1, 1024)
  for name, allowed in (
    ('source', config_checks.DATA_SOURCES),
    ('loader', ('tf', 'opencv')),
    ('augment_on', ('host', 'hybrid', 'device')),
    ('labels_from', ('none', 'folders')),
  ):
    if getattr(data, name):
      check.one_of(f'data.{name}', *allowed)
  _check_augment(check)


def _check_augment(check: Checker) -> None:
  augment = check.config.augment
  if augment.crop_area != (0.0, 0.0):
    check.ordered('augment.crop_area', 0, 1)
  if augment.flip_prob != -1:
    check.within('augment.flip_prob', 0, 1)
  check.within(
    'augment.randaugment_layers', 0, config_checks.MAX_RANDAUGMENT_LAYERS
  )
  check.within(
    'augment.randaugment_magnitude', 0, config_checks.MAX_RANDAUGMENT_MAGNITUDE
  )
  check.within('augment.mixup_alpha', 0, 1000)
  check.within('augment.cutmix_alpha', 0, 1000)
  check.within('augment.mix_prob', 0, 1)


def _check_labels(check: Checker) -> None:
  labels = check.config.labels
  if not 0 < labels.fraction <= 1:
    check.fail('labels.fraction', 'must be above 0 and at most 1')
  check.within('labels.per_class', 0)
  check.within('labels.seed', 0, 2**31 - 1)
  check.within('labels.holdout_fraction', 0, 0.9)
  if labels.per_class > 0 and labels.fraction != 1:
    check.fail(
      'labels.per_class',
      'and labels.fraction both choose; set labels.fraction=1 or '
      'labels.per_class=0',
      given=['labels.fraction'],
    )


def _check_patience(
  check: Checker, *, has_holdout: bool, holdout_field: str
) -> None:
  if check.config.patience > 0 and not has_holdout:
    check.fail(
      'patience',
      f'needs {holdout_field}: there is nothing to judge by but labels that '
      'are trained on, and never the test split; 0 is never',
      given=[holdout_field],
    )


def _shared_problems(config: Any, unreadable: Sequence[str]) -> list[str]:
  """Of `optim` and `train`."""
  # Its objective is none of these: what is said of it has to be said here.
  train, is_plain = config.train, config.train.accumulation == 'plain'
  if is_plain:
    train = dataclasses.replace(train, accumulation='exact')
  stand_in = dataclasses.replace(
    config_lib.Config(),
    data=config_lib.DataConfig(source='digits'),
    optim=config.optim,
    train=train,
  )
  problems = [
    problem
    for problem in config_checks.find_problems(stand_in, unreadable=unreadable)
    if problem.startswith(tuple(f'config.{name}.' for name in _SHARED))
  ]
  if is_plain:
    problems.append(
      "config.train.accumulation = 'plain': the parts of a batch would count "
      "alike however many labels each of them has; use 'exact', the loss of "
      'the whole batch'
    )
  if (
    config.train.diagnostics_every != '0 steps'
    and 'train.diagnostics_every' not in unreadable
  ):
    problems.append(
      'config.train.diagnostics_every = '
      f'{config_checks.show(config.train.diagnostics_every)}: compares the '
      "views of an image, of which there is one here; leave it '0 steps'"
    )
  return problems
