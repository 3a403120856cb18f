"""Ends a run whose evaluations no longer improve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import logging

# Of a checkpoint's metrics: what a resumed run has to know.
_BEST, _BEST_STEP, _SINCE = 'best_value', 'best_step', 'evaluations_since_best'


class EarlyStopping(NamedTuple):
  """When to stop.

  Attributes:
    metric: Name of what evaluations give; larger is better.
    patience: Evaluations without a new best one that end the run; 0 is never.
  """

  metric: str
  patience: int


NEVER = EarlyStopping(metric='', patience=0)


class Patience:
  """Counts evaluations since the best one, over restarts too.

  Attributes:
    memory: For the metrics of every checkpoint; {} before the first evaluation.
  """

  def __init__(self, stopping: EarlyStopping, resumed: Mapping[str, Any]):
    """Goes on from the metrics of the checkpoint that a run resumes from."""
    self._stopping = stopping
    names = (_BEST, _BEST_STEP, _SINCE)
    self.memory: dict[str, float] = {
      name: float(resumed[name]) for name in names if name in resumed
    }

  @property
  def exhausted(self) -> bool:
    """Whether the run should end."""
    since = self.memory.get(_SINCE, 0.0)
    return 0 < self._stopping.patience <= since

  def observe(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the result of an evaluation after `step`."""
    if not self._stopping.patience:
      return
    value = float(values[self._stopping.metric])
    best = self.memory.get(_BEST)
    if value == best:
      # The newest of equals, as 'best' of the checkpoints; but no better one,
      # else a metric that cannot rise would never end a run.
      self.memory = {**self.memory, _BEST_STEP: float(step)}
    if best is None or value > best:
      self.memory = {_BEST: value, _BEST_STEP: float(step), _SINCE: 0.0}
      return
    self.memory = {**self.memory, _SINCE: self.memory[_SINCE] + 1}
    if self.exhausted:
      logging.info(
        'early stopping: %s was best (%.4f) at step %d; %d evaluations in a '
        'row brought no better one',
        self._stopping.metric,
        best,
        int(self.memory[_BEST_STEP]),
        int(self.memory[_SINCE]),
      )
