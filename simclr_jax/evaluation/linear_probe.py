"""Linear probe on features: select on a holdout, report once on the test split.

1. The training split, or `labels_per_class` of it, is split into a part to fit
   on and a stratified holdout.
2. Every learning rate x weight decay x seed is trained in one vectorised
   training; the setting with the best mean holdout accuracy wins (of equals,
   the one with the lower holdout cross-entropy).
3. The winner is trained again on both parts together, for the same number of
   epochs, and judged on the test split. Test labels choose nothing.

With one setting there is nothing to select: steps 1 and 2 fall away. The
labelled subset and the holdout do not depend on the probe's seeds, which are 0
to num_seeds - 1 and move the order of examples alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

from absl import logging
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import intervals, logistic_regression, ranks, splits
from simclr_jax.evaluation.occurring import Occurring

_SPLIT_SEED = 0
_ADVICE = (
  'try --probe.standardize=True, other --probe.base_lrs or more --probe.epochs'
)
_ROUNDING = 1e-5  # Relative; a mean of float32 losses is no more exact.


@dataclasses.dataclass(frozen=True)
class SettingScore:
  """One row of the sweep's table.

  Attributes:
    base_lr, weight_decay: The setting.
    top1: Holdout accuracy, mean over seeds.
    nll, train_nll: Cross-entropy on the holdout and on the part that was
      fitted, nats, mean over seeds; None where it is not finite.
  """

  base_lr: float
  weight_decay: float
  top1: float
  nll: float | None
  train_nll: float | None


@dataclasses.dataclass(frozen=True)
class ProbeResult:
  """What a linear probe reports; JSON by `dataclasses.asdict`.

  Attributes:
    mode: 'features' or 'official'.
    top1, top5: Test accuracy in [0, 1], mean over seeds; top5 is None where
      five classes or fewer occur.
    top1_interval, top5_interval: 95 % bootstrap over test examples.
    top1_per_seed: One value for each seed.
    top1_std: Standard deviation over seeds (n - 1); None for one seed.
    majority: Share of the commonest test class, what guessing it would give.
    train_nll: Final mean cross-entropy on the probe's training set, nats.
    num_classes, num_train, num_test: Sizes; num_train counts all labels used.
    num_train_classes, num_test_classes: Classes that occur.
    base_lr, weight_decay, peak_lr: The chosen setting.
    batch_size, num_steps, epochs: Of the final training.
    num_holdout: Examples the setting was selected on; 0 without selection.
    holdout: Table of the sweep.
    warnings: What a reader of the number should know.
  """

  mode: str
  top1: float
  top5: float | None
  top1_interval: intervals.Interval
  top5_interval: intervals.Interval | None
  top1_per_seed: tuple[float, ...]
  top1_std: float | None
  majority: float
  train_nll: float
  num_classes: int
  num_train: int
  num_test: int
  num_train_classes: int
  num_test_classes: int
  base_lr: float
  weight_decay: float
  peak_lr: float
  batch_size: int
  num_steps: int
  epochs: int
  num_holdout: int = 0
  holdout: tuple[SettingScore, ...] = ()
  warnings: tuple[str, ...] = ()


def probe_features(
  train: features_lib.Features,
  test: features_lib.Features,
  config: config_lib.ProbeConfig,
) -> ProbeResult:
  """Linear-probe accuracy of frozen features h.

  Raises:
    NoAccuracy: If labels allow none.
    ValueError: If both splits hold the same examples, a class has too few
      labels, nothing is left to select a setting on, or the loss of the chosen
      setting did not fall.
  """
  train, test, occurring = features_lib.comparable(train, test)
  rows = np.arange(len(train.labels))
  if config.labels_per_class:
    rows = splits.subset_per_class(
      train.labels, num_per_class=config.labels_per_class, seed=_SPLIT_SEED
    )
  settings = list(itertools.product(config.base_lrs, config.weight_decays))
  table: tuple[SettingScore, ...] = ()
  num_holdout = 0
  chosen = settings[0]
  if len(settings) > 1:
    table, num_holdout = _sweep(train, rows, settings, config)
    best = select(table, num_classes=train.num_classes)
    chosen = (best.base_lr, best.weight_decay)
  fitted = _fit(train, rows, [chosen], config)
  train_scores = logistic_regression.score(
    fitted, train.h, train.labels, rows=rows
  )
  train_nll = float(train_scores.nll_RxG.mean())
  check_loss_fell(train_nll, num_classes=train.num_classes, setting=chosen)
  scores = logistic_regression.score(
    fitted, test.h, test.labels, rows=np.arange(len(test.labels))
  )
  return summarize(
    scores.rank_RxGxn[:, 0],
    test.labels,
    mode='features',
    config=config,
    num_classes=test.num_classes,
    occurring=occurring,
    train_nll=train_nll,
    num_train=len(rows),
    base_lr=chosen[0],
    weight_decay=chosen[1],
    peak_lr=float(fitted.peak_lrs[0]),
    batch_size=fitted.batch_size,
    num_steps=fitted.num_steps,
    num_holdout=num_holdout,
    holdout=table,
    warnings=edge_warnings(chosen, config),
  )


def select(
  table: tuple[SettingScore, ...], *, num_classes: int
) -> SettingScore:
  """Best holdout accuracy, then lowest cross-entropy, then first.

  Settings whose training diverged do not take part: what accuracy they have is
  an accident.

  Raises:
    ValueError: If that leaves none.
  """
  sound = [
    row
    for row in table
    if row.nll is not None and loss_fell(row.train_nll, num_classes)
  ]
  if not sound:
    raise ValueError(
      f"the probe's loss did not fall under any of its {len(table)} settings: "
      f'none is below log({num_classes}) = {math.log(num_classes):.4f} on the '
      f'training set. No accuracy is reported; {_ADVICE}'
    )
  return min(sound, key=lambda row: (-row.top1, row.nll))


def loss_fell(train_nll: float | None, num_classes: int) -> bool:
  """Whether a classifier fits better than one that knows nothing."""
  start = math.log(num_classes)
  return train_nll is not None and train_nll < start * (1 - _ROUNDING)


def check_loss_fell(
  train_nll: float,
  *,
  num_classes: int,
  setting: tuple[float, float],
  advice: str = _ADVICE,
) -> None:
  """Refuses a classifier that does not even fit its training set.

  Raises:
    ValueError: If the cross-entropy is not below log(num_classes), that of a
      classifier which knows nothing.
  """
  if not loss_fell(train_nll, num_classes):
    raise ValueError(
      f"the probe's loss did not fall: {train_nll:.4f} on its training set, "
      f'not below log({num_classes}) = {math.log(num_classes):.4f}, with '
      f'learning rate {setting[0]:g} and weight decay {setting[1]:g}. No '
      'accuracy is reported, because it would say nothing about the encoder; '
      f'{advice}'
    )


def edge_warnings(
  chosen: tuple[float, float], config: config_lib.ProbeConfig
) -> tuple[str, ...]:
  """Says so where the best learning rate may lie outside the grid."""
  rates = sorted(set(config.base_lrs))
  if len(rates) < 2 or rates[0] < chosen[0] < rates[-1]:
    return ()
  side = 'smallest' if chosen[0] == rates[0] else 'largest'
  return (
    f'the chosen learning rate {chosen[0]:g} is the {side} of '
    'probe.base_lrs: a better one may lie beyond',
  )


def summarize(
  rank_Rxn: np.ndarray,
  labels_n: np.ndarray,
  *,
  mode: str,
  config: config_lib.ProbeConfig,
  num_classes: int,
  occurring: Occurring,
  warnings: tuple[str, ...],
  **numbers: Any,
) -> ProbeResult:
  """Result from the rank of the true class under every seed (R)."""
  correct1_Rxn = rank_Rxn == 0
  correct5_Rxn = ranks.in_top5(rank_Rxn, occurring)
  per_seed = correct1_Rxn.mean(1)
  bootstrap = {'num_resamples': config.num_bootstrap}
  return ProbeResult(
    mode=mode,
    top1=float(per_seed.mean()),
    top5=None if correct5_Rxn is None else float(correct5_Rxn.mean()),
    top1_interval=intervals.bootstrap_accuracy(
      correct1_Rxn.mean(0), **bootstrap
    ),
    top5_interval=(
      None
      if correct5_Rxn is None
      else intervals.bootstrap_accuracy(correct5_Rxn.mean(0), **bootstrap)
    ),
    top1_per_seed=tuple(float(v) for v in per_seed),
    top1_std=float(per_seed.std(ddof=1)) if len(per_seed) > 1 else None,
    majority=float(np.bincount(labels_n).max() / len(labels_n)),
    num_classes=num_classes,
    num_test=len(labels_n),
    num_train_classes=occurring.num_train_classes,
    num_test_classes=occurring.num_test_classes,
    warnings=(*occurring.notes, *warnings),
    epochs=config.epochs,
    **numbers,
  )


def _sweep(
  train: features_lib.Features,
  rows: np.ndarray,
  settings: list[tuple[float, float]],
  config: config_lib.ProbeConfig,
) -> tuple[tuple[SettingScore, ...], int]:
  """(holdout score of every setting, size of the holdout)."""
  if config.holdout_fraction == 0:
    raise ValueError(
      f'probe.holdout_fraction = 0 with {len(settings)} settings leaves '
      'nothing to select one on (never the test split); set '
      f'--probe.holdout_fraction=0.1, or give one setting: {splits.ONE_SETTING}'
    )
  kept, held = splits.holdout_split(
    train.labels[rows], fraction=config.holdout_fraction, seed=_SPLIT_SEED
  )
  fitted = _fit(train, rows[kept], settings, config)
  scores = logistic_regression.score(
    fitted, train.h, train.labels, rows=rows[held]
  )
  train_scores = logistic_regression.score(
    fitted, train.h, train.labels, rows=rows[kept]
  )
  top1_G = (scores.rank_RxGxn == 0).mean((0, 2))
  nll_G = scores.nll_RxG.mean(0)
  train_nll_G = train_scores.nll_RxG.mean(0)
  table = tuple(
    SettingScore(
      base_lr=lr,
      weight_decay=decay,
      top1=float(top1_G[g]),
      nll=_finite(nll_G[g]),
      train_nll=_finite(train_nll_G[g]),
    )
    for g, (lr, decay) in enumerate(settings)
  )
  for row in table:
    logging.info('linear probe, holdout: %s', row)
  return table, len(held)


def _fit(
  train: features_lib.Features,
  rows: np.ndarray,
  settings: list[tuple[float, float]],
  config: config_lib.ProbeConfig,
) -> logistic_regression.Fit:
  return logistic_regression.fit(
    train.h,
    train.labels,
    rows=rows,
    grid=logistic_regression.Grid(
      base_lrs=tuple(lr for lr, _ in settings),
      weight_decays=tuple(decay for _, decay in settings),
      seeds=tuple(range(config.num_seeds)),
    ),
    num_classes=train.num_classes,
    batch_size=config.batch_size,
    epochs=config.epochs,
    standardize=config.standardize,
  )


def _finite(value: float) -> float | None:
  """JSON has no infinity."""
  return float(value) if np.isfinite(value) else None
