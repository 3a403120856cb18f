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
      augment={'blur_prob': BLUR_PROB},
      model={'depth': 18, 'width': 0.03125, 'head_dim': 4},
      monitor={'online_head': False},
      optim={'warmup': '0 steps'},
      train={
        'batch_size': 4, 'duration': 'DURATION', 'log_every': '1 steps',
      },
    )
  )
"""


def write_tiny_config(
  folder: pathlib.Path, *, blur_prob: float = 0.0, steps: int = 4
) -> pathlib.Path:
  """The file; `blur_prob` above 0 is refused at this size of images."""
  path = folder / 'tiny.py'
  text = _TEXT.replace('BLUR_PROB', str(blur_prob))
  path.write_text(text.replace('DURATION', f'{steps} steps'))
  return path
