"""Crops, colour, blur and solarization of one image, with NumPy and OpenCV.

The operations of `crops.py` and `ops.py`, without TensorFlow and with the same
numbers. Images are float32 [H, W, 3], contiguous; operations change them in
place or give a new one, so a caller uses the result alone. Nothing clips except
`color_jitter`, after each of its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools

import numpy as np

from simclr_jax.data import color_matrices, resize_weights
from simclr_jax.data.color_matrices import LUMA
from simclr_jax.data.lazy_cv2 import cv2

# Taps that together weigh less than this change nothing: half the spacing of
# float32 below 1 is 3e-8.
_NO_WEIGHT = 1e-8
# Multiplications up to which a dense product beats a sparse one.
_DENSE = 1 << 18

# An image and an amount -> an image.
ColorOp = Callable[[np.ndarray, float], np.ndarray]


def crop_and_resize(
  image: np.ndarray,
  box: np.ndarray | None,
  *,
  size: int,
  method: str,
  flip: bool = False,
) -> np.ndarray:
  """The box of the image, resized to a square, without antialias.

  Args:
    image: uint8 [H, W, 3].
    box: int [4], top, left, height, width; None is the whole image.
    size: Side of the result in pixels.
    method: 'bicubic' or 'bilinear'.
    flip: Whether left and right are exchanged after it.

  Returns:
    float32 [size, size, 3] from 0 to 255 and, as bicubic resizing overshoots,
    beyond.
  """
  if image.dtype != np.uint8:
    raise ValueError(f'the image is {image.dtype}; must be uint8, 0 to 255')
  if box is not None:
    top, left, height, width = map(int, box)
    image = image[top : top + height, left : left + width]
  height, width, _ = image.shape
  small = size * max(width * height, size * height) * 3 <= _DENSE
  make = resize_weights.dense_matrix if small else resize_weights.resize_matrix
  across = make(width, size, method=method, backwards=flip)
  down = make(height, size, method=method, backwards=False)
  # Rows of a product are long and contiguous; columns are made rows by turning
  # the image, first as bytes and then, narrower, back.
  columns = cv2.transpose(image).reshape(width, height * 3)
  turned = across @ columns.astype(np.float32)
  rows = cv2.transpose(turned.reshape(size, height, 3))
  return (down @ rows.reshape(height, size * 3)).reshape(size, size, 3)


def clip(image: np.ndarray) -> np.ndarray:
  """Values limited to [0, 1]."""
  return np.clip(image, 0.0, 1.0, out=image)


def to_bytes(image: np.ndarray, out: np.ndarray) -> None:
  """Writes values from 0 to 255 into uint8 `out`: rounded and limited."""
  # Rounds halves to even and saturates, in one pass.
  cv2.add(image, 0.0, dst=out, dtype=cv2.CV_8U)


def grayscale(image: np.ndarray) -> np.ndarray:
  """Luma in all three channels."""
  return cv2.transform(image, _luma_matrix())


def multiply_brightness(image: np.ndarray, factor: float) -> np.ndarray:
  """x * factor (SimCLR v2, torchvision)."""
  return np.multiply(image, np.float32(factor), out=image)


def add_brightness(image: np.ndarray, delta: float) -> np.ndarray:
  """x + delta (the code of SimCLR v1)."""
  return np.add(image, np.float32(delta), out=image)


def channel_contrast(image: np.ndarray, factor: float) -> np.ndarray:
  """Distance to the mean of each channel times factor (official)."""
  return _affine(image, np.eye(3) * factor, (1 - factor) * _means(image))


def gray_contrast(image: np.ndarray, factor: float) -> np.ndarray:
  """Distance to the image's mean luma times factor (torchvision)."""
  mean = float(_means(image) @ LUMA)
  return _affine(image, np.eye(3) * factor, np.full(3, (1 - factor) * mean))


def hsv_saturation(image: np.ndarray, factor: float) -> np.ndarray:
  """S of HSV times factor, limited to [0, 1] (official)."""
  hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
  saturation = cv2.extractChannel(hsv, 1)
  np.multiply(saturation, np.float32(factor), out=saturation)
  np.clip(saturation, 0.0, 1.0, out=saturation)
  value = cv2.extractChannel(hsv, 2)
  if value.min() <= 0:
    # Black has no saturation, and neither has what overshoots below it.
    saturation[value <= 0] = 0
  cv2.insertChannel(saturation, hsv, 1)
  return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=image)


