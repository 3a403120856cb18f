"""What a report reads of a run, opened once."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
import os
from typing import Any

from etils import epath
from jax.sharding import Mesh
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import data as data_lib
from simclr_jax import section_flags
from simclr_jax.data import part, pipeline
from simclr_jax.evaluation import comparison as comparison_lib
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import jobs
from simclr_jax.training import checkpoint
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import passport as passport_lib

Records = tuple[Mapping[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class RunData:
  """A run, as its checkpoint and its metrics tell of it.

  Attributes:
    workdir: Of the run.
    loaded: The checkpoint that is judged.
    config: Of its passport.
    train: Training pictures.
    records: Lines of metrics.jsonl up to the checkpoint.
    encoder: That of the checkpoint.
  """

  workdir: epath.Path
  loaded: checkpoint.LoadedEncoder
  config: config_lib.Config
  train: data_lib.Source
  records: Records
  encoder: encoder_lib.Encoder

  @property
  def mesh(self) -> Mesh:
    """Axis 'data'."""
    return self.encoder.mesh

  @property
  def passport(self) -> Mapping[str, Any]:
    """Of the checkpoint."""
    return self.loaded.passport

  @property
  def derived(self) -> Mapping[str, Any]:
    """Numbers that followed from the config; {} of an imported checkpoint."""
    derived: Mapping[str, Any] = self.passport.get('derived') or {}
    return derived

  @property
  def cache_dir(self) -> epath.Path:
    """Where features are kept, as for probe and kNN."""
    return self.workdir / 'features'

  def series(self, name: str) -> list[tuple[int, float]]:
    """(step, value) of every line that holds a metric."""
    return [(r['step'], float(r[name])) for r in self.records if name in r]


@dataclasses.dataclass(frozen=True)
class Judged:
  """Features of the encoders that the report compares.

  Attributes:
    features: By kind; 'checkpoint' and 'random_init' are always there. Without
      a held-out split its `test` is its `train`.
    test: Held-out pictures; the training pictures where there are none.
    held_out: Whether there are any.
    labelled: Whether labels tell at least two classes apart.
    no_table: Reason for the absence of the table; '' where there is one.
  """

  features: Mapping[str, comparison_lib.EncoderFeatures]
  test: data_lib.Source
  held_out: bool
  labelled: bool
  no_table: str = ''


def open_run(
  workdir: epath.PathLike,
  *,
  step: int | str | None,
  mesh: Mesh,
  overrides: jobs.Overrides | None = None,
) -> RunData:
  """Opens a workdir.

  Args:
    workdir: Of the run.
    step: Of the checkpoint; 'best'; None for the newest.
    mesh: Axis 'data'.
    overrides: Fields of config sections, {'data': {'path': ...}}.

  Raises:
    ValueError: If there is no such checkpoint, an override is impossible, or
      metrics that are none.
    DamagedCheckpoint: If none is readable.
  """
  workdir = epath.Path(workdir)
  loaded = checkpoint.load_encoder(workdir, step=step)
  config = section_flags.apply(
    passport_lib.config_from_passport(loaded.passport), overrides or {}
  )
  with section_flags.named('--data'):
    train = _open_train(config, loaded.passport, workdir)
  records = metrics_lib.read_lines(workdir / metrics_lib.FILE_NAME)
  return RunData(
    workdir=workdir,
    loaded=loaded,
    config=config,
    train=train,
    records=tuple(r for r in records if r['step'] <= loaded.step),
    encoder=encoder_lib.make_encoder(loaded, mesh=mesh),
  )


def _open_train(
  config: config_lib.Config, passport: Mapping[str, Any], workdir: epath.Path
) -> data_lib.Source:
  """The training split, with labels only where they are the network's classes.

  A student that reads no label may be trained on folders that are no classes,
  or on loose pictures (finetuning/student_data.py).
  """

  def open_as(data: config_lib.DataConfig) -> data_lib.Source:
    return data_lib.make_source(
      data, data.train_split, workdir=os.fspath(workdir)
    )

  stage = passport.get('distill', {}).get('config', {})
  reads_labels = stage.get('labelled_weight') or stage.get('use_holdout')
  if passport['objective'] != 'distill' or reads_labels:
    return open_as(config.data)
  unlabelled = open_as(dataclasses.replace(config.data, labels_from='none'))
  if unlabelled.num_classes:
    return unlabelled
  try:
    named = open_as(config.data)
  except ValueError:  # The same pictures can be opened: it was about labels.
    return unlabelled
  known = tuple(passport['data'].get('class_names', ()))
  return named if named.class_names == known else unlabelled


def finite(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
  """Without what JSON holds as 'NaN' or 'Infinity'."""
  return [(step, value) for step, value in points if math.isfinite(value)]


def same_class(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Whether labels are equal: True, False, or None where either is none (-1).

  Args:
    one: i32.
    other: i32, of a shape that broadcasts with that of `one`.

  Returns:
    An array of objects.
  """
  same = np.asarray(one == other).astype(object)
  same[(one < 0) | (other < 0)] = None
  return same


def pick_queries(labels: np.ndarray, *, count: int) -> np.ndarray:
  """Rows of `count` examples, of as many classes as possible, the same always.

  Args:
    labels: i32 [n]; -1 throughout where there are none.
    count: At most n are given.
  """
  # Rank of each example within its class: the first of every class come first.
  rank = np.zeros(len(labels), np.int64)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    rank[members] = np.arange(len(members))
  order = np.lexsort((np.arange(len(labels)), labels, rank))
  return np.sort(order[:count]) if labels.max(initial=-1) < 0 else order[:count]


def read_images(
  source: data_lib.Source, rows: np.ndarray, config: config_lib.Config
) -> np.ndarray:
  """Evaluation images f32 [n,H,W,3] of the examples `rows`, in their order."""
  batches = pipeline.eval_batches(
    part.take(source, rows, name=f'{len(rows)} shown'),
    data=config.data,
    eval_config=config.eval,
  )
  return np.concatenate([batch['image'][batch['mask']] for batch in batches])
