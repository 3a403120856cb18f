"""NT-Xent against gathered keys, a chunk of them at a time."""

from __future__ import annotations

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


def nt_xent_chunked(
  z_NxD: jax.Array,
  keys_NxD: jax.Array,
  *,
  temperature: float,
  scale: str,
  chunk_size: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`nt_xent` without its N x N logits; same value, gradient and metrics.

  Each device holds its rows' logits with one chunk of keys: (N / devices) x
  chunk_size instead of (N / devices) x N, about four arrays of that size. Costs
  one more product of rows and keys than the plain form, and one less array of
  N x N written and read.

  Sharding is the caller's affair, as in `nt_xent`: `jax.reshard(z, P())` is
  the only gather of embeddings; beside it the N log-sums are gathered (under
  Explicit mesh axes; without a mesh there is nothing to gather). The whole
  gradient, also of z in its role as key, arrives at z itself: `keys_NxD` are
  taken as constants, so that no N x d gradient crosses devices. Reverse mode
  only.

  Args:
    z_NxD: [N, d], as in `nt_xent`.
    keys_NxD: [N, d], the same values, on every device. Other values would give
      a gradient of neither.
    temperature: As in `nt_xent`.
    scale: As in `nt_xent`.
    chunk_size: Most keys compared at a time, at least 2; need not divide N.

  Returns:
    As `nt_xent`.

  Raises:
    ValueError: As `nt_xent`, and if chunk_size is below 2.
  """
  check_pairs(z_NxD, keys_NxD, temperature=temperature)
  check_chunk_size(chunk_size)
  z_NxD, keys_NxD = at_least_float32(z_NxD), at_least_float32(keys_NxD)

  def passes(
    pairs_BxVxD: jax.Array, keys_NxD: jax.Array | None, with_gradient: bool
  ) -> streaming.RowResults:
    assert keys_NxD is not None
    num_images = pairs_BxVxD.shape[0]
    keys_KxVxCxD = streaming.split_pairs(
      keys_NxD.reshape(num_images, 2, -1), chunk_size
    )
    images_KxC = streaming.number_images(
      keys_KxVxCxD, num_images=num_images, first=0
    )
    rows = streaming.Rows(pairs_BxVxD, jnp.arange(num_images))
    sums = streaming.add_sums(
      streaming.start_sums(pairs_BxVxD),
      rows,
      block=streaming.Block(keys_KxVxCxD, images_KxC),
      temperature=temperature,
    )
    log_sums_BxV = sums.log_sums()
    pulls = streaming.add_pulls(
      streaming.start_pulls(pairs_BxVxD, with_gradient=with_gradient),
      rows,
      sums=sums,
      block=streaming.Block(
        keys_KxVxCxD,
        images_KxC,
        streaming.split_pairs(_gather(log_sums_BxV), chunk_size),
      ),
      temperature=temperature,
    )
    return streaming.RowResults(log_sums_BxV, sums.correct(), pulls)

  loss, metrics = streaming.streamed_nt_xent(
    passes, z_NxD, keys_NxD, temperature=temperature, scale=scale
  )
  return loss, metrics | cosine_means(
    jax.lax.stop_gradient(z_NxD), jax.lax.stop_gradient(keys_NxD)
  )


def _gather(log_sums_BxV: jax.Array) -> jax.Array:
  """All rows' sums on every device: N numbers, where there is a mesh."""
  if jax.typeof(log_sums_BxV).sharding.mesh.empty:
    return log_sums_BxV
  return jax.reshard(log_sums_BxV, P())
