"""The frozen encoder on the same labels: a linear probe beside fine-tuning."""

from __future__ import annotations

import dataclasses

from etils import epath
from jax.sharding import Mesh

from simclr_jax import config as config_lib
from simclr_jax.data import part
from simclr_jax.data.source import Source
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import linear_probe
from simclr_jax.finetuning import judging, labelled, stage
from simclr_jax.training import checkpoint

# Labels of a class below which no holdout can choose a setting.
_FEW = 20


def probe(
  start: checkpoint.LoadedEncoder,
  pictures: labelled.Labelled,
  test: Source,
  *,
  config: config_lib.Config,
  num_bootstrap: int,
  cache_dir: epath.Path,
  mesh: Mesh,
) -> stage.Row:
  """Linear probe on all labels that fine-tuning uses, its holdout included.

  Args:
    start: Encoder.
    pictures: The labels.
    test: To judge on.
    config: Of the fine-tuning run: its data, and the passport's probe section.
    num_bootstrap: Resamples of the test split.
    cache_dir: Where features are kept.
    mesh: Axis 'data'.

  Raises:
    ValueError: As `linear_probe.probe_features`.
  """
  encoder = encoder_lib.make_encoder(start, mesh=mesh)
  source = pictures.whole
  if pictures.num_labels < source.num_examples:
    source = part.take(
      source, pictures.rows, name=f'{pictures.num_labels} labels'
    )
  train, judged = (
    features_lib.extract_features(encoder, split, config, cache_dir=cache_dir)
    for split in (source, test)
  )
  result = linear_probe.probe_features(
    train,
    judged,
    dataclasses.replace(
      probe_config(
        config.probe,
        num_labels=pictures.num_labels,
        num_classes=len(pictures.classes),
      ),
      num_bootstrap=num_bootstrap,
    ),
  )
  accuracy = judging.Accuracy(
    top1=result.top1,
    top5=result.top5,
    top1_interval=result.top1_interval,
    top5_interval=result.top5_interval,
    nll=None,
    num_images=result.num_test,
    majority=result.majority,
    num_train_classes=result.num_train_classes,
    num_test_classes=result.num_test_classes,
  )
  return stage.Row(
    kind='frozen',
    num_labels=pictures.num_labels,
    accuracy=accuracy,
    notes=(
      f'linear probe, lr {result.base_lr:g}, weight decay '
      f'{result.weight_decay:g}',
      *pictures.notes,
      *result.warnings,
    ),
  )


def probe_config(
  probe: config_lib.ProbeConfig, *, num_labels: int, num_classes: int
) -> config_lib.ProbeConfig:
  """The passport's probe; with few labels, one setting (evaluation/comparison).

  A holdout of a handful of labels would choose by chance, and one setting suits
  features of any scale once they are standardised.
  """
  probe = dataclasses.replace(
    probe, mode='features', labels_per_class=0, num_seeds=1
  )
  if num_labels >= _FEW * num_classes:
    return probe
  return dataclasses.replace(
    probe,
    base_lrs=probe.base_lrs[:1],
    weight_decays=probe.weight_decays[:1],
    standardize=True,
  )
