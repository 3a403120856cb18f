"""Where to crop: boxes of many images at once, in NumPy.

A box is int32 (top, left, height, width) in pixels. `sizes` are (height, width)
of the images, at least 1. The samplers take uniform numbers, not a generator,
so that whoever calls decides what they derive from.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np

# Official data_util.py:distorted_bounding_box_crop and torchvision's
# RandomResizedCrop.get_params.
OFFICIAL_MIN_OBJECT_COVERED = 0.1
OFFICIAL_MAX_ATTEMPTS = 100
TORCHVISION_ATTEMPTS = 10
# Attempts computed at once: nearly every image finds its box in the first ten.
_BLOCK = 10

# Number of them -> that many uniform numbers in [0, 1), float64 [..., number];
# each call continues where the one before stopped.
UniformsFn = Callable[[int], np.ndarray]


def official_boxes(
  sizes: np.ndarray,
  uniforms: UniformsFn,
  *,
  area: tuple[float, float],
  aspect: tuple[float, float],
) -> np.ndarray:
  """Boxes of tf.image.sample_distorted_bounding_box around whole images.

  Aspect and height are drawn uniformly, up to 100 times until the area fits;
  then the whole image is taken. The box must cover a tenth of the 'object',
  which is the whole image: areas below 0.1 never occur, whatever `area` says
  (kept, because the official results were obtained with it). As in TensorFlow
  (sample_distorted_bounding_box_op.cc) a box smaller than the image never
  touches its last row or column.

  Args:
    sizes: int [..., 2].
    uniforms: Numbers for the same leading axes.
    area: Least and largest share of the image.
    aspect: Least and largest width / height.

  Returns:
    int32 [..., 4].
  """
  sizes = np.asarray(sizes, np.int64)
  found = np.zeros(sizes.shape[:-1], bool)
  boxes = np.concatenate([np.zeros_like(sizes), sizes], axis=-1)
  for _ in range(OFFICIAL_MAX_ATTEMPTS // _BLOCK):
    draws = uniforms(4 * _BLOCK).reshape(*found.shape, _BLOCK, 4)
    attempts, fits = _official_attempts(
      sizes[..., None, :], draws, area=area, aspect=aspect
    )
    first = np.argmax(fits, axis=-1)[..., None, None]
    chosen = np.take_along_axis(attempts, first, axis=-2)[..., 0, :]
    new = ~found & fits.any(axis=-1)
    boxes = np.where(new[..., None], chosen, boxes)
    found |= new
    if found.all():
      break
  return boxes.astype(np.int32)


def _official_attempts(
  sizes: np.ndarray,
  draws: np.ndarray,
  *,
  area: tuple[float, float],
  aspect: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
  """One box per four uniform numbers, and whether it may be used."""
  image_height, image_width = sizes[..., 0], sizes[..., 1]
  pixels = image_height * image_width
  least, most = area[0] * pixels, area[1] * pixels
  ratio = aspect[0] + (aspect[1] - aspect[0]) * draws[..., 0]
  lowest = _round(np.sqrt(least / ratio))
  highest = _round(np.sqrt(most / ratio))
  # The largest height whose rounded width still fits.
  too_wide = _round(highest * ratio) > image_width
  limit = np.floor((image_width + 0.5 - 1e-7) / ratio).astype(np.int64)
  limit -= _round(limit * ratio) > image_width
  highest = np.where(too_wide, limit, highest)
  highest = np.minimum(highest, image_height)
  lowest = np.minimum(lowest, highest)
  height = lowest + _below(draws[..., 1], highest - lowest + 1)
  width = _round(height * ratio)
  # Rounding may have left the allowed areas by a little: one row more or less.
  height = height + (height * width < least)
  width = _round(height * ratio)
  height = height - (height * width > most)
  width = _round(height * ratio)
  covered = height * width
  fits = (
    (covered >= least)
    & (covered <= most)
    & (covered >= OFFICIAL_MIN_OBJECT_COVERED * pixels)
    & (width <= image_width)
    & (height <= image_height)
    & (width > 0)
    & (height > 0)
  )
  top = _below(draws[..., 2], image_height - height)
  left = _below(draws[..., 3], image_width - width)
  return np.stack([top, left, height, width], axis=-1), fits


def torchvision_boxes(
  sizes: np.ndarray,
  uniforms: UniformsFn,
  *,
  area: tuple[float, float],
  aspect: tuple[float, float],
) -> np.ndarray:
  """Boxes of torchvision's RandomResizedCrop; arguments as `official_boxes`.

  Area uniform, aspect log-uniform, ten tries; then the largest centred box
  whose aspect is allowed.
  """
  sizes = np.asarray(sizes, np.int64)
  height, width = sizes[..., 0], sizes[..., 1]
  draws = uniforms(2 * TORCHVISION_ATTEMPTS + 2)
  shares = draws[..., :TORCHVISION_ATTEMPTS]
  shares = area[0] + (area[1] - area[0]) * shares
  ratios = draws[..., TORCHVISION_ATTEMPTS : 2 * TORCHVISION_ATTEMPTS]
  low, high = math.log(aspect[0]), math.log(aspect[1])
  ratios = np.exp(low + (high - low) * ratios)
  target = shares * (height * width)[..., None]
  tries = _round(
    np.stack([np.sqrt(target / ratios), np.sqrt(target * ratios)], axis=-1)
  )
  fits = np.all((tries >= 1) & (tries <= sizes[..., None, :]), axis=-1)
  first = np.argmax(fits, axis=-1)[..., None, None]
  chosen = np.take_along_axis(tries, first, axis=-2)[..., 0, :]
  fallback = np.stack(
    [
      np.clip(_round(width / aspect[0]), 1, height),
      np.clip(_round(height * aspect[1]), 1, width),
    ],
    axis=-1,
  )
  found = fits.any(axis=-1)[..., None]
  size = np.where(found, chosen, fallback)
  free = sizes - size
  begin = np.where(found, _below(draws[..., -2:], free + 1), free // 2)
  return np.concatenate([begin, size], axis=-1).astype(np.int32)


def centre_boxes(sizes: np.ndarray, *, fraction: float) -> np.ndarray:
  """Centred squares, a fraction of the short side (official eval crop).

  An odd number of spare rows or columns leaves the larger part before the box.

  Args:
    sizes: int [..., 2].
    fraction: Of the short side, in (0, 1].

  Returns:
    int32 [..., 4].
  """
  sizes = np.asarray(sizes, np.int64)
  # In float32, as TensorFlow computes it: a half may round the other way.
  short = np.min(sizes, axis=-1, keepdims=True).astype(np.float32)
  side = np.maximum(_round(np.float32(fraction) * short), 1)
  size = np.concatenate([side, side], axis=-1)
  return np.concatenate([(sizes - size + 1) // 2, size], axis=-1).astype(
    np.int32
  )


def eval_boxes(
  sizes: np.ndarray, *, crop_fraction: float, image_size: int
) -> np.ndarray:
  """What evaluation sees of images, before the resize to image_size.

  Above 32 px the centre square of `crop_fraction` of the short side (official
  data_util.py:preprocess_for_eval). Up to 32 px the whole centre square: a
  CIFAR image passes as it is, and a larger or oblong one, which the
  official code cannot take there, keeps its aspect.

  Args:
    sizes: int [..., 2].
    crop_fraction: `config.eval.crop_fraction`.
    image_size: Side of the result in pixels.

  Returns:
    int32 [..., 4].
  """
  return centre_boxes(sizes, fraction=crop_fraction if image_size > 32 else 1.0)


def _round(values: np.ndarray) -> np.ndarray:
  """To the nearest integer, halves to the even one (C's lrint, Python)."""
  return np.rint(values).astype(np.int64)


def _below(uniform: np.ndarray, count: np.ndarray) -> np.ndarray:
  """Integers in [0, count) from numbers in [0, 1); 0 where count is below 1."""
  return np.floor(uniform * np.maximum(count, 1)).astype(np.int64)
