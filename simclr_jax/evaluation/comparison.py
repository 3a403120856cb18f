"""Pretrained encoder against no training at all: probe and kNN, side by side.

The baselines are the same network as it was initialised and the raw pixels.
Accuracies of a pretrained encoder mean little without them: on easy pictures a
random network and pixels do well where labels are plenty.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath

from simclr_jax import config as config_lib
from simclr_jax.data import Source
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import intervals, knn, linear_probe

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

  Attributes:
    kind: Key of `TITLES`.
    probe_few: Linear probe with few labels.
    probe_all: Linear probe with every label of the training split.
    knn: The config's first k and temperature.
    fingerprint: Of the encoder.
  """

  kind: str
  probe_few: Score
  probe_all: Score
  knn: Score
  fingerprint: str


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The table.

  Attributes:
    rows: The pretrained encoder last.
    labels_per_class: Of the probe with few labels.
    knn_k: Of the kNN column.
    num_train, num_test, num_classes: Sizes.
    majority: Share of the commonest test class.
  """

  rows: tuple[Row, ...]
  labels_per_class: int
  knn_k: int
  num_train: int
  num_test: int
  num_classes: int
  majority: float

  def headings(self) -> tuple[str, str, str]:
    """Titles of the three columns of accuracies."""
    few = self.labels_per_class
    plural = 's' if few > 1 else ''
    return (
      f'probe, {few} label{plural} per class',
      f'probe, all {self.num_train:,} labels',
      f'kNN, k = {self.knn_k}',
    )

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

  Raises:
    ValueError: As `linear_probe.probe_features` and `knn.knn_accuracy`.
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
  rows = []
  for kind, both in features.items():
    few = linear_probe.probe_features(both.train, both.test, few_config)
    every = linear_probe.probe_features(both.train, both.test, all_config)
    near = knn.knn_accuracy(both.train, both.test, config.knn, mesh=mesh)
    rows.append(
      Row(
        kind=kind,
        probe_few=Score(few.top1, few.top1_interval),
        probe_all=Score(every.top1, every.top1_interval),
        knn=Score(near.headline.top1, near.headline.top1_interval),
        fingerprint=both.train.encoder_fingerprint,
      )
    )
  return Comparison(
    rows=tuple(rows),
    labels_per_class=labels_per_class,
    knn_k=near.headline.k,
    num_train=every.num_train,
    num_test=every.num_test,
    num_classes=every.num_classes,
    majority=every.majority,
  )


def format_table(comparison: Comparison) -> str:
  """The comparison as text for a terminal."""
  lines: list[tuple[str, ...]] = [('', *comparison.headings())]
  for row in comparison.rows:
    scores = (row.probe_few, row.probe_all, row.knn)
    lines.append((TITLES[row.kind], *map(str, scores)))
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = ['   '.join(map(str.ljust, line, widths)) for line in lines]
  text.insert(1, '   '.join('-' * width for width in widths))
  text.append(
    f'Top-1 on {comparison.num_test:,} held-out images, with 95 % intervals '
    f'over them; the commonest class alone gives {comparison.majority:.1%}.'
  )
  return '\n'.join(line.rstrip() for line in text)
