"""Checkpoints of a run, each with the metrics that belong to its step."""

from __future__ import annotations

from collections.abc import Mapping
import time

from absl import logging

from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import passport as passport_lib
from simclr_jax.training.run import Run
from simclr_jax.training.state import TrainState


class Saver:
  """Writes state, encoder and passport of a step.

  Attributes:
    last_saved: Step of the newest checkpoint; 0 if there is none.
    evaluation: Metrics of the newest evaluation.
  """

  def __init__(
    self,
    run: Run,
    checkpointer: checkpoint_lib.Checkpointer,
    *,
    last_saved: int,
  ):
    self._run = run
    self._checkpointer = checkpointer
    self._evaluated_step = -1
    self.last_saved = last_saved
    self.evaluation: dict[str, float] = {}

  def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
    """Remembers an evaluation for the checkpoint of the same step."""
    self.evaluation = dict(metrics)
    self._evaluated_step = step

  def saved_steps(self) -> list[int]:
    """All checkpoints of the run, rising."""
    return self._checkpointer.saved_steps()

  def save(
    self, step: int, state: TrainState, latest: Mapping[str, float]
  ) -> None:
    """Saves everything; `latest` holds the training metrics of this step."""
    begin = time.monotonic()
    metrics = dict(latest)
    if self._evaluated_step == step:
      metrics |= self.evaluation
    run = self._run
    self._checkpointer.save(
      step,
      state,
      encoder={'params': state.params, 'batch_stats': state.model_state},
      passport=passport_lib.make_passport(
        run.config,
        run.resolved,
        source=run.source,
        step=step,
        metrics=metrics,
        objective=run.objective.name,
      ),
      metrics=metrics,
    )
    self.last_saved = step
    # With asynchronous saves the writing goes on behind the training.
    logging.info(
      'checkpoint of step %d: training waited %.1f s',
      step,
      time.monotonic() - begin,
    )
