"""NT-Xent with the keys passed around a ring of devices, never gathered."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from simclr_jax.losses import streaming
from simclr_jax.losses.nt_xent import (
  at_least_float32,
  check_chunk_size,
  check_pairs,
  cosine_means,
)


def nt_xent_ring(
  z_NxD: jax.Array,
  *,
  temperature: float,
  scale: str,
  chunk_size: int,
  axis_name: str,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`nt_xent` without gathered keys; same value, gradient and metrics.

  Every device keeps its N / D rows and sends the block of N / D keys that it
  has just compared them with to the next one, D times in each of the two
  passes (the D-th brings every block home); in the second the block's
  log-sums travel with it. The transfer of a block does not wait for its
  comparison, so that it can run beside it. Within a block the keys are taken
  chunk_size at a time. Memory per device: about four arrays of (N / D) x
  min(chunk_size, N / D), and a few of N / D x d.

  Args:
    z_NxD: [N, d], sharded by rows over `axis_name` with a whole number of
      pairs on each device; already normalised where that is wanted.
    temperature: As in `nt_xent`.
    scale: As in `nt_xent`.
    chunk_size: Most keys compared at a time, at least 2; need not divide N / D.
    axis_name: Of the current mesh (`jax.set_mesh`); the ring.

  Returns:
    As `nt_xent`. Reverse mode only.

  Raises:
    ValueError: As `nt_xent`; if chunk_size is below 2, no mesh with this axis
      is set or the images do not divide over it.
  """
  check_pairs(z_NxD, z_NxD, temperature=temperature)
  check_chunk_size(chunk_size)
  _check_axis(z_NxD.shape[0], axis_name)
  z_NxD = at_least_float32(z_NxD)

  def passes(
    pairs_BxVxD: jax.Array, keys: Any, with_gradient: bool
  ) -> streaming.RowResults:
    del keys  # They are the rows of the other devices.
    return jax.shard_map(
      lambda pairs: _passes_on_device(
        pairs,
        temperature=temperature,
        chunk_size=chunk_size,
        axis_name=axis_name,
        with_gradient=with_gradient,
      ),
      in_specs=P(axis_name),
      out_specs=P(axis_name),
    )(pairs_BxVxD)

  loss, metrics = streaming.streamed_nt_xent(
    passes, z_NxD, None, temperature=temperature, scale=scale
  )
  units_NxD = jax.lax.stop_gradient(z_NxD)
  return loss, metrics | cosine_means(units_NxD, units_NxD)


def _passes_on_device(
  pairs_BxVxD: jax.Array,
  *,
  temperature: float,
  chunk_size: int,
  axis_name: str,
  with_gradient: bool,
) -> streaming.RowResults:
  """Both passes of this device's rows over the blocks of all devices."""
  num_devices = jax.lax.axis_size(axis_name)
  device = jax.lax.axis_index(axis_name)
  num_images = pairs_BxVxD.shape[0]
  rows = streaming.Rows(
    pairs_BxVxD, device * num_images + jnp.arange(num_images)
  )

  def rotate(block: Any) -> Any:
    ring = [(k, (k + 1) % num_devices) for k in range(num_devices)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis_name, ring), block)

  def images_at(step: jax.Array, keys_KxVxCxD: jax.Array) -> jax.Array:
    # After k steps the block of the k-th device before this one is here.
    owner = (device - step) % num_devices
    return streaming.number_images(
      keys_KxVxCxD, num_images=num_images, first=owner * num_images
    )

  def first(carry: Any, step: jax.Array) -> tuple[Any, None]:
    sums, keys = carry
    coming = rotate(keys)
    block = streaming.Block(keys, images_at(step, keys))
    sums = streaming.add_sums(sums, rows, block=block, temperature=temperature)
    return (sums, coming), None

  def second(carry: Any, step: jax.Array) -> tuple[Any, None]:
    pulls, (keys, log_sums) = carry
    coming = rotate((keys, log_sums))
    block = streaming.Block(keys, images_at(step, keys), log_sums)
    pulls = streaming.add_pulls(
      pulls, rows, sums=sums, block=block, temperature=temperature
    )
    return (pulls, coming), None

  steps = jnp.arange(num_devices)
  start = streaming.start_sums(pairs_BxVxD)
  keys = streaming.split_pairs(pairs_BxVxD, chunk_size)
  (sums, keys), _ = jax.lax.scan(first, (start, keys), steps)
  log_sums_BxV = sums.log_sums()
  pulls = streaming.start_pulls(pairs_BxVxD, with_gradient=with_gradient)
  log_sums = streaming.split_pairs(log_sums_BxV, chunk_size)
  (pulls, _), _ = jax.lax.scan(second, (pulls, (keys, log_sums)), steps)
  return streaming.RowResults(log_sums_BxV, sums.correct(), pulls)


def _check_axis(num_rows: int, axis_name: str) -> None:
  sizes = dict(jax.sharding.get_abstract_mesh().shape)
  if axis_name not in sizes:
    raise ValueError(
      f'axis_name = {axis_name!r}: the ring needs a current mesh with that '
      f'axis (jax.set_mesh), and there is {sizes or "none"}; without one, '
      'nt_xent_chunked is the same'
    )
  if num_rows // 2 % sizes[axis_name]:
    raise ValueError(
      f'z has {num_rows} rows, {num_rows // 2} images, which do not divide '
      f'over the {sizes[axis_name]} devices of axis {axis_name!r}: pairs would '
      'be torn apart'
    )
