"""SimCLR on Parquet files: Hugging Face's image data sets as they are.

  python -m simclr_jax.main --config=configs/parquet.py --workdir=runs/mine \
    --config.data.path=/data/set --config.data.loader=opencv

The folder is one that `huggingface-cli download --repo-type=dataset` has
filled, or that `python -m simclr_jax.prepare` has written from TFDS, a folder
of pictures or arrays. Splits are called as the files are
(data/train-00000-of-00005.parquet is 'train'). Needs no TensorFlow with the
loader above (pip install '.[opencv,parquet]'); without that flag the
loader is TensorFlow's (pip install '.[tf,parquet]').

Presets:

  labelled    'train' and 'test' of the files; pretraining uses no labels, probe
              and kNN do (the default). Where the held-out split is called
              otherwise: --config.data.test_split=validation.
  unlabelled  'train' alone, nothing held out; a label column is not read.
  split       One split only: the last fifth of its rows is held out. Wants rows
              in no order of class or origin.

The columns are 'image' (or 'img') and 'label'; others are named by
--config.data.image_key and --config.data.label_key ('fine_label').

Hardware, time and what to expect: as configs/folder.py, whose recipe this is
(that of the official README for ImageNet, with square-root scaling). For images
of 32 px take configs/cifar10.py with --config.data.source=parquet
--config.data.name='' --config.data.path=... instead.
"""

from __future__ import annotations

import ml_collections

from simclr_jax import config as config_lib

LABELLED = config_lib.Config(
  data=config_lib.DataConfig(source='parquet'),
  optim=config_lib.OptimConfig(
    base_lr=0.075, lr_scaling='sqrt', weight_decay=1e-4, warmup='10 %'
  ),
  train=config_lib.TrainConfig(batch_size=256, duration='200 epochs'),
  # The recipe's rate is for the encoder: a classifier diverges at it.
  monitor=config_lib.MonitorConfig(online_lr='0.01'),
)

PRESETS = {
  'labelled': LABELLED,
  'unlabelled': config_lib.Config(
    data=config_lib.DataConfig(source='parquet', label_key='', test_split=''),
    optim=LABELLED.optim,
    train=LABELLED.train,
    monitor=LABELLED.monitor,
  ),
  'split': config_lib.Config(
    data=config_lib.DataConfig(
      source='parquet', train_split='train[:80%]', test_split='train[80%:]'
    ),
    optim=LABELLED.optim,
    train=LABELLED.train,
    monitor=LABELLED.monitor,
  ),
}


def get_config(preset: str = 'labelled') -> ml_collections.ConfigDict:
  """The recipe called `preset`."""
  return config_lib.find_preset(PRESETS, preset)
