"""NT-Xent, the normalised temperature-scaled cross entropy of SimCLR.

Chen et al. 2020, https://arxiv.org/abs/2002.05709, equation 1 and algorithm 1;
official code tf2/objective.py:add_contrastive_loss. Rows 2i and 2i+1 hold the
two views of image i, as in the paper's algorithm (the official code
concatenates all first views and all second views instead: the same sum in
another order). N = 2B rows for B images.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

# Sums of squares below this are taken for it, as in tf.math.l2_normalize: a
# zero vector stays zero and has a finite gradient.
_EPSILON = 1e-12
# Added to a probability inside a logarithm, as in the official
# tf2/metrics.py:update_pretrain_metrics_train.
LOG_EPSILON = 1e-8


def l2_normalize(x: jax.Array) -> jax.Array:
  """Scales the vectors along the last axis to length 1.

  Args:
    x: [..., d]; computed and returned in at least float32.

  Returns:
    x * rsqrt(max(sum(x^2), 1e-12)), the official hidden_norm; so vectors
    shorter than 1e-6 come out shorter than 1.
  """
  x = at_least_float32(x)
  square_sum = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square_sum, _EPSILON))


def nt_xent(
  z_NxD: jax.Array,
  keys_NxD: jax.Array,
  *,
  temperature: float,
  scale: str,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Contrastive loss of a batch of pairs, with every other row a negative.

  With s_ij = z_i . keys_j / temperature and p(i) the other view of row i,

    loss_i = log(sum over j != i of exp(s_ij)) - s_i,p(i).

  Sharding is the caller's affair: z may be sharded by rows over devices (a
  whole number of pairs on each), keys are the same rows gathered everywhere
  (`jax.reshard(z, P())`). The logits stay sharded by rows, so nothing
  larger than N x d crosses devices. Gradients must flow through both
  arguments: stopping them at the keys is not a rescaling but another direction.

  Args:
    z_NxD: [N, d], N even; already normalised where that is wanted.
    keys_NxD: [N, d], the same values.
    temperature: Divides the similarities; > 0.
    scale: 'paper' (mean over the 2B rows) or 'official' (mean over B of the
      losses of both views: exactly twice the paper's).

  Returns:
    The loss, a scalar of at least float32, and scalar metrics without gradient:
      contrast_acc: share of first views whose nearest second view is their own
        (B-way, view 1 to view 2 alone, as in the official code).
      contrast_entropy: mean entropy in nats of those B-way softmaxes.
      positive_similarity: mean cosine of the two views of an image.
      negative_similarity: mean cosine of the views of different images.

  Raises:
    ValueError: If the shapes differ, do not consist of pairs, or hold fewer
      than two images; if temperature or scale is not allowed.
  """
  check_pairs(z_NxD, keys_NxD, temperature=temperature)
  factor = scale_factor(scale)
  z_NxD, keys_NxD = at_least_float32(z_NxD), at_least_float32(keys_NxD)
  num_images = z_NxD.shape[0] // 2
  logits_NxN = similarities(z_NxD, keys_NxD) / temperature
  rows_N = jnp.arange(2 * num_images)
  others_NxN = jnp.where(rows_N[:, None] == rows_N, -jnp.inf, logits_NxN)
  log_sums_N = jax.nn.logsumexp(others_NxN, axis=-1)
  # The positives come from a reshape within each device, not out of the N x N
  # matrix by index, which would be a gather over its columns.
  pairs_Bx2xD = z_NxD.reshape(num_images, 2, -1)
  positives_B = jnp.sum(pairs_Bx2xD[:, 0] * pairs_Bx2xD[:, 1], axis=-1)
  positives_B = positives_B / temperature
  losses_Bx2 = log_sums_N.reshape(num_images, 2) - positives_B[:, None]
  loss = factor * jnp.mean(losses_Bx2)
  logits_BxB = logits_NxN.reshape(num_images, 2, -1)[:, 0, 1::2]
  metrics = {
    **_contrast_metrics(jax.lax.stop_gradient(logits_BxB)),
    **cosine_means(
      jax.lax.stop_gradient(z_NxD), jax.lax.stop_gradient(keys_NxD)
    ),
  }
  return loss, metrics


