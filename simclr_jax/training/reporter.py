"""Metrics of a step, fetched, checked and written while the next one runs."""

from __future__ import annotations

import os

from absl import logging
from etils import epath
import jax
import numpy as np

from simclr_jax.training import failures, recipe
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import progress as progress_lib
from simclr_jax.training import step as step_lib
from simclr_jax.training.run import Run, is_due
from simclr_jax.training.saver import Saver


class Reporter:
  """Fetches, checks and writes the metrics of a step while the next runs."""

  def __init__(
    self,
    run: Run,
    workdir: epath.Path,
    *,
    writer: metrics_lib.MetricWriter,
    start: int,
    saver: Saver,
  ):
    self._run = run
    self._workdir = workdir
    self._writer = writer
    self._saver = saver
    self._pending: tuple[int, step_lib.StepOutput, np.ndarray] | None = None
    self._diagnose = step_lib.make_diagnose(run.config.loss.temperature)
    self._tracing = False
    self.latest: dict[str, float] = {}
    self.progress = progress_lib.Progress(
      run.resolved.total_steps,
      start_step=start,
      batch_size=run.config.train.batch_size,
      num_devices=run.mesh.size,
      flops_per_step=recipe.flops_per_step(run),
      peak_flops=progress_lib.peak_flops(
        run.mesh.devices.flat[0].device_kind, run.config.model.compute_dtype
      ),
    )

  def push(
    self, step: int, output: step_lib.StepOutput, index: np.ndarray
  ) -> None:
    """Takes a dispatched step's output; reports the step before it."""
    previous, self._pending = self._pending, (step, output, index)
    if previous is not None:
      self._report(*previous)

  def flush(self) -> None:
    """Reports the step that is still pending; waits for the devices."""
    previous, self._pending = self._pending, None
    if previous is not None:
      self._report(*previous)

  def profile(self, step: int) -> None:
    """Starts or stops the trace that config.train.profile_start asks for."""
    start = self._run.config.train.profile_start
    stop = start + self._run.config.train.profile_steps
    if not self._tracing and start >= 0 and step == start:
      jax.profiler.start_trace(os.fspath(self._workdir / 'profile'))
      self._tracing = True
    elif self._tracing and (step >= min(stop, self._run.resolved.total_steps)):
      self.flush()
      jax.profiler.stop_trace()
      self._tracing = False

  def _report(
    self, step: int, output: step_lib.StepOutput, index: np.ndarray
  ) -> None:
    resolved = self._run.resolved
    last = step == resolved.total_steps
    metrics = {k: float(v) for k, v in jax.device_get(output.metrics).items()}
    self.latest = metrics
    # A finite loss can have gradients that are not; the update took them.
    if not np.isfinite([metrics['loss'], metrics['grad_norm']]).all():
      self._fail(step, metrics, index)
    line = dict(metrics)
    if is_due(step, resolved.diagnostics_every_steps, last):
      values = jax.device_get(self._diagnose(output.z))
      line |= {k: float(v) for k, v in values.items()}
    if is_due(step, resolved.log_every_steps, last) or len(line) > len(metrics):
      report = self.progress.report(step)
      self._writer.write_scalars(step, {**line, **report.scalars})
      logging.info('%s', report.line(metrics))

  def _fail(
    self, step: int, metrics: dict[str, float], index: np.ndarray
  ) -> None:
    source = self._run.source
    failures.record_non_finite(
      self._workdir,
      step=step,
      metrics=metrics,
      example_ids=[source.example_id(int(i)) for i in index],
      last_good_step=self._saver.last_saved,
    )
