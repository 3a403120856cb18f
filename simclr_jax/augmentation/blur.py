"""Gaussian blur of many images at once, as two small matrices for each."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Passes of a matrix unit round to 8 bits, coarser than a pixel.
PRECISION = jax.lax.Precision.HIGHEST


def gaussian_blur(
  image: jax.Array, sigma: jax.Array, *, radius: int
) -> jax.Array:
  """Separable Gaussian blur with zeros beyond the border.

  Args:
    image: float32 [..., C, H, W].
    sigma: [...], standard deviation in pixels; 0 leaves the image as it is.
    radius: Taps on either side; the 2 * radius + 1 weights sum to 1.

  Returns:
    float32 [..., H, W, C].
  """
  height, width = image.shape[-2:]
  rows = _blur_matrix(sigma, height, radius=radius)
  columns = rows
  if width != height:
    columns = _blur_matrix(sigma, width, radius=radius)
  image = jnp.einsum(
    '...jw,...ciw->...cij', columns, image, precision=PRECISION
  )
  return jnp.einsum('...ih,...chj->...ijc', rows, image, precision=PRECISION)


def _blur_matrix(sigma: jax.Array, size: int, *, radius: int) -> jax.Array:
  """[..., size, size]: row i holds the weights of the inputs for output i."""
  distance = jnp.arange(size)[:, None] - jnp.arange(size)
  blurred = sigma > 0
  safe_sigma = jnp.where(blurred, sigma, 1.0)[..., None, None]

  def weights(distance: jax.Array) -> jax.Array:
    return jnp.exp(-0.5 * jnp.square(distance / safe_sigma))

  taps = jnp.arange(-radius, radius + 1)[None]
  total = jnp.sum(weights(taps), axis=-1, keepdims=True)
  band = jnp.where(abs(distance) <= radius, weights(distance) / total, 0.0)
  identity = (distance == 0).astype(band.dtype)
  return jnp.where(blurred[..., None, None], band, identity)
