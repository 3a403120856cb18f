"""What a card lets one expect of a new run: intervals of prediction.

With R runs of a recipe, the value of another run at some epoch lies within

  mean +- t * s * sqrt(1 + 1 / R)

where s^2 is the variance between runs, pooled over the rows of the curve around
it (the runs are few), and t the quantile of Student's distribution. A run that
is better than the others in one epoch tends to be so in the next: n rows whose
deviations have a correlation of r from one to the next tell as much of the
variance as n (1 - r^2) / (1 + r^2) independent ones (Bartlett 1935, for a
process of first order), and so many are the degrees of freedom, of each run
but one. Where the nearest rows vary more than those around (the first ones do),
theirs is s^2. The chance of a false alarm is shared between all numbers that
are compared (Bonferroni): of a hundred sound runs about one fails. Rows are
epochs; of kNN, which is measured less often, evaluations.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import stats

from simclr_jax.cards.card import Card

FALSE_ALARMS = 0.01
# Rows before and after that variances are pooled over, and the nearest.
_AROUND, _NEAREST = 10, 1
_MOST_CORRELATED = 0.99
# Runs that are alike by chance do not make the next one exact: accuracies are
# shares of a finite test set (or batch).
ACCURACIES = ('contrast_acc', 'knn_top1', 'linear_top1')
_LEAST_STD = 0.005
# Metric -> whether better than expected is a failure, too. A loss that is too
# low is no success: views that are too alike do that.
METRICS = {
  'contrast_loss': True,
  'contrast_acc': True,
  'knn_top1': False,
}
FINAL = ('knn_top1', 'linear_top1')


@dataclasses.dataclass(frozen=True)
class Expected:
  """Of one number.

  Attributes:
    mean: Over the runs of the card.
    low, high: Where another run should lie.
  """

  mean: float
  low: float
  high: float


def by_epoch(
  card: Card, metric: str, *, num_comparisons: int
) -> dict[int, Expected]:
  """Epoch -> what is expected, where all runs of the card have the number.

  Args:
    card: With at least two runs.
    metric: Key of the curves.
    num_comparisons: Numbers that share the chance of a false alarm.
  """
  curves = [
    {int(p['epoch']): float(p[metric]) for p in run.curve if metric in p}
    for run in card.runs
  ]
  epochs = sorted(set.intersection(*(set(c) for c in curves)))
  values_RxE = np.array([[c[e] for e in epochs] for c in curves])
  return {
    epoch: _interval(metric, values_RxE, i, num_comparisons)
    for i, epoch in enumerate(epochs)
  }


def final(card: Card, metric: str, *, num_comparisons: int) -> Expected | None:
  """Of the last checkpoint; None where the runs have no such number."""
  values = [run.final[metric] for run in card.runs if metric in run.final]
  if len(values) < 2:
    return None
  return _interval(metric, np.array(values)[:, None], 0, num_comparisons)


def _interval(
  metric: str, values_RxE: np.ndarray, i: int, num_comparisons: int
) -> Expected:
  """Of column i."""
  num_runs, _ = values_RxE.shape
  variance_E = np.var(values_RxE, axis=0, ddof=1)
  around = variance_E[max(0, i - _AROUND) : i + _AROUND + 1]
  nearest = variance_E[max(0, i - _NEAREST) : i + _NEAREST + 1]
  least = _LEAST_STD if metric in ACCURACIES else 0.0
  variance = max(around.mean(), nearest.mean(), least**2)
  r = _correlation(values_RxE)
  independent = max(1.0, len(around) * (1 - r * r) / (1 + r * r))
  quantile = stats.t.ppf(
    1 - FALSE_ALARMS / num_comparisons / 2, (num_runs - 1) * independent
  )
  half = float(quantile * math.sqrt(variance * (1 + 1 / num_runs)))
  mean = float(values_RxE[:, i].mean())
  low, high = mean - half, mean + half
  if metric in ACCURACIES:
    low, high = max(low, 0.0), min(high, 1.0)
  return Expected(mean, low, high)


def _correlation(values_RxE: np.ndarray) -> float:
  """Of the runs' deviations from their mean, from one row to the next."""
  deviations_RxE = values_RxE - values_RxE.mean(0)
  before, after = deviations_RxE[:, :-1], deviations_RxE[:, 1:]
  scale = math.sqrt(np.sum(before**2) * np.sum(after**2))
  if not scale:
    return 0.0
  return float(np.clip(np.sum(before * after) / scale, 0.0, _MOST_CORRELATED))
