"""Checks of a command around its run; these do nothing.

The loop knows when they are due, and `planning/preflight.py`, which it must not
import, what is looked at.
"""

from __future__ import annotations

import contextlib

from simclr_jax.training.run import Run
from simclr_jax.training.state import TrainState
from simclr_jax.training.step import Batch, StepFn


class Preflight:
  """Called by every process at the same places."""

  def explaining(self, run: Run) -> contextlib.AbstractContextManager[None]:
    """Around everything that takes memory for the run."""
    del run
    return contextlib.nullcontext()

  def look(self, run: Run) -> None:
    """Below the recipe, before the first batch is made."""

  def compile(
    self, run: Run, step_fn: StepFn, *, state: TrainState, batch: Batch
  ) -> None:
    """Before the first step, with its arguments, which stay as they are."""
