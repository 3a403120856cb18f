"""Fine-tuning as a job: a checkpoint in, classifiers and a table out."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import difflib
import time
from typing import Any

from absl import logging
from etils import epath
from jax.sharding import Mesh

from simclr_jax import config as config_lib
from simclr_jax import processes, section_flags
from simclr_jax.data.source import Source
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import occurring
from simclr_jax.finetuning import (
  derive,
  frozen,
  judging,
  labelled,
  objective,
  report,
  stage,
)
from simclr_jax.finetuning import run as run_lib
from simclr_jax.finetuning.config import FinetuneConfig
from simclr_jax.planning.preflight import Preflight
from simclr_jax.training import checkpoint
from simclr_jax.training import passport as passport_lib
from simclr_jax.training import watchdog as watchdog_lib

FINETUNE, SCRATCH, FROZEN = 'finetune', 'scratch', 'frozen'
METHODS = (FINETUNE, SCRATCH, FROZEN)
RESULT = 'finetune.json'


@dataclasses.dataclass(frozen=True)
class _Task:
  """What all methods have in common.

  Attributes:
    start: Encoder.
    stage, config: As given, and what follows for the run.
    pictures: To train on.
    test: To judge on.
    workdir: Of the fine-tuned classifier; other methods have folders in it.
    mesh: Axis 'data'.
  """

  start: checkpoint.LoadedEncoder
  stage: FinetuneConfig
  config: config_lib.Config
  pictures: labelled.Labelled
  test: Source
  workdir: epath.Path
  mesh: Mesh

  @property
  def form(self) -> encoder_lib.InputForm:
    """What the pretrained network wants of pictures."""
    return encoder_lib.input_form(self.start.passport)


def parse_methods(text: str) -> tuple[str, ...]:
  """'finetune,frozen' -> ('finetune', 'frozen'), in the order of the table.

  Raises:
    ValueError: If one is unknown, or there is none.
  """
  asked = [name.strip() for name in text.split(',') if name.strip()]
  for name in asked:
    if name not in METHODS:
      close = difflib.get_close_matches(name, METHODS, 1)
      hint = f' (did you mean {close[0]!r}?)' if close else ''
      raise ValueError(
        f'--methods={text}: {name!r} is not one of {", ".join(METHODS)}{hint}'
      )
  if not asked:
    raise ValueError(f'--methods= is empty; some of {", ".join(METHODS)}')
  return tuple(name for name in METHODS if name in asked)


def finetune(
  config: FinetuneConfig,
  start: checkpoint.LoadedEncoder,
  *,
  workdir: epath.PathLike,
  methods: Sequence[str] = (FINETUNE,),
  mesh: Mesh | None = None,
  watchdog: watchdog_lib.Watchdog | None = None,
  features_dir: epath.PathLike | None = None,
  check_memory: bool = True,
) -> report.Report | None:
  """Trains what `methods` names on the same labels and judges it once.

  Called again, it goes on where a signal or a crash stopped it, and what is
  finished is only judged again.

  Args:
    config: Of the fine-tuning.
    start: Pretrained encoder; its passport names network and data.
    workdir: 'finetune' has its checkpoints here, 'scratch' in the folder of
      that name, 'frozen' (a linear probe) has none.
    methods: Some of `METHODS`.
    mesh: Default: all devices.
    watchdog: Told of every step.
    features_dir: Where features of the frozen encoder are kept; default: the
      folder 'features' of the workdir.
    check_memory: Whether a run is refused that needs more than there is.

  Returns:
    The report, also in WORKDIR/finetune.json; None if a signal stopped it.

  Raises:
    ValueError: If config, encoder, data and devices do not fit together, or
      the workdir belongs to something else.
  """
  begun = time.monotonic()
  task = _open(config, start, epath.Path(workdir), mesh)
  rows = []
  for method in methods:
    if method == FROZEN:
      row: stage.Row | None = frozen.probe(
        start,
        task.pictures,
        task.test,
        config=task.config,
        num_bootstrap=config.num_bootstrap,
        cache_dir=epath.Path(features_dir or task.workdir / 'features'),
        mesh=task.mesh,
      )
    else:
      preflight = Preflight(check_memory=check_memory)
      row = _train(task, method, watchdog=watchdog, preflight=preflight)
    if row is None:
      return None
    logging.info('%s', report.summary(row))
    rows.append(row)
  return report.write(
    task.workdir / RESULT,
    job='finetune',
    rows=rows,
    start=start,
    stage=config,
    sources={'train': task.pictures.whole, 'test': task.test},
    mesh=task.mesh,
    seconds=time.monotonic() - begun,
  )


def _open(
  config: FinetuneConfig,
  start: checkpoint.LoadedEncoder,
  workdir: epath.Path,
  mesh: Mesh | None,
) -> _Task:
  base = passport_lib.config_from_passport(start.passport, where=start.path)
  with processes.together(), section_flags.named('--config.data'):
    derived = derive.finetune_config(base, config)
    report.check_workdir(workdir, start)
    train, test = stage.open_splits(derived, workdir)
    features_lib.check_sources(train, test)
    features_lib.check_source_labels(train, test)
    pictures = labelled.divide(train, config.labels, workdir=workdir)
  stage.check_same_data({'training data': pictures.fit, 'test data': test})
  return _Task(
    start=start,
    stage=config,
    config=derived,
    pictures=pictures,
    test=test,
    workdir=workdir,
    mesh=run_lib.default_mesh(mesh),
  )


def _train(
  task: _Task,
  method: str,
  *,
  watchdog: watchdog_lib.Watchdog | None,
  preflight: Preflight,
) -> stage.Row | None:
  """'finetune' or 'scratch'."""
  from_encoder = method == FINETUNE
  # From scratch the network is ours, and wants pictures as they are.
  form = task.form if from_encoder else encoder_lib.InputForm()
  run = _make_run(task, form, from_encoder=from_encoder)
  judge = judging.Judge(
    task.config,
    num_classes=task.pictures.whole.num_classes,
    classes=task.pictures.classes,
    input_form=form,
    mesh=task.mesh,
  )
  loaded = stage.train(
    run,
    task.workdir if from_encoder else task.workdir / SCRATCH,
    stage=task.stage,
    judge=judge,
    holdout=task.pictures.holdout,
    watchdog=watchdog,
    preflight=preflight,
  )
  if loaded is None:
    return None
  accuracy = stage.judge_loaded(
    loaded,
    task.test,
    judge=judge,
    num_bootstrap=task.stage.num_bootstrap,
    mesh=task.mesh,
  )
  return stage.make_row(
    method,
    loaded,
    accuracy,
    num_labels=task.pictures.num_labels,
    notes=task.pictures.notes,
  )


def _make_run(
  task: _Task, form: encoder_lib.InputForm, *, from_encoder: bool
) -> run_lib.EncoderRun:
  pictures, start = task.pictures, task.start
  begin: dict[str, Any] = {'kind': 'scratch'}
  beginning = 'fresh initialisation'
  if from_encoder:
    begin = {
      'kind': 'checkpoint',
      'path': start.path,
      'step': start.step,
      'objective': start.passport['objective'],
      'fingerprint': start.fingerprint,
    }
    beginning = f'encoder of {start.path}'
  layer = task.config.model.classifier_layer
  where = f'layer {layer} of the projection head' if layer else 'h'
  labels = f'{len(pictures.fit_rows):,} trained on, of '
  labels += occurring.classes_text(len(pictures.classes))
  if pictures.holdout is not None:
    labels += f'; {len(pictures.holdout_rows):,} held out to choose the step'
  labels += ''.join(f' ({note})' for note in pictures.notes)
  with processes.together():
    return run_lib.make_run(
      task.config,
      source=pictures.fit,
      objective=objective.make_finetune(task.stage, input_fn=form.apply),
      evaluate_every=task.stage.evaluate_every,
      num_classes=pictures.whole.num_classes,
      begin=start if from_encoder else None,
      mesh=task.mesh,
      zero_classifier=task.stage.classifier_init == 'zeros',
      about={
        'start': begin,
        'config': stage.recorded(task.stage),
        'labelled': labelled.describe(pictures, task.stage.labels),
        **stage.about_form(form),
      },
      loss_rows=(
        ('loss', f'cross-entropy; the classifier reads {where}'),
        ('labels', labels),
        ('mixing', objective.describe_mixing(task.stage.augment)),
      ),
      beginning=beginning,
    )
