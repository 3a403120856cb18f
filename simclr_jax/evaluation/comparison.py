"""Pretrained encoder against no training at all: probe and kNN, side by side.

The baselines are the same network as it was initialised and the raw pixels.
Accuracies of a pretrained encoder mean little without them: on easy pictures a
random network and pixels do well where labels are plenty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import Source
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import intervals, knn, linear_probe, occurring

TITLES = {
  'raw_pixels': 'raw pixels',
  'random_init': 'random initialisation',
  'checkpoint': 'pretrained',
}


@dataclasses.dataclass(frozen=True)
class Score:
  """An accuracy in [0, 1] with its 95 % interval over the test examples."""

  top1: float
  interval: intervals.Interval

  def __str__(self) -> str:
    low, high = self.interval
    return f'{self.top1:.1%} [{low:.1%}, {high:.1%}]'


@dataclasses.dataclass(frozen=True)
class Row:
  """One encoder.

  A score is None in all rows where one encoder could not be judged so.

  Attributes:
    kind: Key of `TITLES`.
    probe_few: Linear probe with few labels.
    probe_all: Linear probe with every label of the training split.
    knn: The config's first k that the training split allows, and temperature.
    fingerprint: Of the encoder.
  """

  kind: str
  probe_few: Score | None
  probe_all: Score | None
  knn: Score | None
  fingerprint: str


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The table.

  Attributes:
    rows: The pretrained encoder last.
    labels_per_class: Of the probe with few labels.
    knn_k: Of the kNN column; None without it.
    num_train, num_test, num_classes: Sizes; of a split those with a label.
    num_test_classes: Classes that occur in the test split.
    majority: Share of the commonest test class.
    notes: What is missing from the table, and why.
  """

  rows: tuple[Row, ...]
  labels_per_class: int
  knn_k: int | None
  num_train: int
  num_test: int
  num_classes: int
  num_test_classes: int
  majority: float
  notes: tuple[str, ...] = ()

  def columns(self) -> dict[str, tuple[Score, ...]]:
    """Heading -> the scores of all rows, without impossible columns."""
    few = self.labels_per_class
    headings = {
      'probe_few': f'probe, {few} label{"s" if few > 1 else ""} per class',
      'probe_all': f'probe, all {self.num_train:,} labels',
      'knn': f'kNN, k = {self.knn_k}',
    }
    scores = {
      heading: tuple(getattr(row, name) for row in self.rows)
      for name, heading in headings.items()
    }
    return {k: v for k, v in scores.items() if None not in v}

  def to_json(self) -> dict[str, Any]:
    """Nested dicts of plain values."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class EncoderFeatures:
  """Features of both splits from one encoder."""

  train: features_lib.Features
  test: features_lib.Features


def extract_all(
  encoders: Mapping[str, encoder_lib.Encoder],
  train: Source,
  test: Source,
  config: config_lib.Config,
  *,
  cache_dir: epath.PathLike,
) -> dict[str, EncoderFeatures]:
  """Features of every encoder, cached on disk."""
  return {
    kind: EncoderFeatures(
      *(
        features_lib.extract_features(
          encoder, source, config, cache_dir=cache_dir
        )
        for source in (train, test)
      )
    )
    for kind, encoder in encoders.items()
  }


def compare(
  features: Mapping[str, EncoderFeatures],
  config: config_lib.Config,
  *,
  labels_per_class: int,
  mesh: Any,
) -> Comparison:
  """Judges every encoder in the same way.

  With all labels the probe sweeps the config's settings and selects on a
  holdout. With few it takes the first learning rate and weight decay and
  standardises the features: a holdout of a handful of labels would select by
  chance, and one setting suits features of any scale once they are
  standardised.

  Args:
    features: By kind; the column sizes are taken from the first.
    config: Its `probe` and `knn` sections are used.
    labels_per_class: Of the probe with few labels.
    mesh: For kNN.

  Returns:
    The table. A column that some encoder has no honest number for (classes
    with too few examples, say) is left out, and a note says why.

  Raises:
    NoAccuracy: If labels allow none.
    ValueError: If training and test features cannot be compared at all.
  """
  few_config = dataclasses.replace(
    config.probe,
    mode='features',
    labels_per_class=labels_per_class,
    base_lrs=config.probe.base_lrs[:1],
    weight_decays=config.probe.weight_decays[:1],
    standardize=True,
  )
  all_config = dataclasses.replace(
    config.probe, mode='features', labels_per_class=0
  )
  labelled = {
    kind: features_lib.comparable(both.train, both.test)
    for kind, both in features.items()
  }
  k = None

  def judge_few(both: EncoderFeatures) -> Score:
    few = linear_probe.probe_features(both.train, both.test, few_config)
    return Score(few.top1, few.top1_interval)

  def judge_all(both: EncoderFeatures) -> Score:
    every = linear_probe.probe_features(both.train, both.test, all_config)
    return Score(every.top1, every.top1_interval)

  def judge_knn(both: EncoderFeatures) -> Score:
    nonlocal k
    near = knn.knn_accuracy(both.train, both.test, config.knn, mesh=mesh)
    k = near.headline.k
    return Score(near.headline.top1, near.headline.top1_interval)

  first = next(iter(labelled.values()))
  notes = list(first.occurring.notes)
  columns = {
    'probe_few': _column(judge_few, features, 'few labels', notes),
    'probe_all': _column(judge_all, features, 'all labels', notes),
    'knn': _column(judge_knn, features, 'kNN', notes),
  }
  return Comparison(
    rows=tuple(
      Row(
        kind=kind,
        **{name: column.get(kind) for name, column in columns.items()},
        fingerprint=both.train.encoder_fingerprint,
      )
      for kind, both in features.items()
    ),
    labels_per_class=labels_per_class,
    knn_k=k,
    num_train=len(first.train.labels),
    num_test=len(first.test.labels),
    num_classes=first.train.num_classes,
    num_test_classes=first.occurring.num_test_classes,
    majority=float(np.bincount(first.test.labels).max())
    / len(first.test.labels),
    notes=tuple(notes),
  )


def _column(
  judge_fn: Callable[[EncoderFeatures], Score],
  features: Mapping[str, EncoderFeatures],
  title: str,
  notes: list[str],
) -> dict[str, Score]:
  """Scores by kind; or none, and a note."""
  try:
    return {kind: judge_fn(both) for kind, both in features.items()}
  except ValueError as error:
    notes.append(f'No column for {title}: {error}.')
    return {}


def format_table(
  comparison: Comparison, *, titles: Mapping[str, str] = TITLES
) -> str:
  """The comparison as text for a terminal.

  Args:
    comparison: The table.
    titles: Kind -> what its row is called.
  """
  columns = comparison.columns()
  lines: list[tuple[str, ...]] = [('', *columns)]
  for i, row in enumerate(comparison.rows):
    scores = (str(column[i]) for column in columns.values())
    lines.append((titles[row.kind], *scores))
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = ['   '.join(map(str.ljust, line, widths)) for line in lines]
  text.insert(1, '   '.join('-' * width for width in widths))
  text.append(
    f'Top-1 on {comparison.num_test:,} held-out images of '
    f'{occurring.classes_text(comparison.num_test_classes)}, with 95 % '
    'intervals over them; the commonest class alone gives '
    f'{comparison.majority:.1%}.'
  )
  text += comparison.notes
  return '\n'.join(line.rstrip() for line in text)
