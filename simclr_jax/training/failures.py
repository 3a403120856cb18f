"""Ends of a run that nobody planned: a loss that is no number, lost data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import math
import os
from typing import Any, NoReturn

from absl import logging
from etils import epath
import jax

from simclr_jax import retries
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import non_finite, storage
from simclr_jax.training import steps as steps_lib


class NonFiniteLoss(RuntimeError):
  """Loss, gradient or new state is not finite; names the checkpoints."""


class StoppedWithoutData(retries.DataAway):
  """The run was saved and ended because data could not be read.

  Raised in the processes that could not read, after all have stopped.
  """

  def __init__(self, error: OSError, step: int):
    super().__init__(
      f'{retries.describe(error)}. Stopped after step {step}'
      + (', which is saved; ' if step else '; nothing was trained; ')
      + 'once that can be read, the same command goes on from there'
    )


def is_finite(metrics: Mapping[str, float]) -> bool:
  """Whether a step may be evaluated and saved."""
  return all(math.isfinite(metrics[name]) for name in non_finite.WATCHED)


def record_non_finite(
  workdir: epath.PathLike,
  *,
  step: int,
  metrics: Mapping[str, float],
  example_ids: Sequence[str],
  saved_steps: Sequence[int],
  skipped: int = 0,
) -> NoReturn:
  """Writes WORKDIR/failure-step-N.json and stops.

  The loss of step N is that of the state after N - 1 steps, so a checkpoint of
  N - 1 may be what diverged. Good are those before it: a later step had a
  finite loss.

  Args:
    workdir: Of the run.
    step: Step whose loss, gradient or result is not finite.
    metrics: Of that step, with what `non_finite.WATCHED` names.
    example_ids: Names of this process's rows of the batch.
    saved_steps: All checkpoints of the run.
    skipped: Steps in a row that were skipped, this one included; 0 where none
      is ever.

  Raises:
    NonFiniteLoss: Always.
  """
  workdir = epath.Path(workdir)
  newest = _newest_checkpoint(workdir, saved_steps)
  good = _newest_checkpoint(workdir, [s for s in saved_steps if s < step - 1])
  listed = write_batch(
    workdir,
    step=step,
    metrics=metrics,
    example_ids=example_ids,
    facts={'last_good_checkpoint': good, 'newest_checkpoint': newest},
  )
  what = _what(metrics, step)
  if skipped:
    what += f', and so were the {skipped - 1} before it, which were skipped'
  raise NonFiniteLoss(
    f'{what}. Newest checkpoint: {newest or "none"}; '
    f'last good checkpoint (a later step had a finite loss): {good or "none"}. '
    f'{listed}. This '
    'workdir continues only with the same recipe, which meets the same batch '
    'and fails again'
    + ('' if skipped else " (unless config.train.on_non_finite='skip')")
    + '. Start in a new workdir with a lower '
    'config.optim.base_lr, a longer config.optim.warmup, '
    'config.optim.clip_grad_norm set, or without a broken image'
  )


def report_skipped(
  workdir: epath.PathLike,
  *,
  step: int,
  metrics: Mapping[str, float],
  example_ids: Sequence[str],
  in_a_row: int,
) -> None:
  """Says that a step was undone, and writes WORKDIR/failure-step-N.json.

  Args:
    workdir: Of the run.
    step: Step that was skipped.
    metrics: Of that step.
    example_ids: Names of this process's rows of the batch.
    in_a_row: Skipped steps up to this one without a finite one between.
  """
  listed = write_batch(
    epath.Path(workdir),
    step=step,
    metrics=metrics,
    example_ids=example_ids,
    facts={'skipped': True},
  )
  logging.warning(
    '%s: skipped, the state is that of the step before (%d in a row). %s',
    _what(metrics, step),
    in_a_row,
    listed,
  )


def _what(metrics: Mapping[str, float], step: int) -> str:
  bad = [f'{k} is {v}' for k, v in metrics.items() if not math.isfinite(v)]
  return f'{", ".join(bad)} at step {step}'


def write_batch(
  workdir: epath.Path,
  *,
  step: int,
  metrics: Mapping[str, float],
  example_ids: Sequence[str],
  facts: Mapping[str, Any],
) -> str:
  """Writes the record of a batch; says in a sentence where its examples are.

  Every process writes the examples it held itself (process k > 0 into
  failure-step-N.process-k.json), since none knows the whole batch.
  """
  process = jax.process_index()
  suffix = f'.process-{process}' if process else ''
  path = workdir / f'failure-step-{step}{suffix}.json'
  record = {
    'step': step,
    'loss': metrics_lib.number_for_json(metrics['total_loss']),
    'metrics': {
      name: metrics_lib.number_for_json(v) for name, v in metrics.items()
    },
    **facts,
    'example_ids': list(example_ids),
  }
  who = f'The {len(example_ids)} examples of the batch'
  try:
    path.write_text(json.dumps(record, indent=2, allow_nan=False) + '\n')
  except OSError as error:
    names = ', '.join(example_ids)
    return (
      f'{who} cannot be listed in {path} '
      f'({storage.explain(path, error)}): {names}'
    )
  return f'{who} are listed in {path}'


def _newest_checkpoint(workdir: epath.Path, steps: Sequence[int]) -> str | None:
  if not steps:
    return None
  return os.fspath(workdir / steps_lib.FOLDER / str(max(steps)))
