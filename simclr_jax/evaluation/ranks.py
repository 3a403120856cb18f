"""Rank of the true class among scores, and what counts as top 5."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax.evaluation.occurring import Occurring


def rank_of_class(scores_bxK: jax.Array, label_bx1: jax.Array) -> jax.Array:
  """Classes ahead of the true one; of equal scores the lower class is ahead.

  Args:
    scores_bxK: f32 [..., b, K], the highest is the prediction.
    label_bx1: i32 [..., b, 1], broadcast against the leading axes.

  Returns:
    i32 [..., b], 0 where the prediction is right; K for a label of K or above,
    a class that nothing was fitted to.
  """
  label_bx1 = jnp.broadcast_to(label_bx1, (*scores_bxK.shape[:-1], 1))
  own_bx1 = jnp.take_along_axis(scores_bxK, label_bx1, axis=-1)
  lower = jnp.arange(scores_bxK.shape[-1]) < label_bx1
  above = (scores_bxK > own_bx1) | ((scores_bxK == own_bx1) & lower)
  unknown_bx1 = label_bx1 >= scores_bxK.shape[-1]
  return jnp.sum(above | unknown_bx1, axis=-1, dtype=jnp.int32)


def in_top5(rank_n: np.ndarray, occurring: Occurring) -> np.ndarray | None:
  """Whether within the top 5; None where five classes or fewer occur."""
  return rank_n < 5 if occurring.allows_top5 else None
