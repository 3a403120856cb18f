r"""Distillation of a fine-tuned teacher: SimCLR v2's third step.

  python -m simclr_jax.distill --checkpoint=runs/mine_ft \
    --workdir=runs/student --config=configs/distill/student.py:small \
    --config.student.depth=18

Paper: Chen et al. 2020, "Big Self-Supervised Models are Strong Semi-Supervised
Learners", arXiv:2006.10029, sections 2.3 and 3: all pictures, labels unused;
temperature 1 towards a smaller network, 0.1 for one of the same form; learning
rate, decay and batch of pretraining (LARS, 0.1 * sqrt(B), 1e-4, B = 4096), 400
epochs; crops and flips alone.

Presets:

  small   (default) Recipe of the paper, temperature 1: name the student's
          depth and width on the command line, else it has the teacher's form.
          Published with ResNet-50 as the student of a self-distilled ResNet-152
          3x with SK: 73.9 with 1 % of the labels, 77.5 with 10 % (abstract).
  self    The same at temperature 0.1, a student of the teacher's form.
  cpu     2000 steps of 64 pictures for small data, temperature 1; the labels
          that the teacher held out choose the step, so it needs a teacher with
          a holdout (configs/finetune/few_labels.py:early), or
          --config.use_holdout=False. No published number.

Warm-up: 5 % of the epochs, as in the paper's pretraining (section 3), whose
learning rate schedule it takes for distillation: 20 of 400. No preset has been
measured here.
"""

from __future__ import annotations

import dataclasses

import ml_collections

from simclr_jax import config as config_lib
from simclr_jax.finetuning import config as finetune_lib

SMALL = finetune_lib.DistillConfig(
  optim=config_lib.OptimConfig(
    base_lr=0.1, lr_scaling='sqrt', warmup='20 epochs', weight_decay=1e-4
  ),
  train=config_lib.TrainConfig(
    batch_size=4096, duration='400 epochs', diagnostics_every='0 steps'
  ),
)

PRESETS = {
  'small': SMALL,
  'self': dataclasses.replace(SMALL, temperature=0.1),
  'cpu': dataclasses.replace(
    SMALL,
    use_holdout=True,
    evaluate_every='100 steps',
    optim=dataclasses.replace(SMALL.optim, warmup='100 steps'),
    train=dataclasses.replace(
      SMALL.train, batch_size=64, duration='2000 steps'
    ),
  ),
}


def get_config(preset: str = 'small') -> ml_collections.ConfigDict:
  """The recipe called `preset`."""
  return config_lib.find_preset(PRESETS, preset)
