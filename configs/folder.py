"""SimCLR on a folder of your own pictures; labels are not needed.

  python -m simclr_jax.main --config=configs/folder.py --workdir=runs/mine \
    --config.data.path=/pictures

Any mix of JPEG, PNG, WebP, BMP and GIF, at any depth below the path. Unreadable
files are counted, listed in the working directory and skipped.

Presets:

  unlabelled  Every picture below the path; nothing held out (the default).
  split       path/CLASS/*.jpg, nothing held out yet: a fifth of the pictures,
              fixed by a hash of each path, is the test split. Pictures that are
              nearly the same (frames of a film, crops of a scan) may fall on
              both sides; give those a folder of their own and use `classes`.
  classes     path/train/CLASS/*.jpg and path/test/CLASS/*.jpg: pretraining uses
              no labels, the probe and kNN do. Where the held-out folder is
              called otherwise: --config.data.test_split=val.

Hardware: one accelerator or more. Out of memory:
--config.model.compute_dtype=bfloat16, --config.data.image_size=128, or a
smaller train.batch_size (the learning rate follows). Time: 200 epochs of
100,000 pictures are 78,126 steps.

Expected: nobody has published a number for your pictures. With all embeddings
alike the loss is 2 log(2 * 256 - 1) = 12.5 and contrast_acc 1/256: both must
leave that early. For comparison, on ImageNet a batch of 256 and 100 epochs gave
lightly 63.2 % linear and 44.8 % kNN. The numbers are those of the official
README recipe for ImageNet, whose square-root scaling keeps the rate up in small
batches.
"""

from __future__ import annotations

import ml_collections

from simclr_jax import config as config_lib

UNLABELLED = config_lib.Config(
  data=config_lib.DataConfig(source='folder', train_split='', test_split=''),
  optim=config_lib.OptimConfig(
    base_lr=0.075, lr_scaling='sqrt', weight_decay=1e-4, warmup='10 %'
  ),
  train=config_lib.TrainConfig(batch_size=256, duration='200 epochs'),
  # The recipe's rate is for the encoder: a classifier diverges at it.
  monitor=config_lib.MonitorConfig(online_lr='0.01'),
)

PRESETS = {
  'unlabelled': UNLABELLED,
  'split': config_lib.Config(
    data=config_lib.DataConfig(
      source='folder',
      labels_from='folders',
      train_split='[:80%]',
      test_split='[80%:]',
    ),
    optim=UNLABELLED.optim,
    train=UNLABELLED.train,
    monitor=UNLABELLED.monitor,
  ),
  'classes': config_lib.Config(
    data=config_lib.DataConfig(source='folder', labels_from='folders'),
    optim=UNLABELLED.optim,
    train=UNLABELLED.train,
    monitor=UNLABELLED.monitor,
  ),
}


def get_config(preset: str = 'unlabelled') -> ml_collections.ConfigDict:
  """The recipe called `preset`."""
  return config_lib.find_preset(PRESETS, preset)
