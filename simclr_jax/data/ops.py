"""Colour distortions, blur and solarization of one image, in TensorFlow.

Every function is deterministic: its amounts are arguments, `views.py` draws
them. Images are float32 [H, W, 3] of static shape, amounts scalar tensors or
numbers. Nothing clips except `color_jitter`, after each of its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import math

from simclr_jax.data import color_matrices
from simclr_jax.data.color_matrices import LUMA
from simclr_jax.data.lazy_tf import tf

# An image and an amount -> an image.
ColorOp = Callable[['tf.Tensor', 'tf.Tensor'], 'tf.Tensor']


def clip(image: tf.Tensor) -> tf.Tensor:
  """Values limited to [0, 1]."""
  return tf.clip_by_value(image, 0.0, 1.0)


def grayscale(image: tf.Tensor) -> tf.Tensor:
  """Luma in all three channels."""
  return _mix_channels(image, tf.constant(LUMA)[:, None] * tf.ones([1, 3]))


def multiply_brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
  """x * factor (SimCLR v2, torchvision)."""
  return image * factor


def add_brightness(image: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
  """x + delta (the code of SimCLR v1)."""
  return image + delta


def channel_contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
  """Distance to the mean of each channel times factor (official)."""
  return tf.image.adjust_contrast(image, factor)


def gray_contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
  """Distance to the image's mean luma times factor (torchvision)."""
  mean = tf.reduce_mean(_mix_channels(image, tf.constant(LUMA)[:, None]))
  return image * factor + mean * (1.0 - factor)


def hsv_saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
  """S of HSV times factor, limited to [0, 1] (official)."""
  return tf.image.adjust_saturation(image, factor)


def gray_saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
  """Distance to the pixel's own luma times factor (torchvision)."""
  to_luma = tf.constant(LUMA)[:, None] * tf.ones([1, 3])
  return _mix_channels(image, tf.eye(3) * factor + to_luma * (1.0 - factor))


def hue(image: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
  """H of HSV plus delta, in turns (official and torchvision alike)."""
  return tf.image.adjust_hue(image, delta)


def yiq_hue(image: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
  """A turn in the YIQ plane, `color_matrices.hue_matrix`; approximate."""
  angle = 2 * math.pi * delta
  keep, cosine, sine = color_matrices.HUE_PARTS.swapaxes(1, 2)
  return _mix_channels(
    image, keep + tf.cos(angle) * cosine + tf.sin(angle) * sine
  )


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
  image: tf.Tensor,
  amounts: Mapping[str, tf.Tensor],
  *,
  color_ops: Mapping[str, ColorOp],
  order: tf.Tensor | None = None,
) -> tf.Tensor:
  """Applies the operations of `amounts`, clipping to [0, 1] after each.

  The first operation sees the image as it comes: unclipped, with the overshoot
  of bicubic resizing (official data_util.py:color_jitter_rand).

  Args:
    image: [H, W, 3].
    amounts: Amount of each operation to apply, by name.
    color_ops: See `make_color_ops`.
    order: int32 [len(amounts)], a permutation of the positions in `amounts`;
      None applies them as they stand there.
  """
  names = list(amounts)
  for step in range(len(names)):
    branches = [
      functools.partial(color_ops[name], image, amounts[name]) for name in names
    ]
    # A switch at each step, not one over all orders: TensorFlow visits every
    # node of the branches not taken, and 24 orders have 96 operations.
    image = clip(
      branches[step]()
      if order is None
      else tf.switch_case(order[step], branches)
    )
  return image


def gaussian_blur(
  image: tf.Tensor, sigma: tf.Tensor, *, radius: int
) -> tf.Tensor:
  """Separable Gaussian blur with zeros beyond the border.

  Args:
    image: [H, W, C], static shape.
    sigma: Standard deviation in pixels.
    radius: Taps on either side; the 2 * radius + 1 weights sum to 1.
  """
  height, width, channels = image.shape
  offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
  taps = tf.nn.softmax(-0.5 * tf.square(offsets / sigma))
  # What lies beyond six sigmas weighs 2e-9 in all: less than float32 holds.
  reach = tf.cast(tf.math.ceil(6.0 * sigma), tf.int32)
  reach = tf.minimum(reach, radius)
  taps = taps[radius - reach : radius + reach + 1]
  strides = [1, 1, 1, 1]
  # Down the columns, every value of a row is a channel of its own: the
  # depthwise kernel is fast along channels and slow with three of them.
  rows = tf.reshape(image, [1, height, 1, width * channels])
  kernel = tf.tile(taps[:, None, None, None], [1, 1, width * channels, 1])
  rows = tf.nn.depthwise_conv2d(rows, kernel, strides, 'SAME')
  image = tf.reshape(rows, [1, height, width, channels])
  kernel = tf.tile(taps[None, :, None, None], [1, 1, channels, 1])
  image = tf.nn.depthwise_conv2d(image, kernel, strides, 'SAME')
  return tf.reshape(image, [height, width, channels])


def solarize(image: tf.Tensor, threshold: float) -> tf.Tensor:
  """1 - x where x is at least threshold (BYOL, torchvision)."""
  return tf.where(image < threshold, image, 1.0 - image)


def _mix_channels(image: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
  """[H, W, 3] times [3, c]; far faster than working on single channels."""
  height, width, _ = image.shape
  mixed = tf.matmul(tf.reshape(image, [-1, 3]), matrix)
  return tf.reshape(mixed, [height, width, matrix.shape[1]])
