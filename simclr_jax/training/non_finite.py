"""A step whose loss, gradient or result is no number, undone on the devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from simclr_jax.training.state import PyTree, TrainState

# What must stay finite; a finite loss can have gradients that are not, and a
# finite gradient can throw the parameters beyond float32.
WATCHED = ('total_loss', 'grad_norm', 'state_norm')


def undo(
  old: TrainState, new: TrainState, metrics: Mapping[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
  """`new` where the step is finite, else `old` as if it had had no such batch.

  The number of the step goes on in both cases, so the next batch is the next
  one of the data and the learning rate stays that of `schedule(step)`: the
  counter of the schedule in the optimizer's state goes on too. Moments, Adam's
  own counter (it corrects the moments), batch statistics and the objective's
  state are those before the step. All devices see the same metrics and so
  decide alike; nothing is fetched.

  Args:
    old: Before the step.
    new: After it.
    metrics: Of the step, with all of `WATCHED`.

  Returns:
    (state, metrics with 'skipped': 1 if the step was undone, else 0). The
    other metrics stay as they were measured.
  """
  finite = jnp.all(jnp.stack([jnp.isfinite(metrics[k]) for k in WATCHED]))

  def choose(new_leaf: jax.Array, old_leaf: jax.Array) -> jax.Array:
    return jnp.where(finite, new_leaf, old_leaf)

  state = jax.tree.map(choose, new, old)
  state = state._replace(
    step=new.step, opt_state=_keep_counts(state.opt_state, new.opt_state)
  )
  skipped = 1 - finite.astype(jnp.float32)
  return state, {**metrics, 'skipped': skipped}


def _keep_counts(opt_state: PyTree, counted: PyTree) -> PyTree:
  """`opt_state` with the schedules' counters of `counted`."""
  return jax.tree.map(
    lambda a, b: b if is_schedule_state(b) else a,
    opt_state,
    counted,
    is_leaf=is_schedule_state,
  )


def is_schedule_state(node: Any) -> bool:
  """Whether a node of an optimizer's state counts steps for the schedule."""
  return isinstance(node, optax.ScaleByScheduleState)
