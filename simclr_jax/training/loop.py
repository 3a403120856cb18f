"""The training loop: of pretraining, and of what goes on from an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import json
from typing import Any

from absl import logging
from etils import epath
import jax

from simclr_jax import paths, processes, retries, writes
from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import (
  continuation,
  early_stopping,
  failures,
  feeding,
  recipe,
  same_run,
  signals,
  storage,
  workdir_lock,
)
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import passport as passport_lib
from simclr_jax.training import preflight as preflight_lib
from simclr_jax.training import reporter as reporter_lib
from simclr_jax.training import run as run_lib
from simclr_jax.training import saver as saver_lib
from simclr_jax.training import watchdog as watchdog_lib
from simclr_jax.training.run import Run
from simclr_jax.training.state import TrainState

# (run, state, stop_fn) -> metrics such as {'knn_top1': 0.8}; given by the
# command, since training must not know how encoders are judged. None: given up,
# since `stop_fn`, which every process has to call at the same places, said so.
EvaluateFn = Callable[
  [Run, TrainState, Callable[[], bool]], Mapping[str, float] | None
]
# Metric of a checkpoint whose evaluation was given up; made up for on resuming.
_OWED = 'evaluation_owed'


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
  run: Run,
  workdir: str,
  *,
  evaluate_fn: EvaluateFn | None = None,
  watchdog: watchdog_lib.Watchdog | None = None,
  continue_from: str | None = None,
  stopping: early_stopping.EarlyStopping = early_stopping.NEVER,
  preflight: preflight_lib.Preflight = preflight_lib.Preflight(),  # noqa: B008
) -> Outcome:
  """Trains from the newest readable checkpoint in `workdir` to the last step.

  With several processes every one calls it with the same arguments.

  The order within a step must not change: (1) the next step is dispatched
  before the metrics of the one before are fetched, so that the devices never
  wait for the host; (2) a step's loss is known to be finite before a state that
  came after it is evaluated or saved; (3) evaluation comes before the
  checkpoint that records its result; (4) whether to stop is asked after the
  batch was fetched, which is one ahead of what is read: a process that cannot
  read has a batch left for the step until all know.

  Args:
    run: What to train.
    workdir: Folder of its checkpoints and metrics; no other run may use it.
    evaluate_fn: Judges the encoder now and then.
    watchdog: Told of every step.
    continue_from: Workdir (or one checkpoint) of another run, whose state this
      one starts from where `workdir` has no checkpoint yet.
    stopping: When evaluations end the run before its last step.
    preflight: Looks at the run before its first step.

  Raises:
    ValueError: If `workdir` belongs to another config, or is in use.
    processes.AgreedFailure: The same, with several processes, or if they
      differ; in all of them.
    failures.NonFiniteLoss: If loss, gradient or new state is not finite.
    failures.StoppedWithoutData: If data could not be read; all is saved.
    storage.RunNotSaved: If the last state, or too many before it, could not be
      saved.
    memory.OutOfMemory: If `preflight` finds, or a device says, that the run
      needs more memory than there is.
  """
  path = epath.Path(workdir)
  resolved = run.resolved
  same_run.check_processes(run)
  with processes.together():
    _open_workdir(path)
  with contextlib.ExitStack() as stack:
    check_lock = stack.enter_context(workdir_lock.held(path))
    same_run.check_workdir(path)
    stack.enter_context(preflight.explaining(run))
    checkpointer = checkpoint_lib.Checkpointer(
      path / 'checkpoints', run.config.checkpoint
    )
    stack.enter_context(jax.set_mesh(run.mesh))
    precision = run.config.train.matmul_precision
    stack.enter_context(jax.default_matmul_precision(precision))
    stack.callback(checkpointer.close)
    stop = stack.enter_context(signals.StopRequest(run.mesh))
    watchdog = stack.enter_context(watchdog or watchdog_lib.Watchdog())
    stack.enter_context(
      retries.listening(
        lambda: stop.requested, stop.fail, at_most=watchdog.longest_wait
      )
    )
    begin = _restore_or_init(run, checkpointer, continue_from)
    state, start, resumed = begin.state, begin.step, begin.metrics
    patience = early_stopping.Patience(stopping, resumed)
    writer = metrics_lib.MetricWriter(
      workdir, primary=jax.process_index() == 0, start_step=start
    )
    stack.callback(writer.close)
    owes = False
    if evaluate_fn is not None and _OWED in resumed:
      values = evaluate_fn(run, state, stop.agreed)
      owes = values is None
      if values is not None:
        patience.observe(start, values)
      # A life before may have made up for it, and been killed before a save.
      if values is not None and not writer.has(start, values):
        writer.write_scalars(start, values)
    if start >= resolved.total_steps or patience.exhausted:
      logging.info('finished at step %d: nothing to do', start)
      if not owes:
        _mark(path, finished_at=start)
      return _outcome(state, start, finished=not owes, stop=stop)
    # A mark whose last checkpoint is gone would end a `--follow` too early.
    _mark(path, finished_at=None)
    logging.info('%s', recipe.describe(run, state, start_step=start))
    preflight.look(run)
    saver = saver_lib.Saver(
      run, checkpointer, last_saved=begin.saved_step, lineage=begin.lineage
    )
    reporter = reporter_lib.Reporter(
      run, path, writer=writer, start=start, saver=saver, resumed=resumed
    )
    stack.callback(reporter.close)
    batches = feeding.train_feed(run, start_step=start)
    train_step = run.train_step()

    step = start
    # An evaluation is given up by all processes, and only to stop.
    while step < resolved.total_steps and not (patience.exhausted or owes):
      check_lock()
      reporter.profile(step)
      with reporter.progress.waiting_for_input():
        fetched = _fetch(batches, stop)
      if stop.agreed():
        break
      if fetched is None:
        assert stop.failure is not None
        raise stop.failure  # of this process alone: the others have a batch
      batch, index = fetched
      if step == start:
        preflight.compile(run, train_step, state=state, batch=batch)
      state, output = train_step(state, batch)
      step += 1
      reporter.push(step, output, index)
      watchdog.beat()

      last = step == resolved.total_steps
      if evaluate_fn is not None and run_lib.is_due(
        step, resolved.knn_every_steps, last
      ):
        reporter.flush()
        with reporter.progress.paused(), watchdog.paused():
          values = evaluate_fn(run, state, stop.agreed)
        owes = values is None
        saver.evaluated(step, {_OWED: 1.0} if values is None else values)
        if values is not None:
          patience.observe(step, values)
          writer.write_scalars(step, values)
      if run_lib.is_due(step, resolved.checkpoint_every_steps, last):
        reporter.flush()
        with reporter.progress.paused(), watchdog.paused():
          saver.save(step, state, {**reporter.latest, **patience.memory})

    reporter.flush()
    reporter.profile(resolved.total_steps)
    with watchdog.paused():
      if saver.last_saved != step:
        saver.save(step, state, {**reporter.latest, **patience.memory})
      saver.finish(step)
    ended = step >= resolved.total_steps or patience.exhausted
    finished = ended and not owes
    if finished:
      _mark(path, finished_at=step)
  return _outcome(state, step, finished=finished, stop=stop)


def _fetch(batches: feeding.Feed, stop: signals.StopRequest) -> Any:
  """The next batch and its indices; None, and `stop` told, if it is away."""
  try:
    return next(batches)
  except OSError as error:
    stop.fail(error)
    return None


def _outcome(
  state: TrainState, step: int, *, finished: bool, stop: signals.StopRequest
) -> Outcome:
  """How the run ended.

  Raises:
    failures.StoppedWithoutData: If that is because data could not be read.
  """
  if stop.failure is not None and not finished:
    raise failures.StoppedWithoutData(stop.failure, step) from stop.failure
  return Outcome(state=state, step=step, finished=finished)


def _open_workdir(path: epath.Path) -> None:
  """Makes the folder; better now than at the first checkpoint."""
  try:
    path.mkdir(parents=True, exist_ok=True)
    storage.check_folder(path)
  except OSError as error:
    if paths.explain(error):
      raise
    kind = storage.StorageFailed if writes.is_full(error) else ValueError
    raise kind(
      f'the workdir cannot be written: {storage.explain(path, error)}. Nothing '
      'has been trained; choose another --workdir or mend this one'
    ) from error


def _mark(workdir: epath.Path, *, finished_at: int | None) -> None:
  """Writes, or removes, the file that tells followers that the run ended."""
  if jax.process_index() != 0:
    return
  path = workdir / checkpoint_lib.FINISHED
  if finished_at is None:
    path.unlink(missing_ok=True)
  else:
    try:
      writes.whole(path, json.dumps({'step': finished_at}) + '\n')
    except OSError as error:
      raise storage.StorageFailed(
        f'the run is complete and its last checkpoint saved, but {path} cannot '
        f'be written: {storage.explain(path, error)}. Run the same command '
        'again once that is mended; it only writes this file'
      ) from error


@dataclasses.dataclass(frozen=True)
class _Begin:
  """Where training begins.

  Attributes:
    state: After `step` steps.
    step: Finished steps.
    saved_step: Of the newest checkpoint in the workdir; 0 if there is none.
    metrics: Of that checkpoint.
    lineage: Checkpoints of other runs that it goes on from.
  """

  state: TrainState
  step: int
  saved_step: int = 0
  metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  lineage: Sequence[Mapping[str, Any]] = ()


def _restore_or_init(
  run: Run,
  checkpointer: checkpoint_lib.Checkpointer,
  continue_from: str | None,
) -> _Begin:
  """The newest readable state, else another run's, else a fresh one."""
  newest = checkpointer.latest_passport()
  if newest is not None:
    with processes.together():
      continuation.check_lineage(newest, continue_from)
      passport_lib.check_same_run(
        newest,
        run.config,
        run.source,
        objective=run.objective.name,
        about=run.about,
      )
  restored = checkpointer.restore_latest(run.abstract_state())
  if restored is not None:
    passport = restored.passport
    return _Begin(
      state=restored.state,
      step=restored.step,
      saved_step=restored.step,
      metrics=passport['metrics'],
      lineage=passport.get('lineage', ()),
    )
  if continue_from is None:
    return _Begin(state=run.init_state(), step=0)
  old = continuation.continue_from(run, continue_from)
  return _Begin(state=old.state, step=old.step, lineage=old.lineage)
