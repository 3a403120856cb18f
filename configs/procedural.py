"""Generated shapes in random colours: does colour distortion matter?

  python -m simclr_jax.main --config=configs/procedural.py:crops --workdir=A
  python -m simclr_jax.main --config=configs/procedural.py:distorted --workdir=B

Paper: Chen et al. 2020 (v1), section 3.2 and figure 5: crops of one image share
their colour histogram, so a network can tell images apart by colour alone and
need not look at the content; colour distortion takes that shortcut away. Here
the class is a shape and each image has its own two colours
(`simclr_jax/data/sources/procedural.py`). `benchmarks/color_shortcut.py` runs
both presets and measures what the features hold.

Hardware: any; a few minutes on 2 CPU cores. Expected: `docs/results/`.
"""

from __future__ import annotations

import dataclasses

import ml_collections

from simclr_jax import config as config_lib

_CROPS = config_lib.AugmentConfig(
  crop_area=(0.3, 1.0), jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0
)


def _config(augment: config_lib.AugmentConfig) -> config_lib.Config:
  return config_lib.Config(
    data=config_lib.DataConfig(
      source='procedural',
      train_split='train[:2048]',
      test_split='test[:2000]',
      image_size=24,
    ),
    augment=augment,
    model=config_lib.ModelConfig(
      depth=18, width=0.125, head_layers=2, head_dim=64
    ),
    loss=config_lib.LossConfig(temperature=0.2),
    optim=config_lib.OptimConfig(
      base_lr=1.0, weight_decay=1e-4, warmup='5 epochs'
    ),
    train=config_lib.TrainConfig(
      batch_size=256,
      duration='30 epochs',
      log_every='20 steps',
      diagnostics_every='100 steps',
    ),
    checkpoint=config_lib.CheckpointConfig(every='20 epochs'),
    monitor=config_lib.MonitorConfig(online_head=False),
  )


PRESETS = {
  'crops': _config(_CROPS),
  'distorted': _config(
    dataclasses.replace(
      _CROPS, jitter_prob=0.8, jitter_strength=1.0, gray_prob=0.2
    )
  ),
}


def get_config(preset: str = 'distorted') -> ml_collections.ConfigDict:
  """The recipe called `preset`."""
  return config_lib.find_preset(PRESETS, preset)
