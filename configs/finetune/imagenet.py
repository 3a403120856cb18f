r"""Fine-tuning on ImageNet with 1 %, 10 % or all of its labels.

Papers: Chen et al. 2020, "Big Self-Supervised Models are Strong Semi-Supervised
Learners" (v2, arXiv:2006.10029); "A Simple Framework for Contrastive Learning
of Visual Representations" (v1, arXiv:2002.05709). Code: google-research/simclr.

  python -m simclr_jax.finetune --checkpoint=runs/imagenet_v2 \
    --workdir=runs/v2_1 --config=configs/finetune/imagenet.py:v2_1

Presets, and top-1 published for ResNet-50 after 800 (v2) or 1000 epochs (v1) of
pretraining (not measured here):

  v2_1     (default) 1 % of the labels: 57.9 (2x SK: 70.6, 152 3x SK: 74.9)
  v2_10    10 %: 68.4 (77.0, 80.1)
  v2_100   all: 76.3 (81.3, 83.1)
  v1_1     1 %: top-5 75.5 (2x: 83.0, 4x: 85.8)
  v1_10    10 %
  v1_100   all

v2: LARS, 0.005 * sqrt(1024), batch 1024, no decay, no warm-up, classifier at
zero, 60 epochs for 1 %, else 30; from the first layer of the projection head
for 1 and 10 %, from h with all labels. The command for 1 % is that of the
official README; the epochs and layers of the others are the paper's. v1:
Nesterov momentum 0.9, 0.05 * B / 256, batch 4096, no decay, no warm-up, from h,
60 epochs for 1 %, 30 for 10 % (paper). v1_100 has no source of its own: the
recipe for 10 % on all labels. Crops and flips alone in all of them, every label
is trained on, the last step counts.

1 and 10 % are TFDS `imagenet2012_subset/1pct` and `/10pct`, the official
choice; --config.data.name=imagenet2012 --config.labels.fraction=0.01 is a
stratified one of one's own. With fewer devices lower train.batch_size: the rate
follows (by its square root in v2). The v1 checkpoints that the authors
published have no projection head: for them --config.head_layer=0.
"""

from __future__ import annotations

import dataclasses

import ml_collections

from simclr_jax import config as config_lib
from simclr_jax.finetuning import config as finetune_lib

V2 = finetune_lib.FinetuneConfig()
V1 = finetune_lib.FinetuneConfig(
  optim=config_lib.OptimConfig(
    name='sgd',
    nesterov=True,
    base_lr=0.05,
    lr_scaling='linear',
    warmup='0 epochs',
    weight_decay=0.0,
  ),
  train=dataclasses.replace(V2.train, batch_size=4096),
)


def _recipe(
  recipe: finetune_lib.FinetuneConfig, *, name: str, epochs: int, layer: int
) -> finetune_lib.FinetuneConfig:
  return dataclasses.replace(
    recipe,
    head_layer=layer,
    data=finetune_lib.DataChanges(
      source='tfds', name=name, train_split='train', test_split='validation'
    ),
    train=dataclasses.replace(recipe.train, duration=f'{epochs} epochs'),
  )


_ONE, _TEN = 'imagenet2012_subset/1pct', 'imagenet2012_subset/10pct'
PRESETS = {
  'v2_1': _recipe(V2, name=_ONE, epochs=60, layer=1),
  'v2_10': _recipe(V2, name=_TEN, epochs=30, layer=1),
  'v2_100': _recipe(V2, name='imagenet2012', epochs=30, layer=0),
  'v1_1': _recipe(V1, name=_ONE, epochs=60, layer=0),
  'v1_10': _recipe(V1, name=_TEN, epochs=30, layer=0),
  'v1_100': _recipe(V1, name='imagenet2012', epochs=30, layer=0),
}


def get_config(preset: str = 'v2_1') -> ml_collections.ConfigDict:
  """The recipe called `preset`."""
  return config_lib.find_preset(PRESETS, preset)
