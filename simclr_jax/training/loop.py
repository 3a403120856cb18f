"""The pretraining loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import json
import os
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np

from simclr_jax.data import pipeline
from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import failures
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import passport as passport_lib
from simclr_jax.training import progress as progress_lib
from simclr_jax.training import recipe
from simclr_jax.training import step as step_lib
from simclr_jax.training.run import Run
from simclr_jax.training.state import TrainState

# (run, state) -> metrics such as {'knn_top1': 0.8}; given by the command, since
# training must not know how encoders are judged.
EvaluateFn = Callable[[Run, TrainState], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a call of `pretrain` ended.

  Attributes:
    state: After the last step taken.
    step: Finished steps.
    finished: False if a signal asked to stop early.
  """

  state: TrainState
  step: int
  finished: bool


def pretrain(
  run: Run, workdir: str, *, evaluate_fn: EvaluateFn | None = None
) -> Outcome:
  """Trains from the newest readable checkpoint in `workdir` to the last step.

  The order within a step must not change: (1) the next step is dispatched
  before the metrics of the one before are fetched, so that the devices never
  wait for the host; (2) a step's loss is known to be finite before a state that
  came after it is evaluated or saved; (3) evaluation comes before the
  checkpoint that records its result.

  Raises:
    ValueError: If `workdir` belongs to another config.
    failures.NonFiniteLoss: If the loss is NaN or infinite.
  """
  path = epath.Path(workdir)
  path.mkdir(parents=True, exist_ok=True)
  resolved = run.resolved
  checkpointer = checkpoint_lib.Checkpointer(
    path / 'checkpoints', run.config.checkpoint
  )
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.set_mesh(run.mesh))
    stack.callback(checkpointer.close)
    stop = stack.enter_context(failures.StopRequest())
    state, start = _restore_or_init(run, checkpointer)
    writer = metrics_lib.MetricWriter(
      workdir, primary=jax.process_index() == 0, start_step=start
    )
    stack.callback(writer.close)
    logging.info('%s', recipe.describe(run, state, start_step=start))
    saver = _Saver(run, checkpointer, last_saved=start)
    reporter = _Reporter(run, path, writer=writer, start=start, saver=saver)
    batches = mesh_lib.feed(_train_batches(run, start), run.mesh)
    train_step = run.train_step()

    step = start
    while step < resolved.total_steps and not stop.agreed(step):
      reporter.profile(step)
      with reporter.progress.waiting_for_input():
        batch, index = next(batches)
      state, output = train_step(state, batch)
      step += 1
      reporter.push(step, output, index)

      last = step == resolved.total_steps
      if evaluate_fn is not None and _due(step, resolved.knn_every_steps, last):
        reporter.flush()
        with reporter.progress.paused():
          saver.evaluated(step, evaluate_fn(run, state))
        writer.write_scalars(step, saver.evaluation)
      if _due(step, resolved.checkpoint_every_steps, last):
        reporter.flush()
        saver.save(step, state, reporter.latest)

    reporter.flush()
    reporter.profile(resolved.total_steps)
    if saver.last_saved != step:
      saver.save(step, state, reporter.latest)
    checkpointer.wait()
    finished = step >= resolved.total_steps
    if finished and jax.process_index() == 0:
      _write_json(path / checkpoint_lib.FINISHED, {'step': step})
  return Outcome(state=state, step=step, finished=finished)


def _due(step: int, every: int, last: bool) -> bool:
  """Whether a periodic event happens; the last step counts, 0 is never."""
  return every > 0 and (last or step % every == 0)


def _write_json(path: epath.Path, values: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(values, indent=2) + '\n')


def _train_batches(run: Run, start: int) -> Any:
  return pipeline.train_batches(
    run.source,
    data=run.config.data,
    augment=run.config.augment,
    num_views=run.objective.num_views,
    batch_size=run.config.train.batch_size,
    seed=run.config.seed,
    start_step=start,
    num_steps=run.resolved.total_steps - start,
    host_index=jax.process_index(),
    num_hosts=jax.process_count(),
  )


def _restore_or_init(
  run: Run, checkpointer: checkpoint_lib.Checkpointer
) -> tuple[TrainState, int]:
  """The newest readable state, or a fresh one where there is none."""
  newest = checkpointer.latest_passport()
  if newest is not None:
    passport_lib.check_same_run(newest, run.config, run.source)
  restored = checkpointer.restore_latest(run.abstract_state())
  if restored is None:
    return run.init_state(), 0
  return restored.state, restored.step


class _Saver:
  """Checkpoints with the metrics that belong to their step."""

  def __init__(
    self, run: Run, checkpointer: checkpoint_lib.Checkpointer, *,
    last_saved: int,
  ):
    self._run = run
    self._checkpointer = checkpointer
    self.last_saved = last_saved
    self.evaluation: dict[str, float] = {}
    self._evaluated_step = -1

  def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
    """Remembers an evaluation for the checkpoint of the same step."""
    self.evaluation = dict(metrics)
    self._evaluated_step = step

  def save(
    self, step: int, state: TrainState, latest: Mapping[str, float]
  ) -> None:
    """Saves everything; `latest` holds the metrics of this very step."""
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


class _Reporter:
  """Fetches, checks and writes the metrics of a step while the next runs."""

  def __init__(
    self,
    run: Run,
    workdir: epath.Path,
    *,
    writer: metrics_lib.MetricWriter,
    start: int,
    saver: _Saver,
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
    elif self._tracing and (
      step >= min(stop, self._run.resolved.total_steps)
    ):
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
    if not np.isfinite(metrics['loss']):
      self._fail(step, metrics, index)
    line = dict(metrics)
    if _due(step, resolved.diagnostics_every_steps, last):
      values = jax.device_get(self._diagnose(output.z))
      line |= {k: float(v) for k, v in values.items()}
    if _due(step, resolved.log_every_steps, last) or len(line) > len(metrics):
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
