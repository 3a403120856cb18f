"""Distillation as a job: a fine-tuned teacher in, a student out.

SimCLR v2's third step (Chen et al. 2020, arXiv:2006.10029, section 2.3): the
teacher's predictions on unlabelled pictures train another network, of the same
form (self-distillation) or a smaller one. The teacher judges the very view that
the student sees, with batch norm in inference mode, on the devices; it is no
part of the student's checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import time

from absl import logging
from etils import epath
import jax
from jax.sharding import Mesh

from simclr_jax import config as config_lib
from simclr_jax import processes, section_flags
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.finetuning import (
  derive,
  judging,
  objective,
  report,
  stage,
  student_data,
)
from simclr_jax.finetuning import run as run_lib
from simclr_jax.finetuning import teacher as teacher_lib
from simclr_jax.finetuning.config import DistillConfig
from simclr_jax.finetuning.teacher import Teacher
from simclr_jax.planning.preflight import Preflight
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import watchdog as watchdog_lib

RESULT = 'distill.json'


def distill(
  config: DistillConfig,
  loaded: checkpoint.LoadedEncoder,
  *,
  workdir: epath.PathLike,
  mesh: Mesh | None = None,
  watchdog: watchdog_lib.Watchdog | None = None,
  check_memory: bool = True,
) -> report.Report | None:
  """Trains a student and judges it, beside its teacher, on the test split.

  Args:
    config: Of the distillation.
    loaded: The teacher, a checkpoint of `simclr_jax.finetune` or of this.
    workdir: Of the student.
    mesh: Default: all devices.
    watchdog: Told of every step.
    check_memory: Whether a run is refused that needs more than there is.

  Returns:
    The report, also in WORKDIR/distill.json; None if a signal stopped it.

  Raises:
    ValueError: If config, teacher, data and devices do not fit together.
  """
  begun, folder = time.monotonic(), epath.Path(workdir)
  mesh = run_lib.default_mesh(mesh)
  with processes.together(), section_flags.named('--config.data'):
    teacher = teacher_lib.open_teacher(loaded)
    derived = derive.distill_config(teacher.config, config)
    report.check_workdir(folder, loaded)
    pictures = student_data.open_pictures(
      teacher, derived, config, workdir=folder
    )
  stage.check_same_data(
    {'training data': pictures.train, 'test data': pictures.test}
  )
  teacher_judge = _judge(teacher, mesh)
  student_judge = judging.Judge(
    derived,
    num_classes=teacher.num_classes,
    classes=teacher.classes,
    input_form=encoder_lib.InputForm(),
    mesh=mesh,
  )
  # Arrays for all processes are made by a collective: none within `together`.
  extend_fn = _make_extend_fn(teacher, mesh)
  with processes.together():
    run = _make_run(
      teacher,
      derived,
      config,
      pictures=pictures,
      mesh=mesh,
      extend_fn=extend_fn,
    )
  student = stage.train(
    run,
    folder,
    stage=config,
    judge=student_judge,
    holdout=pictures.holdout,
    watchdog=watchdog,
    preflight=Preflight(check_memory=check_memory, network='student'),
  )
  if student is None:
    return None
  rows = []
  for kind, judge, classifier in (
    ('teacher', teacher_judge, loaded),
    ('distill', student_judge, student),
  ):
    accuracy = stage.judge_loaded(
      classifier,
      pictures.test,
      judge=judge,
      num_bootstrap=config.num_bootstrap,
      mesh=mesh,
    )
    row = stage.make_row(
      kind, classifier, accuracy, num_labels=teacher.num_labels
    )
    logging.info('%s', report.summary(row))
    rows.append(row)
  return report.write(
    folder / RESULT,
    job='distill',
    rows=rows,
    start=loaded,
    stage=config,
    sources={'train': pictures.train, 'test': pictures.test},
    mesh=mesh,
    seconds=time.monotonic() - begun,
  )


def _judge(teacher: Teacher, mesh: Mesh) -> judging.Judge:
  return judging.Judge(
    teacher.config,
    num_classes=teacher.num_classes,
    classes=teacher.classes,
    input_form=encoder_lib.input_form(teacher.loaded.passport),
    mesh=mesh,
  )


def _make_run(
  teacher: Teacher,
  derived: config_lib.Config,
  config: DistillConfig,
  *,
  pictures: student_data.Pictures,
  mesh: Mesh,
  extend_fn: mesh_lib.FinishFn,
) -> run_lib.EncoderRun:
  loaded = teacher.loaded
  model, old = derived.model, teacher.config.model
  same = dataclasses.replace(
    model, head=old.head, classifier_layer=old.classifier_layer
  )
  form = 'of the same form (self-distillation)'
  if same != old:
    form = (
      f'ResNet-{model.depth}, width {model.width:g}; the teacher ResNet-'
      f'{old.depth}, width {old.width:g}'
    )
  return run_lib.make_run(
    derived,
    source=pictures.train,
    objective=objective.make_distill(config, input_fn=lambda images: images),
    evaluate_every=config.evaluate_every,
    num_classes=teacher.num_classes,
    begin=None,
    mesh=mesh,
    zero_classifier=False,
    about={
      'teacher': {
        'path': loaded.path,
        'step': loaded.step,
        'objective': loaded.passport['objective'],
        'fingerprint': loaded.fingerprint,
      },
      'config': stage.recorded(config),
      'labelled': dict(teacher.labelled),
    },
    loss_rows=(
      (
        'loss',
        "cross-entropy with the teacher's predictions at temperature "
        f'{config.temperature:g}, weight {1 - config.labelled_weight:g}; with '
        f'true labels, weight {config.labelled_weight:g}',
      ),
      ('student', form),
      ('mixing', objective.describe_mixing(config.augment)),
    ),
    extend_batch_fn=extend_fn,
  )


def _make_extend_fn(teacher: Teacher, mesh: Mesh) -> mesh_lib.FinishFn:
  """Adds the teacher's logits to a batch on the devices."""
  logits_fn = judging.make_logits_fn(
    teacher.config,
    num_classes=teacher.num_classes,
    input_form=encoder_lib.input_form(teacher.loaded.passport),
  )
  variables = jax.device_put(
    teacher.loaded.variables, mesh_lib.replicated(mesh)
  )

  def extend(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    logits = logits_fn(variables, batch['views'][:, 0])['logits']
    return {objective.TEACHER_LOGITS: logits}

  return extend
