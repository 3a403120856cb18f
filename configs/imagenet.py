"""SimCLR on ImageNet (ILSVRC-2012), ResNet-50.

Papers: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
Representations" (v1); Chen et al. 2020, "Big Self-Supervised Models are Strong
Semi-Supervised Learners" (v2). Code: google-research/simclr.

  python -m simclr_jax.main --config=configs/imagenet.py --workdir=gs://b/run
  python -m simclr_jax.main --config=configs/imagenet.py:readme --workdir=...

Presets, and the linear top-1 accuracy published for them (not measured here):

  v1      The first paper's recipe (the default): 1000 epochs, two-layer head.
          69.3 % (ResNet-50), 74.2 % (2x: --config.model.width=2), 76.5 % (4x).
  readme  The README command of the official code: 100 epochs.
          About 64.5 %, 6 h on 32 TPU v3 cores.
  v2      The second paper's: 800 epochs, three-layer head.
          71.7 % with a memory of past keys, about 71 % without (as here).
          Larger: --config.model.width=2 --config.model.sk_ratio=0.0625 is its
          ResNet-50 2x SK (77.7 %), with depth 152 and width 3 the 79.8 % one.

Each needs ImageNet as a TFDS data set (`imagenet2012`; --config.data.data_dir)
and a global batch of 4096 images: v1 took about 1.5 h for 100 epochs on 128 TPU
v3 cores (paper). On fewer devices lower train.batch_size: 'readme' and 'v2'
scale the learning rate with its square root, 'v1' linearly.
--config.model.compute_dtype=bfloat16 saves memory and time on accelerators.

What the sources leave open: v1's brightness jitter is additive, as in the
official code's 'simclrv1' operations. Probe: official protocol (0.1 * B/256,
batch 4096, 90 epochs, weight decay 1e-6).
"""

from __future__ import annotations

import ml_collections

from simclr_jax import config as config_lib

DATA = config_lib.DataConfig(name='imagenet2012', test_split='validation')
PROBE = config_lib.ProbeConfig(
  batch_size=4096, epochs=90, weight_decays=(1e-6, 0.0, 1e-4)
)

PRESETS = {
  'v1': config_lib.Config(
    data=DATA,
    augment=config_lib.AugmentConfig(brightness_mode='additive'),
    model=config_lib.ModelConfig(head_layers=2),
    optim=config_lib.OptimConfig(base_lr=0.3, weight_decay=1e-6),
    train=config_lib.TrainConfig(batch_size=4096, duration='1000 epochs'),
    probe=PROBE,
  ),
  'readme': config_lib.Config(
    data=DATA,
    optim=config_lib.OptimConfig(
      base_lr=0.075, lr_scaling='sqrt', weight_decay=1e-4
    ),
    train=config_lib.TrainConfig(batch_size=4096, duration='100 epochs'),
    probe=PROBE,
  ),
  'v2': config_lib.Config(
    data=DATA,
    optim=config_lib.OptimConfig(
      base_lr=0.1, lr_scaling='sqrt', weight_decay=1e-4, warmup='40 epochs'
    ),
    train=config_lib.TrainConfig(batch_size=4096, duration='800 epochs'),
    probe=PROBE,
  ),
}


def get_config(preset: str = 'v1') -> ml_collections.ConfigDict:
  """The recipe called `preset`."""
  return config_lib.find_preset(PRESETS, preset)
