"""Colour operations on planes, in JAX; the same as those of `data/ops.py`.

An image is three planes (red, green, blue), each float32 [..., H, W]: channels
that lie last, three of them, leave vector units idle, and planes in one array
have to be taken apart and put together again around every operation on HSV.
Amounts are [...], one for each image. Nothing clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math

import jax
import jax.numpy as jnp

from simclr_jax.data import color_matrices
from simclr_jax.data.color_matrices import LUMA

# Red, green, blue; each [..., H, W].
Planes = list[jax.Array]
# (planes, amount [...]) -> planes.
ColorOp = Callable[[Planes, jax.Array], Planes]


def to_planes(image: jax.Array) -> Planes:
  """[..., 3, H, W] taken apart."""
  return [image[..., channel, :, :] for channel in range(3)]


def over_pixels(amount: jax.Array) -> jax.Array:
  """[...] -> [..., 1, 1], to go with planes."""
  return amount[..., None, None]


def clip(planes: Planes) -> Planes:
  """Values limited to [0, 1]."""
  return [jnp.clip(x, 0.0, 1.0) for x in planes]


def where(condition: jax.Array, first: Planes, second: Planes) -> Planes:
  """`first` for the images whose condition [...] holds."""
  chosen = over_pixels(condition)
  return [jnp.where(chosen, x, y) for x, y in zip(first, second, strict=True)]


def luma(planes: Planes) -> jax.Array:
  """[..., H, W]."""
  red, green, blue = (
    x * weight for x, weight in zip(planes, LUMA, strict=True)
  )
  return red + green + blue


def grayscale(planes: Planes) -> Planes:
  """Luma in all three channels."""
  return [luma(planes)] * 3


def multiply_brightness(planes: Planes, factor: jax.Array) -> Planes:
  """x * factor (SimCLR v2, torchvision)."""
  return [x * over_pixels(factor) for x in planes]


def add_brightness(planes: Planes, delta: jax.Array) -> Planes:
  """x + delta (the code of SimCLR v1)."""
  return [x + over_pixels(delta) for x in planes]


def channel_contrast(planes: Planes, factor: jax.Array) -> Planes:
  """Distance to the mean of each channel times factor (official)."""
  factor = over_pixels(factor)
  means = [jnp.mean(x, axis=(-2, -1), keepdims=True) for x in planes]
  return [
    (x - mean) * factor + mean for x, mean in zip(planes, means, strict=True)
  ]


def gray_contrast(planes: Planes, factor: jax.Array) -> Planes:
  """Distance to the image's mean luma times factor (torchvision)."""
  factor = over_pixels(factor)
  mean = jnp.mean(luma(planes), axis=(-2, -1), keepdims=True)
  return [x * factor + mean * (1.0 - factor) for x in planes]


def gray_saturation(planes: Planes, factor: jax.Array) -> Planes:
  """Distance to the pixel's own luma times factor (torchvision)."""
  factor, gray = over_pixels(factor), luma(planes)
  return [x * factor + gray * (1.0 - factor) for x in planes]


def hsv_saturation(planes: Planes, factor: jax.Array) -> Planes:
  """S of HSV times factor, limited to [0, 1] (official).

  Hue and value stay, so every channel keeps its place between the value and
  the smallest channel, and the hue need not be known: with range = max - min
  and S = range / max, the new range is min(range * factor, max). A pixel whose
  largest channel is not above 0 has S = 0 and becomes grey, as in
  tf.image.adjust_saturation.
  """
  value, least = _extremes(planes)
  span = value - least
  limit = jnp.maximum(value, 0.0)
  new_span = jnp.minimum(span * over_pixels(factor), limit)
  ratio = new_span * _reciprocal(span)
  return [value - ratio * (value - x) for x in planes]


def hue(planes: Planes, delta: jax.Array) -> Planes:
  """H of HSV plus delta, in turns (official and torchvision alike)."""
  value, least = _extremes(planes)
  return _from_hue(
    _hue_sixths(planes, value, least=least) + 6 * over_pixels(delta),
    value,
    span=value - least,
  )


def saturation_or_hue(
  planes: Planes,
  is_saturation: jax.Array,
  *,
  saturation: jax.Array,
  hue: jax.Array,
) -> Planes:
  """`hsv_saturation` where the condition [...] holds, else `hue`.

  One conversion to HSV does for both: they differ in the range between the
  largest and smallest channel and in the hue.
  """
  value, least = _extremes(planes)
  turned = over_pixels(jnp.where(is_saturation, 0.0, 6 * hue))
  factor = over_pixels(jnp.where(is_saturation, saturation, 1.0))
  limit = jnp.where(
    over_pixels(is_saturation), jnp.maximum(value, 0.0), jnp.inf
  )
  return _from_hue(
    _hue_sixths(planes, value, least=least) + turned,
    value,
    span=jnp.minimum((value - least) * factor, limit),
  )


def yiq_hue(planes: Planes, delta: jax.Array) -> Planes:
  """A turn in the YIQ plane, `color_matrices.hue_matrix`; approximate."""
  angle = over_pixels(2 * math.pi * delta)
  cosine, sine = jnp.cos(angle), jnp.sin(angle)
  parts = color_matrices.HUE_PARTS.tolist()
  matrix = [
    [a + b * cosine + c * sine for a, b, c in zip(*rows, strict=True)]
    for rows in zip(*parts, strict=True)
  ]
  return mix(planes, matrix)


def mix(
  planes: Planes, matrix: Sequence[Sequence[jax.Array | float]]
) -> Planes:
  """Row i of the 3 x 3 matrix weighs the planes of the new channel i."""
  red, green, blue = planes
  return [a * red + b * green + c * blue for a, b, c in matrix]


def _extremes(planes: Planes) -> tuple[jax.Array, jax.Array]:
  """Largest (V of HSV) and smallest channel of each pixel."""
  red, green, blue = planes
  return (
    jnp.maximum(jnp.maximum(red, green), blue),
    jnp.minimum(jnp.minimum(red, green), blue),
  )


def _hue_sixths(
  planes: Planes, value: jax.Array, *, least: jax.Array
) -> jax.Array:
  """H of HSV in sixths of a turn, in [-1, 5]; 0 for grey."""
  red, green, blue = planes
  scale = _reciprocal(value - least)
  return jnp.where(
    red == value,
    (green - blue) * scale,
    jnp.where(
      green == value, 2.0 + (blue - red) * scale, 4.0 + (red - green) * scale
    ),
  )


def _from_hue(
  sixths: jax.Array, value: jax.Array, *, span: jax.Array
) -> Planes:
  """Colours of any hue (in sixths), value and max - min."""
  h = sixths - 6.0 * jnp.floor(sixths * (1 / 6))
  below_value = (2.0 - abs(h - 3.0), abs(h - 2.0) - 1.0, abs(h - 4.0) - 1.0)
  return [value - span * jnp.clip(share, 0.0, 1.0) for share in below_value]


def _reciprocal(span: jax.Array) -> jax.Array:
  """1 / span, 0 where that is 0."""
  return jnp.where(span > 0, 1.0 / jnp.where(span > 0, span, 1.0), 0.0)
