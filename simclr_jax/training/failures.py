"""Ends of a run that nobody planned: a loss that is no number, a signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import os
import signal
import sys
import types
from typing import Any, NoReturn

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils

from simclr_jax.training import metrics as metrics_lib


class NonFiniteLoss(RuntimeError):
  """Loss or gradient is not finite; the message names the checkpoint."""


def record_non_finite(
  workdir: epath.PathLike,
  *,
  step: int,
  metrics: Mapping[str, float],
  example_ids: Sequence[str],
  last_good_step: int,
) -> NoReturn:
  """Writes WORKDIR/failure-step-N.json and stops.

  Every process writes the examples it held itself (process k > 0 into
  failure-step-N.process-k.json), since none knows the whole batch.

  Args:
    workdir: Of the run.
    step: Step whose loss or gradient is not finite.
    metrics: Of that step, with 'loss' and 'grad_norm'.
    example_ids: Names of this process's rows of the batch.
    last_good_step: Newest checkpoint before it; 0 if there is none.

  Raises:
    NonFiniteLoss: Always.
  """
  workdir = epath.Path(workdir)
  process = jax.process_index()
  suffix = f'.process-{process}' if process else ''
  path = workdir / f'failure-step-{step}{suffix}.json'
  checkpoint = (
    os.fspath(workdir / 'checkpoints' / str(last_good_step))
    if last_good_step
    else None
  )
  record = {
    'step': step,
    'loss': metrics_lib.number_for_json(metrics['loss']),
    'metrics': {
      name: metrics_lib.number_for_json(v) for name, v in metrics.items()
    },
    'last_good_checkpoint': checkpoint,
    'example_ids': list(example_ids),
  }
  path.write_text(json.dumps(record, indent=2, allow_nan=False) + '\n')
  raise NonFiniteLoss(
    f'loss is {metrics["loss"]} and the gradient norm '
    f'{metrics["grad_norm"]} at step {step}; '
    f'last good checkpoint: {checkpoint or "none was saved yet"}; the '
    f'{len(example_ids)} examples of the batch are listed in {path}. Starting '
    'again resumes from that checkpoint and meets the same batch: lower '
    'config.optim.base_lr, lengthen config.optim.warmup, set '
    'config.optim.clip_grad_norm or remove a broken image first'
  )


class StopRequest:
  """Turns SIGTERM and SIGINT into a flag that the loop looks at.

  A context manager. The first signal only sets `requested`, so that the step
  in flight ends and a checkpoint is saved; the second one exits at once. The
  former handlers come back at the end.

  With several processes the hosts have to stop at the same step. JAX's
  preemption service sees to that and has its own SIGTERM handler, which a
  handler of Python's would displace; so none is installed there.
  """

  def __init__(self) -> None:
    self.requested = False
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> StopRequest:
    if jax.process_count() == 1:
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *unused: object) -> None:
    for number, handler in self._previous.items():
      # None stands for a handler that was not installed from Python.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    self._previous.clear()

  def agreed(self, step: int) -> bool:
    """Whether all processes stop before the step after `step`.

    Has to be called by every process at every step.
    """
    if jax.process_count() == 1:
      return self.requested
    self.requested = multihost_utils.reached_preemption_sync_point(step)
    return self.requested

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    name = signal.Signals(number).name
    if self.requested:
      # Not sys.exit: an exception could be swallowed by whatever the main
      # thread is in, and exit handlers would wait for the checkpoint.
      print(f'{name} again: exit without a checkpoint', file=sys.stderr)
      sys.stderr.flush()
      os._exit(128 + number)
    self.requested = True
    logging.warning(
      '%s: stopping after this step with a checkpoint; again to exit at once',
      name,
    )
