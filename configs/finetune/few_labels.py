"""Fine-tuning on few labels, for data sets that nobody has published on.

  python -m simclr_jax.finetune --checkpoint=runs/mine --workdir=runs/mine_ft \
    --config=configs/finetune/few_labels.py --config.labels.per_class=10

Presets:

  adaptive   (default) SimCLR v2's optimizer (LARS, no decay, no warm-up, first
             projection layer kept; Chen et al. 2020, arXiv:2006.10029), in
             batches of 64 for 2000 steps; a fifth of the labels chooses the
             step and stops early. Start here.
  strong     The same with RandAugment(2, 9), mixup 0.2 and label smoothing 0.1,
             which help where labels are few and pictures large (Cubuk et al.
             2019, Zhang et al. 2018). Not for pictures whose meaning a turn or
             an inverted colour changes.
  smoke      40 steps, for tests.

Nothing is published for your data; `--methods=finetune,scratch,frozen` says
whether fine-tuning pays. docs/guides/few_labels.md has a measured example.
"""

from __future__ import annotations

import dataclasses

import ml_collections

from simclr_jax import config as config_lib
from simclr_jax.finetuning import config as finetune_lib

ADAPTIVE = finetune_lib.FinetuneConfig(
  head_layer=1,
  evaluate_every='100 steps',
  patience=10,
  labels=finetune_lib.LabelsConfig(holdout_fraction=0.2),
  train=config_lib.TrainConfig(
    batch_size=64,
    duration='2000 steps',
    log_every='50 steps',
    diagnostics_every='0 steps',
  ),
)

PRESETS = {
  'adaptive': ADAPTIVE,
  'strong': dataclasses.replace(
    ADAPTIVE,
    label_smoothing=0.1,
    augment=finetune_lib.AugmentChanges(
      randaugment_layers=2, mixup_alpha=0.2
    ),
  ),
  'smoke': dataclasses.replace(
    ADAPTIVE,
    evaluate_every='20 steps',
    train=dataclasses.replace(
      ADAPTIVE.train, batch_size=32, duration='40 steps', log_every='10 steps'
    ),
  ),
}


def get_config(preset: str = 'adaptive') -> ml_collections.ConfigDict:
  """The recipe called `preset`."""
  return config_lib.find_preset(PRESETS, preset)
