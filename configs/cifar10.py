"""SimCLR on CIFAR-10, ResNet-18 with the CIFAR stem: one preset per source.

  python -m simclr_jax.main --config=configs/cifar10.py --workdir=runs/cifar10
  python -m simclr_jax.main --config=configs/cifar10.py:dkobak_100 --workdir=...

Presets, and what their sources report (not measured here):

  official    README of google-research/simclr: LARS, batch 512, 1000 epochs;
              about 91 % linear.
  dkobak      github.com/dkobak/simclr-cifar10, 1000 epochs, one A100 in
              float32 (11.9 s per epoch): kNN 91.4 %, linear 91.7 %.
  dkobak_500  The same, 500 epochs (1 h 39 min): kNN 90.3 %.
  dkobak_100  The same, 100 epochs, twice the learning rate (20 min): loss 5.18
              +- .01, kNN (k 10, cosine) 83.2 +- .2 %, linear 85.6 +- .2 %.
              ResNet-50 (--config.model.depth=50), 1000 epochs: linear 93.4 to
              93.7 %.
  lightly     github.com/lightly-ai/lightly, CIFAR-10 benchmark, one A6000, 200
              epochs (87 min): kNN (k 200, temperature 0.1) 84.8 %.
  lightly_800 The same, 800 epochs (331 min): kNN 87.9 %.
  solo_learn  github.com/vturrisi/solo-learn, scripts/pretrain/cifar/simclr.yaml
              and augmentations/symmetric.yaml, 1000 epochs: 90.74 % with a
              linear classifier trained beside the encoder.

  cpu         Not a recipe to compare with others: the official one cut down to
              what 2 CPU cores learn something with in half an hour: a quarter
              of the width, views of 16 px, 6 epochs. docs/results/cifar10_cpu
              has what came out.

Data: TFDS `cifar10` (--config.data.data_dir says where it lies), or, without
TensorFlow, the Parquet files of the Hugging Face Hub (uoft-cs/cifar10) or of
simclr_jax.prepare: --config.data.source=parquet --config.data.name=''
--config.data.path=DIR.

Where a preset is not its source: the torch codes forward the two views
separately (their batch norm sees one view at a time; here both) and step the
learning rate once an epoch. They crop a PIL image with antialiased bilinear
resizing; here bilinear without antialias (crops of 32 px are enlarged, where
the two agree). The kernels of their networks start as PyTorch's, here as the
official code's; the last gamma of a residual block starts at 1 as in theirs.
lightly and solo-learn subtract a mean from the images and divide by a standard
deviation, here nobody does. dkobak: gray 0.1 as its results state; a version of
its script has 0.2. lightly: jitter as in its SimCLRTransform for small images,
head with batch norm as in its later versions. solo-learn: its LARS caps the
trust ratio (`clip_lr`), which is not possible here, and it trains in float16;
its figure is for LARS with that cap.
"""

from __future__ import annotations

import dataclasses

import ml_collections

from simclr_jax import config as config_lib

DATA = config_lib.DataConfig(name='cifar10', image_size=32)

# torchvision's operations as such; the torch presets differ in strengths.
TORCHVISION = config_lib.AugmentConfig(
  crop_sampler='torchvision',
  resize='bilinear',
  color_ops='torchvision',
  blur_prob=0.0,
)

OFFICIAL = config_lib.Config(
  data=DATA,
  augment=config_lib.AugmentConfig(jitter_strength=0.5, blur_prob=0.0),
  model=config_lib.ModelConfig(depth=18),
  loss=config_lib.LossConfig(temperature=0.5),
  optim=config_lib.OptimConfig(base_lr=1.0, weight_decay=1e-4),
  train=config_lib.TrainConfig(batch_size=512, duration='1000 epochs'),
)

DKOBAK = config_lib.Config(
  data=DATA,
  augment=dataclasses.replace(
    TORCHVISION,
    crop_area=(0.2, 1.0),
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    gray_prob=0.1,
  ),
  model=config_lib.ModelConfig(
    depth=18,
    zero_init_residual=False,
    head_layers=2,
    head_hidden=1024,
    head_norm='none',
  ),
  # The mean over 2B: the reported 5.18 is below log(2 * 512 - 1) = 6.93.
  loss=config_lib.LossConfig(temperature=0.5, scale='paper'),
  optim=config_lib.OptimConfig(
    name='sgd',
    base_lr=0.03,
    warmup='0 epochs',
    weight_decay=5e-4,
    decay_exclude=(),
  ),
  train=config_lib.TrainConfig(batch_size=512, duration='1000 epochs'),
  knn=config_lib.KnnConfig(ks=(10, 1, 5, 20, 200)),
)

LIGHTLY = config_lib.Config(
  data=DATA,
  augment=dataclasses.replace(TORCHVISION, jitter_strength=0.5),
  model=config_lib.ModelConfig(
    depth=18, zero_init_residual=False, head_layers=2, head_hidden=512
  ),
  loss=config_lib.LossConfig(temperature=0.5, scale='paper'),
  optim=config_lib.OptimConfig(
    name='sgd',
    base_lr=0.12,  # 0.06 for each 128 images
    warmup='0 epochs',
    weight_decay=5e-4,
    decay_exclude=(),
  ),
  train=config_lib.TrainConfig(batch_size=512, duration='200 epochs'),
  knn=config_lib.KnnConfig(
    ks=(200, 1, 5, 10, 20), temperatures=(0.1, 0.07, 0.5)
  ),
)

SOLO_LEARN = config_lib.Config(
  data=DATA,
  augment=dataclasses.replace(TORCHVISION, blur_prob=0.5),
  model=config_lib.ModelConfig(
    depth=18,
    zero_init_residual=False,
    head_layers=2,
    head_hidden=2048,
    head_dim=256,
    head_norm='none',
  ),
  loss=config_lib.LossConfig(temperature=0.2, scale='paper'),
  optim=config_lib.OptimConfig(
    base_lr=0.4, weight_decay=1e-4, trust_coefficient=0.02
  ),
  train=config_lib.TrainConfig(batch_size=256, duration='1000 epochs'),
)

CPU = config_lib.replace(
  OFFICIAL,
  data={'image_size': 16},
  model={'width': 0.25, 'head_layers': 2},
  optim={'warmup': '1 epochs'},
  train={
    'batch_size': 128,
    'duration': '6 epochs',
    'log_every': '20 steps',
    'diagnostics_every': '100 steps',
  },
  monitor={'knn_every': '1 epochs', 'knn_max_bank': 10_000},
  knn={'ks': (20, 1, 200), 'temperatures': (0.1,)},
)

PRESETS = {
  'official': OFFICIAL,
  'dkobak': DKOBAK,
  'dkobak_500': config_lib.replace(DKOBAK, train={'duration': '500 epochs'}),
  'dkobak_100': config_lib.replace(
    DKOBAK, optim={'base_lr': 0.06}, train={'duration': '100 epochs'}
  ),
  'lightly': LIGHTLY,
  'lightly_800': config_lib.replace(LIGHTLY, train={'duration': '800 epochs'}),
  'solo_learn': SOLO_LEARN,
  'cpu': CPU,
}


def get_config(preset: str = 'official') -> ml_collections.ConfigDict:
  """The recipe called `preset`."""
  return config_lib.find_preset(PRESETS, preset)
