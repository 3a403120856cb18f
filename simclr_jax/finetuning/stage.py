"""Trains a classifier, takes the step a holdout chose, judges it once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

from etils import epath
import jax

from simclr_jax import config as config_lib
from simclr_jax import data, processes
from simclr_jax.data.source import Source
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import splits
from simclr_jax.finetuning import derive, judging
from simclr_jax.finetuning import run as run_lib
from simclr_jax.finetuning.config import StageConfig
from simclr_jax.training import checkpoint, loop
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import preflight as preflight_lib
from simclr_jax.training import run as training_run
from simclr_jax.training import watchdog as watchdog_lib
from simclr_jax.training.state import TrainState

# Which of a stage's fields a resumed run may change, or that the run's config
# holds (and compares) already.
_NOT_RECORDED = (
  'seed',
  'data',
  'labels',
  'optim',
  'train',
  'checkpoint_every',
  'keep_latest',
  'num_bootstrap',
)


@dataclasses.dataclass(frozen=True)
class Row:
  """One classifier of the table.

  Attributes:
    kind: 'finetune', 'scratch', 'frozen', 'distill' or 'teacher'.
    num_labels: Used to train or to choose the step (of the teacher's, for a
      student).
    accuracy: On the test split.
    step, total_steps: Of the classifier; None for a probe.
    holdout_top1: Of that step; None without a holdout.
    workdir: Of its checkpoints; None for a probe.
    notes: What a reader of the number should know.
  """

  kind: str
  num_labels: int
  accuracy: judging.Accuracy
  step: int | None = None
  total_steps: int | None = None
  holdout_top1: float | None = None
  workdir: str | None = None
  notes: tuple[str, ...] = ()


def open_splits(
  config: config_lib.Config,
  workdir: epath.PathLike,
  *,
  train_data: config_lib.DataConfig | None = None,
  test_data: config_lib.DataConfig | None = None,
) -> tuple[Source, Source]:
  """(training, test) split of a derived config.

  Args:
    config: Its data section names the splits.
    workdir: See `data.make_source`.
    train_data: How the one is opened; default: as the config says.
    test_data: How the other is.

  Raises:
    ValueError: If there is no test split.
  """
  if not config.data.test_split:
    raise ValueError(
      'config.data.test_split is empty: an accuracy on the training images '
      f'would say nothing; {splits.advise(config.data.train_split)}'
    )
  train, test = (
    data.make_source(how or config.data, split, workdir=workdir)
    for how, split in (
      (train_data, config.data.train_split),
      (test_data, config.data.test_split),
    )
  )
  return train, test


def recorded(stage: StageConfig) -> dict[str, Any]:
  """What the passport says of a stage beyond the run's config."""
  return {
    name: value
    for name, value in config_lib.to_dict(stage).items()
    if name not in _NOT_RECORDED
  }


def train(
  run: run_lib.EncoderRun,
  workdir: epath.Path,
  *,
  stage: StageConfig,
  judge: judging.Judge,
  holdout: Source | None,
  watchdog: watchdog_lib.Watchdog | None,
  preflight: preflight_lib.Preflight,
) -> checkpoint.LoadedEncoder | None:
  """The classifier at the chosen step; None if a signal stopped it.

  Raises:
    ValueError, failures.NonFiniteLoss, storage.RunNotSaved: As
      `training.loop.pretrain`.
  """
  outcome = loop.pretrain(
    run,
    str(workdir),
    evaluate_fn=None if holdout is None else _make_evaluate_fn(judge, holdout),
    watchdog=watchdog,
    stopping=run_lib.make_stopping(run.config, stage.patience),
    preflight=preflight,
  )
  if not outcome.finished:
    return None
  best = 'best' if derive.holds_out(run.config) else None
  return checkpoint.load_encoder(workdir, step=best)


def judge_loaded(
  loaded: checkpoint.LoadedEncoder,
  test: Source,
  *,
  judge: judging.Judge,
  num_bootstrap: int,
  mesh: Any,
) -> judging.Accuracy:
  """Accuracy of a saved classifier."""
  variables = jax.device_put(loaded.variables, mesh_lib.replicated(mesh))
  return judge.accuracy(variables, test, num_bootstrap=num_bootstrap)


def make_row(
  kind: str,
  loaded: checkpoint.LoadedEncoder,
  accuracy: judging.Accuracy,
  *,
  num_labels: int,
  notes: tuple[str, ...] = (),
) -> Row:
  """Of a classifier that was trained here."""
  passport = loaded.passport
  holdout = passport['metrics'].get(derive.HOLDOUT_METRIC)
  return Row(
    kind=kind,
    num_labels=num_labels,
    accuracy=accuracy,
    step=loaded.step,
    total_steps=passport['derived']['total_steps'],
    holdout_top1=holdout,
    workdir=str(epath.Path(loaded.path).parent.parent),
    notes=(*notes, *accuracy.notes),
  )


def about_form(form: encoder_lib.InputForm) -> dict[str, Any]:
  """For `Run.about`: what the network wants of pictures, if it is unusual."""
  if form == encoder_lib.InputForm():
    return {}
  return {'preprocessing': dataclasses.asdict(form)}


def check_same_data(sources: Mapping[str, Source]) -> None:
  """Refuses processes that would judge other pictures."""
  processes.check_same(
    {name: source.fingerprint for name, source in sources.items()},
    consequence='they would not judge the same images',
  )


def _make_evaluate_fn(judge: judging.Judge, holdout: Source) -> loop.EvaluateFn:
  def evaluate(
    run: training_run.Run, state: TrainState, stop_fn: Callable[[], bool]
  ) -> Mapping[str, float]:
    # Obeyed after the judgement: a step that is saved without its score could
    # never be chosen, and a resumed run would choose another one.
    del stop_fn
    variables = {'params': state.params, 'batch_stats': state.model_state}
    found = judge.accuracy(variables, holdout, num_bootstrap=1)
    nll = math.inf if found.nll is None else found.nll
    return {derive.HOLDOUT_METRIC: found.top1, 'holdout_nll': nll}

  return evaluate
