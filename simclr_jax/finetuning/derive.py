"""From a passport's config and a stage's to the config that trains (pure)."""

from __future__ import annotations

import dataclasses
from typing import Any

from simclr_jax import config as config_lib
from simclr_jax import section_flags
from simclr_jax.finetuning.config import (
  AugmentChanges,
  DataChanges,
  DistillConfig,
  FinetuneConfig,
  StageConfig,
)

HOLDOUT_METRIC = 'holdout_top1'
_UNSET: tuple[Any, ...] = ('', 0, -1)


def finetune_config(
  base: config_lib.Config, stage: FinetuneConfig
) -> config_lib.Config:
  """The config of a fine-tuning run.

  Args:
    base: Of the encoder's passport.
    stage: Of the fine-tuning.

  Raises:
    ValueError: Listing what does not fit together.
  """
  _check_head(base.model, stage.head_layer)
  model = dataclasses.replace(base.model, classifier_layer=stage.head_layer)
  holdout = stage.labels.holdout_fraction > 0
  return _derive(base, stage, model=model, has_holdout=holdout)


def distill_config(
  teacher: config_lib.Config, stage: DistillConfig
) -> config_lib.Config:
  """The config of a student; see `finetune_config`."""
  given = {
    name: value
    for name, value in config_lib.to_dict(stage.student).items()
    if value not in _UNSET or (value == 0 and name in ('sk_ratio', 'se_ratio'))
  }
  model = dataclasses.replace(
    teacher.model, head='none', classifier_layer=0, **given
  )
  return _derive(teacher, stage, model=model, has_holdout=stage.use_holdout)


def _check_head(model: config_lib.ModelConfig, layer: int) -> None:
  """Refuses a layer that the projection head lacks."""
  layers = {'none': 0, 'linear': 1}.get(model.head, model.head_layers)
  if layer <= layers:
    return
  has = f'{layers} layer{"s" if layers > 1 else ""}; at most that, 0 reads h'
  if not layers:
    has = 'none (as an imported backbone); 0 reads h'
  raise ValueError(
    f'config.head_layer = {layer}: the projection head of the checkpoint has '
    f'{has}'
  )


def holds_out(config: config_lib.Config) -> bool:
  """Whether a holdout selects the step of a derived config."""
  return config.checkpoint.best_metric == HOLDOUT_METRIC


def _derive(
  base: config_lib.Config,
  stage: StageConfig,
  *,
  model: config_lib.ModelConfig,
  has_holdout: bool,
) -> config_lib.Config:
  checkpoint = config_lib.CheckpointConfig(
    every=stage.evaluate_every if has_holdout else stage.checkpoint_every,
    keep_latest=stage.keep_latest,
  )
  if has_holdout:
    checkpoint = dataclasses.replace(
      checkpoint, keep_best=1, best_metric=HOLDOUT_METRIC
    )
  config = dataclasses.replace(
    base,
    seed=stage.seed,
    data=_data(base.data, stage.data),
    augment=_augment(base.augment, stage.augment),
    model=model,
    optim=stage.optim,
    train=stage.train,
    checkpoint=checkpoint,
    monitor=config_lib.MonitorConfig(),
  )
  config_lib.validate(config)
  return config


def _data(
  base: config_lib.DataConfig, changes: DataChanges
) -> config_lib.DataConfig:
  given = {
    name: value
    for name, value in config_lib.to_dict(changes).items()
    if value not in _UNSET or (name == 'num_workers' and value == 0)
  }
  if given.get('source', base.source) != base.source:
    fresh = config_lib.DataConfig()
    base = dataclasses.replace(
      base,
      canvas_size=0,
      augment_on='host',
      **{name: getattr(fresh, name) for name in section_flags.OF_A_SOURCE},
    )
  if given.get('augment_on', base.augment_on) != 'device':
    # A canvas is of views that the device makes; no stage can change it.
    given['canvas_size'] = 0
  return dataclasses.replace(base, **given)


def _augment(
  base: config_lib.AugmentConfig, changes: AugmentChanges
) -> config_lib.AugmentConfig:
  """The pretraining's crops and flips (official preprocess_for_train)."""
  given: dict[str, Any] = {}
  if changes.crop_area != (0.0, 0.0):
    given['crop_area'] = changes.crop_area
  if changes.flip_prob != -1:
    given['flip_prob'] = changes.flip_prob
  return dataclasses.replace(
    base,
    jitter_prob=0.0,
    gray_prob=0.0,
    blur_prob=0.0,
    solarize_prob=0.0,
    randaugment_layers=changes.randaugment_layers,
    randaugment_magnitude=changes.randaugment_magnitude,
    **given,
  )
