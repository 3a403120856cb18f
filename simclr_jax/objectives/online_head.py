"""The linear classifier that trains beside the encoder without touching it."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def online_head_loss(
  logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Cross-entropy and accuracy over the labelled rows.

  The official code adds this loss with weight 1 (run.py:single_step); the
  logits read stop_gradient(h), so the encoder never sees it.

  Args:
    logits: [N, num_classes].
    labels: [N] classes; negative where a row has none.

  Returns:
    Mean loss over labelled rows (0 without any) and metrics.
  """
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  labelled = (labels >= 0).astype(logits.dtype)
  count = jnp.maximum(labelled.sum(), 1)
  targets = jax.nn.one_hot(
    jnp.maximum(labels, 0), logits.shape[-1], dtype=logits.dtype
  )
  losses = -(targets * jax.nn.log_softmax(logits)).sum(-1)
  correct = (logits.argmax(-1) == labels).astype(logits.dtype)
  loss = (losses * labelled).sum() / count
  return loss, {
    'online_loss': loss,
    'online_top1': (correct * labelled).sum() / count,
  }
