"""A fine-tuned classifier that teaches another one."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.data.source import Source
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.finetuning import config as finetune_lib
from simclr_jax.finetuning import labelled, objective
from simclr_jax.finetuning import run as run_lib
from simclr_jax.training import checkpoint
from simclr_jax.training import passport as passport_lib

_BIAS = f'params/{run_lib.CLASSIFIER}/bias'


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A fine-tuned (or distilled) classifier.

  Attributes:
    loaded: Its checkpoint.
    config: Of its run.
    num_classes: Of its classifier.
    labelled: What its passport says of the labels that it was fitted to, see
      `labelled.describe`.
  """

  loaded: checkpoint.LoadedEncoder
  config: config_lib.Config
  num_classes: int
  labelled: Mapping[str, Any]

  @property
  def num_labels(self) -> int:
    """All that were used to train it or to choose its step."""
    return int(self.labelled['num_fit'] + self.labelled['num_holdout'])

  @property
  def classes(self) -> tuple[int, ...]:
    """Those that it was fitted to labels of."""
    absent = self.labelled['classes_without_label']
    return tuple(k for k in range(self.num_classes) if k not in absent)


def open_teacher(loaded: checkpoint.LoadedEncoder) -> Teacher:
  """A checkpoint as a teacher.

  Raises:
    ValueError: If it is no classifier that was fine-tuned or distilled.
  """
  passport = loaded.passport
  kind = passport.get('objective')
  if kind not in (objective.FINETUNE, objective.DISTILL):
    raise ValueError(
      f'{loaded.path} is a checkpoint of {kind!r}: a teacher is one that was '
      'fine-tuned (python -m simclr_jax.finetune) or distilled; the online '
      'head of a pretraining run was trained on all labels and is none'
    )
  config = passport_lib.config_from_passport(passport, where=loaded.path)
  encoder_lib.check_fits(loaded, config)
  bias = models.flat_paths(loaded.variables)[_BIAS]
  return Teacher(
    loaded=loaded,
    config=config,
    num_classes=len(bias),
    labelled=passport[kind]['labelled'],
  )


def find_labels(
  teacher: Teacher, train: Source, workdir: epath.Path
) -> labelled.Labelled:
  """The same choice of labels as the teacher's, of the same pictures."""
  if train.fingerprint != teacher.labelled['whole_fingerprint']:
    raise ValueError(
      f'the teacher was fine-tuned on labels of {teacher.labelled["whole"]}, '
      f'and {train.name} is other data: which of its pictures have labels is '
      'not known. Use the same data, or config.labelled_weight=0 and '
      'config.use_holdout=False'
    )
  values = {'labels': teacher.labelled['labels']}
  labels = finetune_lib.read_finetune(values).labels
  return labelled.divide(train, labels, workdir=workdir)
