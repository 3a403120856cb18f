"""SimCLR on scikit-learn's digits: real pictures, no download, two minutes.

  python -m simclr_jax.main --config=configs/smoke.py --workdir=runs/demo

Paper: Chen et al. 2020 (v1), with a ResNet-18 of an eighth of the width on some
1440 scans of 8 x 8 pixels shown at 16 x 16. No flips (a mirrored digit is
another sign or none), no saturation, hue or grey (the scans are grey already),
no blur, and crops of half the scan or more (less is no digit any more). No
online head: at LARS' learning rate it diverges in so short a run; the probe
judges.

Hardware: any; made for 2 CPU cores and under 4 GB. Expected: the pretrained
encoder clearly ahead of the random one (`make demo` prints the table), and of
raw pixels where labels are few; with all labels digits are easy for pixels too.
"""

from __future__ import annotations

import ml_collections

from simclr_jax import config as config_lib

PRESETS = {
  'digits': config_lib.Config(
    data=config_lib.DataConfig(source='digits', image_size=16),
    augment=config_lib.AugmentConfig(
      crop_area=(0.5, 1.0),
      flip_prob=0.0,
      jitter_strength=0.5,
      saturation=0.0,
      hue=0.0,
      gray_prob=0.0,
      blur_prob=0.0,
    ),
    model=config_lib.ModelConfig(depth=18, width=0.125, head_dim=64),
    loss=config_lib.LossConfig(temperature=0.2),
    optim=config_lib.OptimConfig(
      base_lr=1.0, weight_decay=1e-4, warmup='5 epochs'
    ),
    train=config_lib.TrainConfig(
      batch_size=256,
      duration='30 epochs',
      log_every='5 steps',
      diagnostics_every='25 steps',
    ),
    checkpoint=config_lib.CheckpointConfig(every='15 epochs'),
    monitor=config_lib.MonitorConfig(online_head=False, knn_every='5 epochs'),
    probe=config_lib.ProbeConfig(
      base_lrs=(0.1, 0.03, 0.3), weight_decays=(0.0,), standardize=True
    ),
    knn=config_lib.KnnConfig(ks=(10, 1, 20), temperatures=(0.1,)),
  ),
}


def get_config(preset: str = 'digits') -> ml_collections.ConfigDict:
  """The recipe called `preset`."""
  return config_lib.find_preset(PRESETS, preset)
