"""Crop, flip and resize of many images at once, as two matrices for each view.

Row i of a matrix holds the weights of the source's rows (or columns) for row i
of the view. The box moves and scales the sample positions, a flip reverses
them, so a box of any size costs the same and shapes are fixed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from simclr_jax.augmentation.blur import PRECISION

# TensorFlow looks its cubic weights up in a table of so many offsets.
_TABLE_SIZE = 1024


def crop_and_resize(
  pixels: jax.Array,
  boxes: jax.Array,
  *,
  size: int,
  method: str,
  flip: jax.Array | None = None,
) -> jax.Array:
  """V boxes of each image, resized to squares, without antialias.

  Equal to `data.crops.crop_and_resize`, then flipped.

  Args:
    pixels: uint8 [B, H, W, C].
    boxes: [B, V, 4] of (top, left, height, width) in pixels, within the image.
    size: Side of the views in pixels.
    method: 'bicubic' or 'bilinear'.
    flip: [B, V]; where it holds, left and right are exchanged.

  Returns:
    float32 [B, V, C, size, size], about [0, 1]: bicubic resizing overshoots.
  """
  height, width = pixels.shape[1:3]
  top, left, box_height, box_width = jnp.moveaxis(
    boxes.astype(jnp.float32), -1, 0
  )
  rows = resize_matrix(
    top, box_height, source_size=height, size=size, method=method
  )
  columns = resize_matrix(
    left, box_width, source_size=width, size=size, method=method, reverse=flip
  )
  # Rows first: all views of an image and its columns make one large product.
  half = jnp.einsum(
    'bvih,bhwc->bviwc', rows, pixels.astype(jnp.float32), precision=PRECISION
  )
  made = jnp.einsum('bvjw,bviwc->bvcij', columns, half, precision=PRECISION)
  return made * (1 / 255)


def resize_matrix(
  begin: jax.Array,
  extent: jax.Array,
  *,
  source_size: int,
  size: int,
  method: str,
  reverse: jax.Array | None = None,
) -> jax.Array:
  """Weights that resample [begin, begin + extent) of a line of pixels.

  Half-pixel centres. Pixels outside the interval have no weight and the others
  are scaled to sum to 1, as in TensorFlow (resize_bicubic_op.cc; for bilinear
  that is the same as repeating the border). Keys' cubic has a = -0.5, and
  like TensorFlow's its offset is rounded to 1/1024 pixel.

  Args:
    begin: float32 [...], whole numbers.
    extent: float32 [...], whole numbers of at least 1.
    source_size: Pixels of the line.
    size: Pixels that come out.
    method: 'bicubic' or 'bilinear'.
    reverse: [...]; where it holds, the first comes out last.

  Returns:
    float32 [..., size, source_size].
  """
  places = jnp.arange(size, dtype=jnp.float32)
  if reverse is not None:
    places = jnp.where(reverse[..., None], size - 1 - places, places)
  scale = (extent / size)[..., None]
  at = (places + 0.5) * scale - 0.5  # from the first pixel's centre
  if method == 'bicubic':
    whole = jnp.floor(at)
    at = whole + jnp.round((at - whole) * _TABLE_SIZE) / _TABLE_SIZE
  source = jnp.arange(source_size, dtype=jnp.float32)
  source = source - begin[..., None]
  inside = (source >= 0) & (source < extent[..., None])
  distance = abs(at[..., :, None] - source[..., None, :])
  kernel = {'bicubic': _keys_cubic, 'bilinear': _triangle}[method]
  weights = jnp.where(inside[..., None, :], kernel(distance), 0.0)
  return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _triangle(distance: jax.Array) -> jax.Array:
  return jnp.maximum(1.0 - distance, 0.0)


def _keys_cubic(distance: jax.Array) -> jax.Array:
  """Keys (1981), a = -0.5."""
  near = (1.5 * distance - 2.5) * distance * distance + 1.0
  far = ((2.5 - 0.5 * distance) * distance - 4.0) * distance + 2.0
  return jnp.where(distance <= 1.0, near, jnp.where(distance < 2.0, far, 0.0))
