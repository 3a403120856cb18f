"""Which rows of a batch make up a micro-batch, on any number of devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def split(rows: jax.Array, micro_batches: int, *, group: int) -> jax.Array:
  """[N, ...] -> [N / (M G), M, G, ...], still sharded on the first axis.

  Image i goes to micro-batch i modulo M: the same images meet on any number of
  devices, and every device has as many in each micro-batch.

  Args:
    rows: Sharded on N.
    micro_batches: M.
    group: G, rows of an image.

  Raises:
    ValueError: If they do not divide.
  """
  devices = _num_devices(rows)
  if rows.shape[0] % (devices * micro_batches * group):
    raise ValueError(
      f'{rows.shape[0]} rows on {devices} devices do not divide into '
      f'{micro_batches} micro-batches (config.train.micro_batches): each would '
      'have to take the same number of images from every device'
    )
  return rows.reshape(-1, micro_batches, group, *rows.shape[1:])


def take(parts: jax.Array, number: jax.Array | int) -> jax.Array:
  """Micro-batch `number` of what `split` gave: [N / M, ...], rows sharded."""
  part = jax.lax.dynamic_index_in_dim(parts, number, 1, keepdims=False)
  return part.reshape(-1, *part.shape[2:])


def join(stacked: jax.Array, *, group: int) -> jax.Array:
  """Rows of all micro-batches [M, N / M, ...] in the order of the batch."""
  num_parts, _, *rest = stacked.shape
  parts = stacked.reshape(num_parts, -1, group, *rest)
  return jnp.moveaxis(parts, 0, 1).reshape(-1, *rest)


def rows_of_an_image(rows: jax.Array, num_images: int) -> int:
  """G; 1 where rows are no whole number of each image's."""
  count, rest = divmod(rows.shape[0], num_images)
  return count if count and not rest else 1


def _num_devices(rows: jax.Array) -> int:
  """Over how many devices an array of rows [N, ...] is sharded."""
  sharding = jax.typeof(rows).sharding
  if sharding.mesh.empty:
    return 1
  return rows.shape[0] // sharding.shard_shape(rows.shape)[0]
