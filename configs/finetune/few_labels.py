r"""Fine-tuning on few labels, for data sets that nobody has published on.

  python -m simclr_jax.finetune --checkpoint=runs/mine --workdir=runs/mine_ft \
    --config=configs/finetune/few_labels.py --config.labels.per_class=10

Presets:

  plain   (default) SimCLR v2's optimizer (LARS, no decay, no warm-up, first
          projection layer kept; Chen et al. 2020, arXiv:2006.10029) at ten
          times its rate, 0.05 * sqrt(B), in batches of 64 for 1000 steps; every
          label is trained on and the last step counts. The rate was chosen on
          a holdout of scikit-learn's digits (0.005, 0.02, 0.05, 0.2 in 400
          steps): v2's is meant for ImageNet. Lower it if the loss rises
          above the logarithm of the number of classes. Start here.
  early   The same for at most 4000 steps; a fifth of the labels chooses the
          step and stops early. Where there are hundreds of labels.
  strong  'plain' with RandAugment(2, 9), mixup 0.2 and label smoothing 0.1
          (Cubuk et al. 2019, Zhang et al. 2018). Not for pictures whose meaning
          a turn or an inverted colour changes.
  smoke   'early' with 40 steps, for tests.

Nothing is published for your data; `--methods=finetune,scratch,frozen` says
whether fine-tuning pays. docs/guides/few_labels.md has a measured example.
"""

from __future__ import annotations

import dataclasses

import ml_collections

from simclr_jax import config as config_lib
from simclr_jax.finetuning import config as finetune_lib

PLAIN = finetune_lib.FinetuneConfig(
  head_layer=1,
  optim=dataclasses.replace(finetune_lib.FinetuneConfig().optim, base_lr=0.05),
  train=config_lib.TrainConfig(
    batch_size=64,
    duration='1000 steps',
    log_every='50 steps',
    diagnostics_every='0 steps',
  ),
  checkpoint_every='500 steps',
)
EARLY = dataclasses.replace(
  PLAIN,
  evaluate_every='100 steps',
  patience=10,
  labels=finetune_lib.LabelsConfig(holdout_fraction=0.2),
  train=dataclasses.replace(PLAIN.train, duration='4000 steps'),
)

PRESETS = {
  'plain': PLAIN,
  'early': EARLY,
  'strong': dataclasses.replace(
    PLAIN,
    label_smoothing=0.1,
    augment=finetune_lib.AugmentChanges(randaugment_layers=2, mixup_alpha=0.2),
  ),
  'smoke': dataclasses.replace(
    EARLY,
    evaluate_every='20 steps',
    train=dataclasses.replace(
      EARLY.train, batch_size=32, duration='40 steps', log_every='10 steps'
    ),
  ),
}


def get_config(preset: str = 'plain') -> ml_collections.ConfigDict:
  """The recipe called `preset`."""
  return config_lib.find_preset(PRESETS, preset)
