"""Checkpoints of a run, each with the metrics that belong to its step.

A save that fails ends nothing by itself: the state is in memory, the older
checkpoints are untouched, and a later save may succeed. It ends the run if it
was the last one, or one too many in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import time
from typing import Any

from absl import logging

from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import passport as passport_lib
from simclr_jax.training import steps as steps_lib
from simclr_jax.training import storage
from simclr_jax.training.run import Run
from simclr_jax.training.state import TrainState


class Saver:
  """Writes state, encoder and passport of a step.

  Attributes:
    last_saved: Step of the newest checkpoint that is not known to have failed;
      0 if there is none.
    num_failed: Saves in a row that failed, up to now.
    evaluation: Metrics of the newest evaluation.
  """

  def __init__(
    self,
    run: Run,
    checkpointer: checkpoint_lib.Checkpointer,
    *,
    last_saved: int,
    lineage: Sequence[Mapping[str, Any]] = (),
  ):
    self._run = run
    self._checkpointer = checkpointer
    self._lineage = lineage
    self._evaluated_step = -1
    self._on_disk = last_saved
    self._failure: storage.SaveFailed | None = None
    self.last_saved = last_saved
    self.num_failed = 0
    self.evaluation: dict[str, float] = {}

  def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
    """Remembers an evaluation for the checkpoint of the same step."""
    self.evaluation = dict(metrics)
    self._evaluated_step = step

  def saved_steps(self) -> list[int]:
    """All checkpoints of the run, rising."""
    self._settle()
    return self._checkpointer.saved_steps()

  def save(
    self, step: int, state: TrainState, latest: Mapping[str, float]
  ) -> None:
    """Saves everything, or says why not.

    Args:
      step: Finished steps.
      state: After them.
      latest: Training metrics of this step.

    Raises:
      storage.RunNotSaved: If more saves in a row have failed than
        config.checkpoint.max_failed_saves allows.
    """
    begin = time.monotonic()
    self._settle()
    try:
      self._save(step, state, latest)
    except storage.SaveFailed as error:
      self._failed(error)
    else:
      self.last_saved = step
      # With asynchronous saves the writing goes on behind the training.
      logging.info(
        'checkpoint of step %d: training waited %.1f s',
        step,
        time.monotonic() - begin,
      )
    allowed = self._run.config.checkpoint.max_failed_saves
    if self.num_failed > allowed:
      raise storage.RunNotSaved(
        f'{self.num_failed} saves in a row have failed '
        f'(config.checkpoint.max_failed_saves = {allowed}): {self._failure}. '
        f'Training ends at step {step}; {self._what_remains()}'
      )

  def finish(self, step: int) -> None:
    """Waits until the last checkpoint, that of `step`, is on disk.

    Raises:
      storage.RunNotSaved: If it is not.
    """
    self._settle()
    if self.last_saved != step:
      raise storage.RunNotSaved(
        f'training reached step {step}, but that state could not be saved and '
        f'is lost: {self._failure}; {self._what_remains()}'
      )

  def _settle(self) -> None:
    """Learns whether the save behind the training has succeeded."""
    try:
      self._checkpointer.wait()
    except storage.SaveFailed as error:
      self.last_saved = self._on_disk
      self._failed(error)
    else:
      if self.last_saved != self._on_disk:
        self.num_failed = 0
      self._on_disk = self.last_saved

  def _failed(self, error: storage.SaveFailed) -> None:
    self.num_failed += 1
    self._failure = error
    steps_lib.shout(
      f'{error}. Training goes on; the newest checkpoint is '
      f'{f"that of step {self._on_disk}" if self._on_disk else "none"}. '
      'Make room or mend the folder before the next save'
    )

  def _what_remains(self) -> str:
    if self._on_disk:
      return (
        'make room or mend the folder, then run the same command again: it '
        f'goes on from step {self._on_disk}'
      )
    return (
      'there is no checkpoint: make room or mend the folder, then run the same '
      'command again: it starts from step 0'
    )

  def _save(
    self, step: int, state: TrainState, latest: Mapping[str, float]
  ) -> None:
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
        lineage=self._lineage,
        about=run.about,
      ),
      metrics=metrics,
    )
