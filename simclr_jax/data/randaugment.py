"""RandAugment: a few random operations of one common strength, by Pillow.

Cubuk et al. 2019, https://arxiv.org/abs/1909.13719: the 14 operations of the
paper, on a scale of magnitudes from 0 to 30, with the ranges that torchvision's
RandAugment gives them. An operation that has two directions takes either. What
comes into a picture from beyond its border is black, nothing is interpolated.
Nothing is random here: `draws.py` draws the operations.
"""

from __future__ import annotations

from collections.abc import Callable
import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MAX_MAGNITUDE = 30
# A picture and an amount (level from 0 to 1, with a sign) -> a picture.
_Op = Callable[[Image.Image, float], Image.Image]
_NEAREST = Image.Resampling.NEAREST
_MAX_SHEAR = 0.3
_MAX_SHIFT = 150 / 331  # of the side
_MAX_ANGLE = 30.0  # degrees
_MAX_CHANGE = 0.9
_MAX_BITS = 4  # dropped


def apply(
  view_HxWx3: np.ndarray, choices_Lx2: np.ndarray, *, magnitude: int
) -> np.ndarray:
  """The chosen operations, one after the other, on pixels of 8 bits.

  Args:
    view_HxWx3: float32 in [0, 1]; rounded to 256 levels first.
    choices_Lx2: For each layer the place in `OPS`, and +1 or -1.
    magnitude: 0 to `MAX_MAGNITUDE`, of every operation.

  Returns:
    float32 [H, W, 3] in [0, 1].
  """
  levels = np.rint(np.clip(view_HxWx3, 0.0, 1.0) * 255).astype(np.uint8)
  image = Image.fromarray(levels)
  for place, sign in np.asarray(choices_Lx2).tolist():
    op = list(OPS.values())[int(place)]
    image = op(image, sign * magnitude / MAX_MAGNITUDE)
  return np.asarray(image, np.float32) / np.float32(255)


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
  return image.transform(
    image.size, Image.Transform.AFFINE, matrix, resample=_NEAREST
  )


def _identity(image: Image.Image, amount: float) -> Image.Image:
  del amount
  return image


def _shear_x(image: Image.Image, amount: float) -> Image.Image:
  return _affine(image, (1, _MAX_SHEAR * amount, 0, 0, 1, 0))


def _shear_y(image: Image.Image, amount: float) -> Image.Image:
  return _affine(image, (1, 0, 0, _MAX_SHEAR * amount, 1, 0))


def _translate_x(image: Image.Image, amount: float) -> Image.Image:
  shift = int(_MAX_SHIFT * image.width * amount)
  return _affine(image, (1, 0, shift, 0, 1, 0))


def _translate_y(image: Image.Image, amount: float) -> Image.Image:
  shift = int(_MAX_SHIFT * image.height * amount)
  return _affine(image, (1, 0, 0, 0, 1, shift))


def _rotate(image: Image.Image, amount: float) -> Image.Image:
  return image.rotate(_MAX_ANGLE * amount, resample=_NEAREST)


def _enhance(
  enhancer: Callable[[Image.Image], ImageEnhance._Enhance],
) -> _Op:
  return lambda image, amount: enhancer(image).enhance(1 + _MAX_CHANGE * amount)


def _posterize(image: Image.Image, amount: float) -> Image.Image:
  return ImageOps.posterize(image, 8 - round(_MAX_BITS * abs(amount)))


def _solarize(image: Image.Image, amount: float) -> Image.Image:
  return ImageOps.solarize(image, math.ceil(255 * (1 - abs(amount))))


def _autocontrast(image: Image.Image, amount: float) -> Image.Image:
  del amount
  return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, amount: float) -> Image.Image:
  del amount
  return ImageOps.equalize(image)


# Draws are places in it: a new operation goes to the end.
OPS: dict[str, _Op] = {
  'identity': _identity,
  'shear_x': _shear_x,
  'shear_y': _shear_y,
  'translate_x': _translate_x,
  'translate_y': _translate_y,
  'rotate': _rotate,
  'brightness': _enhance(ImageEnhance.Brightness),
  'color': _enhance(ImageEnhance.Color),
  'contrast': _enhance(ImageEnhance.Contrast),
  'sharpness': _enhance(ImageEnhance.Sharpness),
  'posterize': _posterize,
  'solarize': _solarize,
  'autocontrast': _autocontrast,
  'equalize': _equalize,
}
