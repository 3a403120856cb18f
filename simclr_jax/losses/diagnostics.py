"""What embeddings look like beyond the loss: costlier, without gradients.

All functions take N = 2B rows in which rows 2i and 2i+1 are the two views of
image i. `z` may be sharded by rows; `keys` are the same rows gathered
(`jax.reshard(z, P())`). Accumulated in at least float32. What needs all N x N
similarities takes a block of rows at a time, so that a large batch is judged in
the memory of its loss.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from simclr_jax.losses.nt_xent import (
  at_least_float32,
  check_pairs,
  l2_normalize,
  similarities,
)

# Of the standard deviation 1 / sqrt(d) that each dimension has on a sphere
# evenly filled with embeddings.
DEAD_STD_SHARE = 0.01
# Wang and Isola's t.
UNIFORMITY_T = 2.0
# The hardest one in so many negatives.
HARDEST_ONE_IN = 100
# Similarities that a device holds at a time (64 MiB in float32; a sort needs a
# few copies).
BLOCK_SIMILARITIES = 2**24


def diagnose(
  z_NxD: jax.Array, keys_NxD: jax.Array, *, temperature: float
) -> dict[str, jax.Array]:
  """All diagnostics of h or z, of rows first scaled to length 1.

  Costs N x N similarities and the eigenvalues of a d x d matrix, so it belongs
  on a fraction of the steps.

  Args:
    z_NxD: [N, d] embeddings of either kind.
    keys_NxD: [N, d], all of them on every device.
    temperature: Of the loss; for hardest_negative_weight.

  Returns:
    Scalars named after the functions of this file.

  Raises:
    ValueError: As `losses.nt_xent`.
  """
  check_pairs(z_NxD, keys_NxD, temperature=temperature)
  units_NxD = l2_normalize(jax.lax.stop_gradient(z_NxD))
  unit_keys_NxD = l2_normalize(jax.lax.stop_gradient(keys_NxD))
  return {
    'alignment': alignment(units_NxD),
    'uniformity': uniformity(units_NxD, unit_keys_NxD),
    'effective_rank': effective_rank(unit_keys_NxD),
    'dead_dimensions': dead_dimensions(unit_keys_NxD),
    'hardest_negative_weight': hardest_negative_weight(
      units_NxD, unit_keys_NxD, temperature=temperature
    ),
  }


def alignment(units_NxD: jax.Array) -> jax.Array:
  """Mean squared distance between the two views of an image; 0 is perfect.

  Wang and Isola 2020, https://arxiv.org/abs/2005.10242, equation 6, alpha = 2.

  Args:
    units_NxD: [N, d] rows of length 1.
  """
  units_NxD = at_least_float32(units_NxD)
  pairs_Bx2xD = units_NxD.reshape(units_NxD.shape[0] // 2, 2, -1)
  gaps_BxD = pairs_Bx2xD[:, 0] - pairs_Bx2xD[:, 1]
  return jnp.mean(jnp.sum(jnp.square(gaps_BxD), axis=-1))


def uniformity(units_NxD: jax.Array, unit_keys_NxD: jax.Array) -> jax.Array:
  """log of the mean of exp(-2 |u_i - u_j|^2); 0 is collapsed, lower is better.

  Wang and Isola 2020, https://arxiv.org/abs/2005.10242, equation 7, t = 2. The
  mean is over all views of different images: the two views of one image
  are not independent draws, and a row and itself would add a constant.

  Args:
    units_NxD: [N, d] rows of length 1.
    unit_keys_NxD: [N, d], all of them.
  """

  def kernel_sums(
    cosines_MxN: jax.Array, same_image_MxN: jax.Array
  ) -> jax.Array:
    # Not logsumexp over both axes: that would need the maximum over devices,
    # and exponents between -8 and 0 need none.
    kernels_MxN = jnp.exp(-UNIFORMITY_T * (2 - 2 * cosines_MxN))
    return jnp.sum(jnp.where(same_image_MxN, 0.0, kernels_MxN), axis=-1)

  num_rows = units_NxD.shape[0]
  total = jnp.sum(_by_row(kernel_sums, units_NxD, unit_keys_NxD))
  return jnp.log(total / float(num_rows * (num_rows - 2)))


def effective_rank(keys_NxD: jax.Array) -> jax.Array:
  """exp of the entropy of the singular values, between 1 and d.

  Roy and Vetterli 2007, "The effective rank". The singular values are those of
  the centred embeddings (a shared offset is no variation), as roots of the
  eigenvalues of their d x d covariance; eigenvalues below rounding error
  (d * machine epsilon of the largest) count as 0: in float32 and for d = 128,
  singular values below 0.4 % of the largest. Embeddings without any variation
  give 1.

  Args:
    keys_NxD: [N, d] gathered embeddings, of any length.
  """
  keys_NxD = at_least_float32(keys_NxD)
  centred_NxD = keys_NxD - jnp.mean(keys_NxD, axis=0)
  # Scaled so that tiny embeddings do not underflow when squared.
  largest = jnp.max(jnp.abs(centred_NxD))
  centred_NxD = centred_NxD / jnp.where(largest > 0, largest, 1)
  covariance_DxD = jnp.matmul(
    centred_NxD.T, centred_NxD, precision=jax.lax.Precision.HIGHEST
  )
  eigenvalues_D = jnp.linalg.eigvalsh(covariance_DxD)
  dim = eigenvalues_D.shape[0]
  floor = dim * jnp.finfo(eigenvalues_D.dtype).eps * eigenvalues_D[-1]
  singular_D = jnp.where(
    eigenvalues_D > floor, jnp.sqrt(jnp.maximum(eigenvalues_D, 0)), 0
  )
  total = jnp.sum(singular_D)
  shares_D = singular_D / jnp.where(total > 0, total, 1)
  return jnp.exp(jnp.sum(jax.scipy.special.entr(shares_D)))


def dead_dimensions(unit_keys_NxD: jax.Array) -> jax.Array:
  """How many dimensions hardly vary over the batch.

  Args:
    unit_keys_NxD: [N, d] gathered rows of length 1.

  Returns:
    Number of dimensions whose standard deviation is below 0.01 / sqrt(d), one
    per cent of that of embeddings spread evenly over the sphere.
  """
  unit_keys_NxD = at_least_float32(unit_keys_NxD)
  threshold = DEAD_STD_SHARE / unit_keys_NxD.shape[1] ** 0.5
  dead_D = jnp.std(unit_keys_NxD, axis=0) < threshold
  return jnp.sum(dead_D, dtype=unit_keys_NxD.dtype)


def hardest_negative_weight(
  z_NxD: jax.Array, keys_NxD: jax.Array, *, temperature: float
) -> jax.Array:
  """Share of the softmax weight that falls on the hardest negatives.

  For each row, the softmax of z_i . keys_j / temperature over its N - 2
  negatives j alone (neither itself nor its positive); summed over the most
  similar 1 % of them (max(1, (N - 2) // 100)); mean over the rows. Near 1 means
  that a few negatives, perhaps of the same class, are all the loss sees;
  around 0.01 that all weigh the same.

  Args:
    z_NxD: [N, d], as the loss gets them.
    keys_NxD: [N, d], all of them.
    temperature: Of the loss.
  """
  num_hardest = max(1, (z_NxD.shape[0] - 2) // HARDEST_ONE_IN)

  def weights(dots_MxN: jax.Array, same_image_MxN: jax.Array) -> jax.Array:
    negatives_MxN = jnp.where(same_image_MxN, -jnp.inf, dots_MxN / temperature)
    # Not lax.top_k: XLA does not split it over devices and gathers its operand.
    hardest_MxK = jnp.sort(negatives_MxN, axis=-1)[:, -num_hardest:]
    log_weights_M = jax.nn.logsumexp(hardest_MxK, axis=-1)
    log_weights_M -= jax.nn.logsumexp(negatives_MxN, axis=-1)
    return jnp.exp(log_weights_M)

  return jnp.mean(_by_row(weights, z_NxD, keys_NxD))


def _by_row(
  fn: Callable[[jax.Array, jax.Array], jax.Array],
  z_NxD: jax.Array,
  keys_NxD: jax.Array,
) -> jax.Array:
  """fn of every row's similarities, for a block of M rows at a time.

  A block is every k-th row, so that each device has its share of it and rows
  stay where they are.

  Args:
    fn: (similarities [M, N], [M, N] true where row and key are views of one
      image) -> [M].
    z_NxD: [N, d], by rows on the devices.
    keys_NxD: [N, d], all of them.

  Returns:
    [N] results in some order.
  """
  z_NxD, keys_NxD = at_least_float32(z_NxD), at_least_float32(keys_NxD)
  num_rows = z_NxD.shape[0]
  local_rows = jax.typeof(z_NxD).sharding.shard_shape(z_NxD.shape)[0]
  num_blocks = next(
    k
    for k in range(1, local_rows + 1)
    if local_rows % k == 0
    and (k == local_rows or local_rows // k * num_rows <= BLOCK_SIMILARITIES)
  )
  key_images_N = jnp.arange(num_rows) // 2

  def block(rows: tuple[jax.Array, jax.Array]) -> jax.Array:
    z_MxD, images_M = rows
    same_image_MxN = images_M[:, None] == key_images_N
    return fn(similarities(z_MxD, keys_NxD), same_image_MxN)

  return jax.lax.map(
    block,
    (
      z_NxD.reshape(-1, num_blocks, z_NxD.shape[1]).swapaxes(0, 1),
      key_images_N.reshape(-1, num_blocks).swapaxes(0, 1),
    ),
  )
