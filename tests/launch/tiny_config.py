"""A config file whose run takes seconds."""

from __future__ import annotations

import pathlib

_TEXT = """
from simclr_jax import config as config_lib


def get_config(preset=''):
  return config_lib.to_config_dict(
    config_lib.replace(
      config_lib.Config(),
      data={
        'source': 'procedural', 'train_split': 'train[:64]',
        'image_size': 8, 'loader': 'opencv',
      },
      augment={'blur_prob': 0.0},
      model={'depth': 18, 'width': 0.03125, 'head_dim': 4},
      monitor={'online_head': False},
      optim={'warmup': '0 steps'},
      train={
        'batch_size': 4, 'duration': 'DURATION', 'log_every': '1 steps',
      },
    )
  )
"""


def write_tiny_config(folder: pathlib.Path, *, steps: int = 4) -> pathlib.Path:
  """The file."""
  path = folder / 'tiny.py'
  path.write_text(_TEXT.replace('DURATION', f'{steps} steps'))
  return path
