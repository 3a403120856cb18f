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
    Mean loss over labelled rows (0 without any) and metrics. The loss is NaN,
    which stops a run, if a label is num_classes or more: the source and the
    head disagree on the classes.
  """
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  labelled = (labels >= 0).astype(logits.dtype)
  count = jnp.maximum(labelled.sum(), 1)
  targets = jax.nn.one_hot(
    jnp.maximum(labels, 0), logits.shape[-1], dtype=logits.dtype
  )
  losses = -(targets * jax.nn.log_softmax(logits)).sum(-1)
  # One-hot would make these rows zeros: counted, yet never learnt from.
  losses = jnp.where(labels < logits.shape[-1], losses, jnp.nan)
  correct = (logits.argmax(-1) == labels).astype(logits.dtype)
  loss = (losses * labelled).sum() / count
  return loss, {
    'online_loss': loss,
    'online_top1': (correct * labelled).sum() / count,
  }
