"""NT-Xent over chunks of keys: no N x N logits are ever held.

What `nt_xent_chunked` and `nt_xent_ring` share. Both go over the keys twice:

1. `add_sums`: the log_sum l_i = log(sum over j != i of exp(s_ij)) of every row,
   as a running maximum and a running sum of exponentials (Milakov and
   Gimelshein 2018, https://arxiv.org/abs/1805.02867); beside it the same of
   each first view over all second views, for the metrics.
2. `add_pulls`: the gradient. With the loss factor / N * sum_i (l_i - s_i,p(i))
   and s_ij = z_i . z_j / temperature = s_ji, row i collects from its own
   softmax and from that of every row which has it as a key:

     dL/dz_i = factor / (N * temperature) * (-2 z_p(i) + sum over j != i of
               (exp(s_ij - l_i) + exp(s_ij - l_j)) z_j).

   So one pass gives all of it, and nothing flows through the keys. The
   entropies, which need the finished sums of the first pass, come along.

The loss is one number, so its gradient is known up to a factor once the value
is: a differentiated call computes both and keeps N x d numbers, where the
backward pass of plain logits needs N x N.

A chunk holds C whole images, all their first views before all their second
views: the similarities of first to second views are then one contiguous part
of its logits [B, 2, 2, C] (image and view of the row, view and image of the
key).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from simclr_jax.losses.nt_xent import LOG_EPSILON, scale_factor


class Rows(NamedTuple):
  """The rows that collect.

  Attributes:
    pairs_BxVxD: The two views of B images.
    images_B: Which images these are.
  """

  pairs_BxVxD: jax.Array
  images_B: jax.Array


class Block(NamedTuple):
  """Keys in K chunks of C images; scanned along the first axis.

  Attributes:
    keys_KxVxCxD: Zeros where there is no image.
    images_KxC: Which images these are; -1 is none.
    log_sums_KxVxC: l of the same rows; None in the first pass.
  """

  keys_KxVxCxD: jax.Array
  images_KxC: jax.Array
  log_sums_KxVxC: jax.Array | None = None


class Sums(NamedTuple):
  """What the first pass knows of each row after some of the keys.

  Attributes:
    max_BxV, sum_BxV: Largest logit (but for the row's own) and the sum of
      exp(logit - max).
    cross_max_B, cross_sum_B: The same of first views over second views alone.
    own_B: Logit of a first view and its own second view.
    earlier_B: Largest of a first view and second views of earlier images; of
      equal logits the first is the nearest, as argmax has it.
  """

  max_BxV: jax.Array
  sum_BxV: jax.Array
  cross_max_B: jax.Array
  cross_sum_B: jax.Array
  own_B: jax.Array
  earlier_B: jax.Array

  def log_sums(self) -> jax.Array:
    """l [B, V], once all keys are in."""
    return self.max_BxV + jnp.log(self.sum_BxV)

  def cross_log_sums(self) -> jax.Array:
    """log of the sum of exp over second views [B], once all keys are in."""
    return self.cross_max_B + jnp.log(self.cross_sum_B)

  def correct(self) -> jax.Array:
    """Whether the nearest second view is the own one, bool [B]."""
    nearest = self.own_B == self.cross_max_B
    return nearest & (self.earlier_B < self.own_B)


class Pulls(NamedTuple):
  """What the second pass has of each row after some of the keys.

  Attributes:
    entropy_B: Of a first view's softmax over second views, in nats.
    pull_BxVxD: Keys weighted by both softmaxes; None without gradient.
  """

  entropy_B: jax.Array
  pull_BxVxD: jax.Array | None


class RowResults(NamedTuple):
  """Of every row after both passes, sharded as the rows.

  Attributes:
    log_sums_BxV: l of each row.
    correct_B: `Sums.correct`.
    pulls: Of all keys.
  """

  log_sums_BxV: jax.Array
  correct_B: jax.Array
  pulls: Pulls


# (pairs [B, V, D], keys, with_gradient) -> both passes over all keys.
PassesFn = Callable[[jax.Array, jax.Array | None, bool], RowResults]


def split_pairs(pairs_BxVxF: jax.Array, chunk_size: int) -> jax.Array:
  """[B, 2, ...] as chunks [K, 2, C, ...] of at most chunk_size rows.

  Of equal length as far as whole images allow: no padding where K divides B,
  else fewer than K zeros, all in the last chunk, which has an image too.
  """
  num_images = pairs_BxVxF.shape[0]
  num_chunks = -(-num_images // (chunk_size // 2))
  length = -(-num_images // num_chunks)
  padding = [(0, num_chunks * length - num_images)]
  padding += [(0, 0)] * (pairs_BxVxF.ndim - 1)
  chunks = jnp.pad(pairs_BxVxF, padding).reshape(
    num_chunks, length, *pairs_BxVxF.shape[1:]
  )
  return chunks.swapaxes(1, 2)


def number_images(
  chunks_KxVxCxF: jax.Array, *, num_images: int, first: jax.Array | int
) -> jax.Array:
  """images_KxC of chunks whose first image has the number `first`."""
  num_chunks, _, length = chunks_KxVxCxF.shape[:3]
  places = jnp.arange(num_chunks * length).reshape(num_chunks, length)
  if num_chunks * length == num_images:
    return first + places
  return jnp.where(places < num_images, first + places, -1)


def start_sums(pairs_BxVxD: jax.Array) -> Sums:
  """Before any key; laid over devices as the rows."""
  like_BxV = pairs_BxVxD[:, :, 0]
  like_B = pairs_BxVxD[:, 0, 0]
  nothing_B = jnp.full_like(like_B, -jnp.inf)
  return Sums(
    max_BxV=jnp.full_like(like_BxV, -jnp.inf),
    sum_BxV=jnp.zeros_like(like_BxV),
    cross_max_B=nothing_B,
    cross_sum_B=jnp.zeros_like(like_B),
    own_B=nothing_B,
    earlier_B=nothing_B,
  )


def add_sums(
  sums: Sums,
  rows: Rows,
  *,
  block: Block,
  temperature: float,
) -> Sums:
  """The first pass over one block of keys, chunk by chunk."""

  def add(sums: Sums, chunk: Block) -> tuple[Sums, None]:
    logits = _logits(rows, chunk, temperature)
    max_BxV = jnp.maximum(sums.max_BxV, jnp.max(logits, (2, 3)))
    cross_BxC, images_C = logits[:, 0, 1], chunk.images_KxC
    cross_max_B = jnp.maximum(sums.cross_max_B, jnp.max(cross_BxC, 1))
    own_BxC = images_C == rows.images_B[:, None]
    earlier_BxC = images_C < rows.images_B[:, None]
    return Sums(
      max_BxV=max_BxV,
      sum_BxV=sums.sum_BxV * jnp.exp(sums.max_BxV - max_BxV)
      + jnp.sum(jnp.exp(logits - max_BxV[:, :, None, None]), (2, 3)),
      cross_max_B=cross_max_B,
      cross_sum_B=sums.cross_sum_B * jnp.exp(sums.cross_max_B - cross_max_B)
      + jnp.sum(jnp.exp(cross_BxC - cross_max_B[:, None]), 1),
      own_B=jnp.maximum(sums.own_B, _max_where(own_BxC, cross_BxC)),
      earlier_B=jnp.maximum(sums.earlier_B, _max_where(earlier_BxC, cross_BxC)),
    ), None

  return jax.lax.scan(add, sums, block)[0]


def start_pulls(pairs_BxVxD: jax.Array, *, with_gradient: bool) -> Pulls:
  """Before any key; laid over devices as the rows."""
  pull = jnp.zeros_like(pairs_BxVxD) if with_gradient else None
  return Pulls(jnp.zeros_like(pairs_BxVxD[:, 0, 0]), pull)


def add_pulls(
  pulls: Pulls,
  rows: Rows,
  *,
  sums: Sums,
  block: Block,
  temperature: float,
) -> Pulls:
  """The second pass over one block of keys, chunk by chunk."""
  log_sums_BxVx1x1 = sums.log_sums()[:, :, None, None]
  cross_log_sums_Bx1 = sums.cross_log_sums()[:, None]

  def add(pulls: Pulls, chunk: Block) -> tuple[Pulls, None]:
    if pulls.pull_BxVxD is None:
      # The entropies ask for first views against second views alone.
      cross_BxC = _cross_logits(rows, chunk, temperature)
      pull = None
    else:
      assert chunk.log_sums_KxVxC is not None
      logits = _logits(rows, chunk, temperature)
      cross_BxC = logits[:, 0, 1]
      weights = jnp.exp(logits - log_sums_BxVx1x1)
      # Not exp(l_i - l_j) times the same: that may overflow.
      weights += jnp.exp(logits - chunk.log_sums_KxVxC)
      pull = pulls.pull_BxVxD + jnp.einsum(
        'bvwc,wcd->bvd',
        weights,
        chunk.keys_KxVxCxD,
        precision=jax.lax.Precision.HIGHEST,
      )
    probs_BxC = jnp.exp(cross_BxC - cross_log_sums_Bx1)
    terms_BxC = probs_BxC * jnp.log(probs_BxC + LOG_EPSILON)
    return Pulls(pulls.entropy_B - jnp.sum(terms_BxC, 1), pull), None

  return jax.lax.scan(add, pulls, block)[0]


def _logits(rows: Rows, chunk: Block, temperature: float) -> jax.Array:
  """[B, 2, 2, C]; -inf for a row and itself and where there is no key."""
  logits = jnp.einsum(
    'bvd,wcd->bvwc',
    rows.pairs_BxVxD,
    chunk.keys_KxVxCxD,
    precision=jax.lax.Precision.HIGHEST,
  )
  same_image_Bx1x1xC = (
    rows.images_B[:, None, None, None] == chunk.images_KxC[None, None, None, :]
  )
  same_view_1x2x2x1 = jnp.eye(2, dtype=bool)[None, :, :, None]
  missing_C = chunk.images_KxC < 0
  return jnp.where(
    same_image_Bx1x1xC & same_view_1x2x2x1 | missing_C,
    -jnp.inf,
    logits / temperature,
  )


def _cross_logits(rows: Rows, chunk: Block, temperature: float) -> jax.Array:
  """[B, C] of first views and second views; -inf where there is no key."""
  logits_BxC = jnp.matmul(
    rows.pairs_BxVxD[:, 0],
    chunk.keys_KxVxCxD[1].T,
    precision=jax.lax.Precision.HIGHEST,
  )
  return jnp.where(chunk.images_KxC < 0, -jnp.inf, logits_BxC / temperature)


def _max_where(wanted_BxC: jax.Array, logits_BxC: jax.Array) -> jax.Array:
  return jnp.max(jnp.where(wanted_BxC, logits_BxC, -jnp.inf), 1)


def streamed_nt_xent(
  passes: PassesFn,
  z_NxD: jax.Array,
  keys_NxD: jax.Array | None,
  *,
  temperature: float,
  scale: str,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Loss, contrast_acc and contrast_entropy, with the gradient of all to z.

  Args:
    passes: Both passes over all keys, wherever these lie.
    z_NxD: [N, d] in at least float32.
    keys_NxD: Handed on to `passes`; constants.
    temperature: As in `nt_xent`.
    scale: As in `nt_xent`.
  """
  factor = scale_factor(scale)
  num_rows = z_NxD.shape[0]

  def evaluate(
    z_NxD: jax.Array, keys_NxD: jax.Array | None, with_gradient: bool
  ) -> tuple[tuple[jax.Array, dict[str, jax.Array]], jax.Array | None]:
    pairs_BxVxD = z_NxD.reshape(num_rows // 2, 2, -1)
    rows = passes(pairs_BxVxD, keys_NxD, with_gradient)
    positives_B = jnp.sum(pairs_BxVxD[:, 0] * pairs_BxVxD[:, 1], axis=-1)
    losses_BxV = rows.log_sums_BxV - positives_B[:, None] / temperature
    metrics = {
      'contrast_acc': jnp.mean(rows.correct_B, dtype=z_NxD.dtype),
      'contrast_entropy': jnp.mean(rows.pulls.entropy_B),
    }
    value = factor * jnp.mean(losses_BxV), metrics
    if rows.pulls.pull_BxVxD is None:
      return value, None
    gradient = rows.pulls.pull_BxVxD - 2 * pairs_BxVxD[:, ::-1]
    gradient *= factor / (num_rows * temperature)
    return value, gradient.reshape(z_NxD.shape)

  @jax.custom_vjp
  def contrast(
    z_NxD: jax.Array, keys_NxD: jax.Array | None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    return evaluate(z_NxD, keys_NxD, False)[0]

  def forward(z_NxD: jax.Array, keys_NxD: jax.Array | None) -> Any:
    return evaluate(z_NxD, keys_NxD, True)

  def backward(gradient_NxD: jax.Array, cotangents: Any) -> Any:
    return cotangents[0] * gradient_NxD, None

  contrast.defvjp(forward, backward)
  if keys_NxD is not None:
    keys_NxD = jax.lax.stop_gradient(keys_NxD)
  return contrast(z_NxD, keys_NxD)