def chance_loss(num_images: int, scale: str) -> float:
  """Loss of embeddings that tell nothing apart; paper: log(2B - 1).

  The line to beat at the start of a run: all 2B - 1 candidates of a row are
  equally similar to it.

  Args:
    num_images: B, at least 2.
    scale: As in `nt_xent`.

  Raises:
    ValueError: If one of them is not allowed.
  """
  if num_images < 2:
    raise ValueError(f'num_images = {num_images}: must be at least 2')
  return scale_factor(scale) * math.log(2 * num_images - 1)


def similarities(z_NxD: jax.Array, keys_NxD: jax.Array) -> jax.Array:
  """All dot products [N, N], rows sharded as z's.

  In full float32 on every device: a bfloat16 pass (a TPU's default) is off by
  0.4 %, which temperature 0.1 turns into 0.04 in the logits. Beside the encoder
  the cost is nothing.
  """
  return jnp.matmul(z_NxD, keys_NxD.T, precision=jax.lax.Precision.HIGHEST)


def at_least_float32(x: jax.Array) -> jax.Array:
  """bfloat16 and float16 to float32; float32 and float64 as they are."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def check_pairs(
  z_NxD: jax.Array, keys_NxD: jax.Array, *, temperature: float
) -> None:
  """Raises a ValueError unless the arguments are what `nt_xent` asks for."""
  if z_NxD.ndim != 2 or z_NxD.shape != keys_NxD.shape:
    raise ValueError(
      f'z has shape {z_NxD.shape} and keys {keys_NxD.shape}: both must be '
      '[N, d], keys the gathered copy of all rows of z; else rows would be '
      'compared with the wrong self and positive'
    )
  num_rows = z_NxD.shape[0]
  if num_rows % 2:
    raise ValueError(
      f'z has {num_rows} rows: NT-Xent takes exactly two views of each image, '
      'rows 2i and 2i+1; an odd number would pair views of different images'
    )
  if num_rows < 4:
    raise ValueError(
      f'z has {num_rows} rows, {num_rows // 2} images: at least 2 images are '
      'needed, else there is no negative and the loss is 0 whatever z is'
    )
  if not temperature > 0:
    raise ValueError(f'temperature = {temperature}: must be above 0')


def check_chunk_size(chunk_size: int) -> None:
  """Raises a ValueError unless a chunk holds at least an image's two views."""
  if chunk_size < 2:
    raise ValueError(
      f'chunk_size = {chunk_size}: must be at least 2, the two views of an '
      'image, which a chunk of keys keeps together'
    )


def scale_factor(scale: str) -> float:
  """1 for 'paper', 2 for 'official'; ValueError for anything else."""
  factors = {'paper': 1.0, 'official': 2.0}
  if scale not in factors:
    raise ValueError(
      f"scale = {scale!r}: must be 'official' (mean over images of the sum of "
      "both views' losses) or 'paper' (mean over the views, half of it)"
    )
  return factors[scale]


def _contrast_metrics(logits_BxB: jax.Array) -> dict[str, jax.Array]:
  """Accuracy and entropy of first views (rows) choosing second views."""
  num_images = logits_BxB.shape[0]
  correct_B = jnp.argmax(logits_BxB, axis=-1) == jnp.arange(num_images)
  probs_BxB = jax.nn.softmax(logits_BxB, axis=-1)
  entropies_B = -jnp.sum(probs_BxB * jnp.log(probs_BxB + LOG_EPSILON), axis=-1)
  return {
    'contrast_acc': jnp.mean(correct_B, dtype=logits_BxB.dtype),
    'contrast_entropy': jnp.mean(entropies_B),
  }


def cosine_means(z_NxD: jax.Array, keys_NxD: jax.Array) -> dict[str, jax.Array]:
  """Mean cosine of positives and of negatives, without the N x N cosines.

  Over all ordered pairs, sum of u_i . u_j = |sum of u_j|^2; taking off
  the N selves and the N ordered positives leaves the N(N - 2) negatives.
  """
  units_NxD = l2_normalize(z_NxD)
  num_rows = units_NxD.shape[0]
  pairs_Bx2xD = units_NxD.reshape(num_rows // 2, 2, -1)
  positive = jnp.mean(jnp.sum(pairs_Bx2xD[:, 0] * pairs_Bx2xD[:, 1], axis=-1))
  total = jnp.sum(jnp.square(jnp.sum(l2_normalize(keys_NxD), axis=0)))
  own = jnp.sum(jnp.square(units_NxD))
  negatives = total - own - num_rows * positive
  return {
    'positive_similarity': positive,
    'negative_similarity': negatives / float(num_rows * (num_rows - 2)),
  }
