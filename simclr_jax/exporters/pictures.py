"""A fixed batch of real pictures: what exported models are compared on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

from simclr_jax import config as config_lib

# Left, top, width and height as shares of scikit-learn's two photographs.
_BOXES = (
  (0.17, 0.0, 0.66, 1.0),
  (0.0, 0.0, 0.5, 0.75),
  (0.5, 0.25, 0.5, 0.75),
  (0.3, 0.4, 0.2, 0.3),
)
CREDITS = (
  "scikit-learn's china.jpg (danielbuechele) and flower.jpg (vultilion), CC BY "
  '2.0'
)


def real_pictures(config: config_lib.Config) -> np.ndarray:
  """Eight crops of two photographs, f32 [8, S, S, 3] in [0, 1].

  Resized as pictures are for evaluation: bicubic (or bilinear) without
  antialias.
  """
  size = config.data.image_size
  method = 'cubic' if config.eval.resize == 'bicubic' else 'linear'
  crops = []
  for name in ('china.jpg', 'flower.jpg'):
    picture = datasets.load_sample_image(name).astype(np.float32) / 255
    height, width, _ = picture.shape
    for left, top, wide, high in _BOXES:
      y, x = int(top * height), int(left * width)
      crop = picture[y : y + int(high * height), x : x + int(wide * width)]
      crops.append(
        jax.image.resize(crop, (size, size, 3), method=method, antialias=False)
      )
  return np.asarray(jnp.clip(jnp.stack(crops), 0, 1))