def gray_saturation(image: np.ndarray, factor: float) -> np.ndarray:
  """Distance to the pixel's own luma times factor (torchvision)."""
  matrix = np.eye(3) * factor + np.array(_luma_matrix()) * (1 - factor)
  return _affine(image, matrix, np.zeros(3))


def hue(image: np.ndarray, delta: float) -> np.ndarray:
  """H of HSV plus delta, in turns (official and torchvision alike)."""
  # Hue and what is made of it depend on differences of channels alone, but
  # OpenCV's saturation does not take what overshoots below black.
  low = float(image.min())
  shift = 1.0 - low if low < 0 else 0.0
  if shift:
    image = add_brightness(image, shift)
  hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
  # In degrees; beyond 360 is understood, below 0 is not.
  turned = cv2.add(hsv, (delta % 1 * 360, 0.0, 0.0, 0.0), dst=hsv)
  image = cv2.cvtColor(turned, cv2.COLOR_HSV2RGB, dst=image)
  return add_brightness(image, -shift) if shift else image


def yiq_hue(image: np.ndarray, delta: float) -> np.ndarray:
  """A turn in the YIQ plane, `color_matrices.hue_matrix`; approximate."""
  return _affine(image, color_matrices.hue_matrix(delta), np.zeros(3))


def make_color_ops(kind: str, brightness_mode: str) -> dict[str, ColorOp]:
  """The four jitter operations by name, in torchvision's fixed order.

  Args:
    kind: `AugmentConfig.color_ops`.
    brightness_mode: `AugmentConfig.brightness_mode`.
  """
  brightness = {
    'multiplicative': multiply_brightness,
    'additive': add_brightness,
  }[brightness_mode]
  contrast, saturation, turn_hue = {
    'official': (channel_contrast, hsv_saturation, hue),
    'torchvision': (gray_contrast, gray_saturation, hue),
    'affine': (channel_contrast, gray_saturation, yiq_hue),
  }[kind]
  return {
    'brightness': brightness,
    'contrast': contrast,
    'saturation': saturation,
    'hue': turn_hue,
  }


def color_jitter(
  image: np.ndarray,
  amounts: Mapping[str, float],
  *,
  color_ops: Mapping[str, ColorOp],
  order: Sequence[int] | None = None,
) -> np.ndarray:
  """Applies the operations of `amounts`, clipping to [0, 1] after each.

  Args:
    image: [H, W, 3], with the overshoot of bicubic resizing.
    amounts: Amount of each operation to apply, by name.
    color_ops: See `make_color_ops`.
    order: A permutation of the positions in `amounts`; None applies them as
      they stand there.
  """
  names = list(amounts)
  for place in range(len(names)) if order is None else order:
    name = names[place]
    image = clip(color_ops[name](image, amounts[name]))
  return image


def gaussian_blur(
  image: np.ndarray, sigma: float, *, radius: int
) -> np.ndarray:
  """Separable Gaussian blur with zeros beyond the border.

  Args:
    image: [H, W, 3].
    sigma: Standard deviation in pixels.
    radius: Taps on either side; the 2 * radius + 1 weights sum to 1.
  """
  offsets = np.arange(-radius, radius + 1)
  taps = np.exp(-0.5 * (offsets / sigma) ** 2)
  taps /= taps.sum()
  # The outermost taps of a small sigma are below what float32 can hold.
  outside = 2 * np.cumsum(taps[:radius])
  skip = int(np.searchsorted(outside, _NO_WEIGHT))
  kept = taps[skip : len(taps) - skip].astype(np.float32)
  return cv2.sepFilter2D(image, -1, kept, kept, borderType=cv2.BORDER_CONSTANT)


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
  """1 - x where x is at least threshold (BYOL, torchvision)."""
  return np.where(image < np.float32(threshold), image, np.float32(1) - image)


@functools.cache
def _luma_matrix() -> np.ndarray:
  """[3, 3] that gives each output channel the luma."""
  return np.tile(np.array(LUMA), (3, 1))


def _means(image: np.ndarray) -> np.ndarray:
  """float64 [3], of the channels."""
  return np.array(cv2.mean(image)[:3])


def _affine(
  image: np.ndarray, matrix: np.ndarray, offset: np.ndarray
) -> np.ndarray:
  """matrix [3, 3] times each pixel, plus offset [3]; in place."""
  return cv2.transform(
    image, np.concatenate([matrix, offset[:, None]], axis=1), dst=image
  )
