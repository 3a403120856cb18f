"""What a student is shown: pictures, few or no labels, and a test split."""

from __future__ import annotations

import dataclasses

from etils import epath
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import part
from simclr_jax.data.source import Source
from simclr_jax.evaluation import features as features_lib
from simclr_jax.finetuning import stage
from simclr_jax.finetuning import teacher as teacher_lib
from simclr_jax.finetuning.config import DistillConfig
from simclr_jax.finetuning.teacher import Teacher


@dataclasses.dataclass(frozen=True)
class Pictures:
  """What a student is trained, chosen and judged on.

  Attributes:
    train: Without the teacher's holdout; a label only where the teacher had
      one and the loss reads it.
    holdout: The teacher's; None where it is not used.
    test: Test split.
  """

  train: Source
  holdout: Source | None
  test: Source


def open_pictures(
  teacher: Teacher,
  derived: config_lib.Config,
  config: DistillConfig,
  *,
  workdir: epath.Path,
) -> Pictures:
  """Unlabelled pictures, and those of the teacher's labels that are used.

  Raises:
    ValueError: If labels are to be used and these are not the pictures that the
      teacher's labels belong to, the classes are not the teacher's, or the
      splits have pictures in common.
  """
  reads_labels = config.labelled_weight > 0 or config.use_holdout
  train, test = stage.open_splits(
    derived, workdir, **({} if reads_labels else _unlabelled(teacher, derived))
  )
  names = tuple(teacher.loaded.passport['data'].get('class_names', ()))
  for source in (train, test) if reads_labels else (test,):
    _check_classes(names, source)
  named = dataclasses.replace(
    train, num_classes=teacher.num_classes, class_names=names
  )
  features_lib.check_sources(named, test)
  if not part.some_labels(test, examples=1, classes=1):
    raise ValueError(f'{test.name} has no labels to judge the student by')
  rows, holdout = np.arange(train.num_examples), None
  shown = np.zeros(0, np.int64)
  if reads_labels:
    found = teacher_lib.find_labels(teacher, train, workdir)
    if config.use_holdout and found.holdout is None:
      raise ValueError(
        'config.use_holdout = True: the teacher was fine-tuned without a '
        'holdout (its labels.holdout_fraction was 0); every label that it has '
        'not trained on is in the test split. Set config.use_holdout=False, '
        'or fine-tune a teacher with one (few_labels.py:early)'
      )
    holdout = found.holdout if config.use_holdout else None
    rows = np.setdiff1d(rows, found.holdout_rows, assume_unique=True)
    if config.labelled_weight > 0:
      shown = np.searchsorted(rows, found.fit_rows)
  if len(rows) < train.num_examples:
    named = part.take(named, rows, name='without the holdout')
  return Pictures(
    train=part.hide_labels(named, shown), holdout=holdout, test=test
  )


def _unlabelled(
  teacher: Teacher, derived: config_lib.Config
) -> dict[str, config_lib.DataConfig]:
  """How splits are opened where no label is read, see `stage.open_splits`.

  Folders of unlabelled pictures are no classes, and may hold loose pictures.
  """
  given, old = derived.data, teacher.config.data
  judged = given
  if (given.path, given.train_split) != (old.path, old.train_split):
    # Classes are numbered over both splits, and these have none.
    judged = dataclasses.replace(given, train_split=given.test_split)
  return {
    'train_data': dataclasses.replace(given, labels_from='none'),
    'test_data': judged,
  }


def _check_classes(names: tuple[str, ...], source: Source) -> None:
  """Refuses classes of another name or order than the teacher's.

  Args:
    names: The teacher's; empty where it has none.
    source: Whose labels are read.

  Raises:
    ValueError: If both have names, and not the same.
  """
  if not names or not source.class_names or names == source.class_names:
    return
  raise ValueError(
    f'the classes of {source.name} are not those of the teacher: '
    f'{list(source.class_names[:5])} and {list(names[:5])} are the first of '
    f'{len(source.class_names)} and {len(names)}; a label would stand for '
    'another class than the one that the teacher predicts. Use the same '
    'classes, with the same names'
  )
