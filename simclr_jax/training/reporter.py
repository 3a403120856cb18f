"""Metrics of a step, fetched, checked and written while the next one runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import os
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np

from simclr_jax import losses, models, progress_bar
from simclr_jax.training import alarms, failures, recipe, storage
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import progress as progress_lib
from simclr_jax.training import step as step_lib
from simclr_jax.training.run import Run, is_due
from simclr_jax.training.saver import Saver

# Of a metric line where config.train.on_non_finite is 'skip': skipped steps of
# the whole run, and those up to this step without a finite one between.
_SKIPPED, _IN_A_ROW = 'skipped_steps', 'skipped_in_a_row'


@dataclasses.dataclass(frozen=True)
class _Pending:
  """A dispatched step whose numbers are not fetched yet.

  Attributes:
    step: Finished steps, this one included.
    metrics: Name -> scalar on the devices.
    diagnostics: The same of its embeddings; None where they are not due.
    index: [B / hosts] rows of the data set in this process's batch.
  """

  step: int
  metrics: dict[str, jax.Array]
  diagnostics: dict[str, jax.Array] | None
  index: np.ndarray


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
    resumed: Mapping[str, Any],
  ):
    """Starts after `start` finished steps.

    Args:
      run: What is trained.
      workdir: For traces and records of failures.
      writer: Of metric lines.
      start: Finished steps.
      saver: Knows the checkpoints.
      resumed: Metrics of the checkpoint that the run goes on from.
    """
    self._run = run
    self._workdir = workdir
    self._writer = writer
    self._saver = saver
    self._pending: _Pending | None = None
    self._diagnose = step_lib.make_diagnose(run.config.loss.temperature)
    self._tracing = False
    self._trace_steps = _trace_steps(run, start)
    # Counted over restarts: else a run that is killed often never reaches the
    # bound.
    self._skipped = int(resumed.get(_SKIPPED, 0))
    self._in_a_row = int(resumed.get(_IN_A_ROW, 0))
    self._usual = _expectation(run)
    self._alarms = alarms.Alarms(self._usual)
    for line in writer.history:
      self._alarms.observe(line['step'], line)  # Said already.
    self.latest: dict[str, float] = {}
    self._start = start
    self._bar: progress_bar.ProgressBar | None = None
    self.progress = progress_lib.Progress(
      run.resolved.total_steps,
      start_step=start,
      batch_size=run.config.train.batch_size,
      num_devices=run.mesh.size,
      flops_per_step=recipe.flops_per_step(run),
      peak_flops=progress_lib.peak_flops(
        run.mesh.devices.flat[0].device_kind,
        run.config.model.compute_dtype,
        precision=run.config.train.matmul_precision,
      ),
    )

  def push(
    self, step: int, output: step_lib.StepOutput, index: np.ndarray
  ) -> None:
    """Takes a dispatched step's output; reports the step before it."""
    resolved = self._run.resolved
    diagnostics = None
    if is_due(
      step, resolved.diagnostics_every_steps, step == resolved.total_steps
    ):
      # Dispatched here, so that the devices go on without waiting for the host.
      diagnostics = self._diagnose(output.z)
    pending = _Pending(step, output.metrics, diagnostics, index)
    previous, self._pending = self._pending, pending
    if previous is not None:
      self._report(previous)

  def flush(self) -> None:
    """Reports the step that is still pending; waits for the devices."""
    previous, self._pending = self._pending, None
    if previous is not None:
      self._report(previous)

  def profile(self, step: int) -> None:
    """Starts or stops the trace that config.train.profile_start asks for."""
    wanted = step in self._trace_steps
    if wanted and not self._tracing:
      self.flush()
      with self._trace_or_warn():
        jax.profiler.start_trace(os.fspath(self._workdir / 'profile'))
        self._tracing = True
    elif self._tracing and not wanted:
      self.flush()
      self._stop_trace()

  def close(self) -> None:
    """Ends bar and trace, also after an exception."""
    if self._bar is not None:
      self._bar.close()
    self._stop_trace()

  def _stop_trace(self) -> None:
    if self._tracing:
      self._tracing = False
      with self._trace_or_warn():
        jax.profiler.stop_trace()

  @contextlib.contextmanager
  def _trace_or_warn(self) -> Iterator[None]:
    """A trace that cannot be made or written ends nothing but itself."""
    try:
      yield
    except Exception as error:
      self._trace_steps = range(0)
      place = self._workdir / 'profile'
      logging.warning('no trace: %s', storage.explain(place, error))

  def _report(self, pending: _Pending) -> None:
    step, resolved = pending.step, self._run.resolved
    metrics = {k: float(v) for k, v in jax.device_get(pending.metrics).items()}
    skips = 'skipped' in metrics
    if skips:
      skipped = metrics.pop('skipped') > 0
      self._skipped += skipped
      self._in_a_row = self._in_a_row + 1 if skipped else 0
    if not failures.is_finite(metrics):
      self._not_finite(step, metrics, pending.index)
    if skips:
      counts = {_SKIPPED: self._skipped, _IN_A_ROW: self._in_a_row}
      metrics |= {name: float(count) for name, count in counts.items()}
    self.latest = metrics
    line = dict(metrics)
    has_diagnostics = pending.diagnostics is not None
    if has_diagnostics:
      values = jax.device_get(pending.diagnostics)
      line |= {k: float(v) for k, v in values.items()}
    last = step == resolved.total_steps
    warnings = self._alarms.observe(step, line)
    for warning in warnings:
      logging.warning('%s', warning)
    line |= {f'alarm_{name}': 1.0 for name in self._alarms.active}
    due = is_due(step, resolved.log_every_steps, last)
    headline = progress_lib.headline(
      metrics,
      chance=self._usual.chance,
      batch_size=self._run.config.train.batch_size,
    )
    if due or has_diagnostics or self._in_a_row or warnings:
      report = self.progress.report(step)
      self._writer.write_scalars(step, {**line, **report.scalars})
      logging.debug('%s', progress_lib.format_metrics(line | report.scalars))
    elif step == self._start + 1:  # A sign of life after compiling.
      report = self.progress.report(step)
    else:
      report = None
    if progress_bar.shown():
      self._move(step, headline if due else '')
    elif report is not None:
      logging.info('%s', report.line(headline))

  def _move(self, step: int, note: str) -> None:
    if self._bar is None:
      self._bar = progress_bar.ProgressBar(
        'Training',
        self._run.resolved.total_steps,
        unit='steps',
        start=self._start,
        stays=True,
      )
    self._bar.move(step, note)

  def _not_finite(
    self, step: int, metrics: dict[str, float], index: np.ndarray
  ) -> None:
    """Reports a skipped step; ends the run where it is not, or one too many."""
    source = self._run.source
    batch: dict[str, Any] = {
      'step': step,
      'metrics': metrics,
      'example_ids': [source.example_id(int(i)) for i in index],
    }
    if 0 < self._in_a_row <= self._run.config.train.max_skipped_steps:
      failures.report_skipped(self._workdir, in_a_row=self._in_a_row, **batch)
      return
    failures.record_non_finite(
      self._workdir,
      saved_steps=self._saver.saved_steps(),
      skipped=self._in_a_row,
      **batch,
    )


def _expectation(run: Run) -> alarms.Expectation:
  config = run.config
  if run.loss_rows is not None:
    return alarms.Expectation(
      chance=None,
      dim=1,
      warmup_steps=run.resolved.warmup_steps,
      contrasts=False,
    )
  return alarms.Expectation(
    chance=losses.chance_loss(config.train.batch_size, config.loss.scale),
    dim=models.embedding_dim(config.model),
    warmup_steps=run.resolved.warmup_steps,
  )


def _trace_steps(run: Run, start: int) -> range:
  """Finished steps at which a trace is on, of a run that begins at `start`."""
  train = run.config.train
  if train.profile_start < 0:
    return range(0)
  stop = min(
    train.profile_start + train.profile_steps, run.resolved.total_steps
  )
  if start > train.profile_start:
    logging.warning(
      'config.train.profile_start = %d is past, the run goes on at step %d: %s',
      train.profile_start,
      start,
      f'the trace ends at {stop} as asked' if start < stop else 'no trace',
    )
  return range(max(train.profile_start, start), stop)
