"""Confidence intervals of an accuracy over the test examples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class Interval(NamedTuple):
  """Percentile interval of an accuracy, both in [0, 1]."""

  low: float
  high: float


def bootstrap_accuracy(
  correct_n: np.ndarray, *, num_resamples: int, seed: int = 0
) -> Interval:
  """95 % percentile bootstrap of `mean(correct_n)` over test examples.

  It covers the choice of the test images, not that of the training seed.

  A resample only matters through how often each distinct value of `correct_n`
  is drawn, and those counts are multinomial. Drawing the counts is the same
  bootstrap as drawing n indices, with memory for the distinct values (two for
  0/1) instead of for num_resamples x n.

  Args:
    correct_n: 0/1 (or bool) for every test example; or a share in [0, 1] where
      an example was judged under several seeds.
    num_resamples: Resamples; 1000 gives the ends to about 0.1 standard errors.
    seed: Of the resampling.

  Returns:
    The interval at `LEVEL`.

  Raises:
    ValueError: If there is no example or a value is not in [0, 1].
  """
  values_n = np.asarray(correct_n, np.float64)
  if values_n.ndim != 1 or not values_n.size:
    raise ValueError(
      'an interval needs one value for each of at least one test example, got '
      f'an array of shape {values_n.shape}'
    )
  if not np.all((values_n >= 0) & (values_n <= 1)):
    raise ValueError('every value must lie in [0, 1]: 1 correct, 0 wrong')
  levels, counts = np.unique(values_n, return_counts=True)
  generator = np.random.default_rng(seed)
  draws = generator.multinomial(
    values_n.size, counts / values_n.size, size=num_resamples
  )
  means = draws @ levels / values_n.size
  tail = (1 - LEVEL) / 2
  low, high = np.quantile(means, [tail, 1 - tail])
  return Interval(low=float(low), high=float(high))
