import numpy as np
import pytest
from scipy import stats

from simclr_jax.evaluation import intervals


@pytest.mark.parametrize('share', [0.1, 0.5, 0.93])
def test_agrees_with_the_exact_binomial_quantiles(share):
  n = 4000
  correct = np.arange(n) < round(share * n)
  low, high = intervals.bootstrap_accuracy(correct, num_resamples=20_000)
  # A resample of 0/1 is exactly binomial, so its quantiles are known.
  expected = stats.binom.ppf([0.025, 0.975], n, correct.mean()) / n
  np.testing.assert_allclose([low, high], expected, atol=0.05 * share**0.5 / 10)


def test_agrees_with_drawing_indices():
  rng = np.random.default_rng(3)
  values = rng.choice([0.0, 1 / 3, 2 / 3, 1.0], size=500)
  drawn = values[rng.integers(0, 500, (20_000, 500))].mean(1)
  found = intervals.bootstrap_accuracy(values, num_resamples=20_000)
  np.testing.assert_allclose(
    found, np.quantile(drawn, [0.025, 0.975]), atol=3e-3
  )


def test_covers_the_true_accuracy_95_percent_of_the_time():
  rng = np.random.default_rng(0)
  num_covered = 0
  for _ in range(400):
    correct = rng.random(300) < 0.8
    low, high = intervals.bootstrap_accuracy(correct, num_resamples=400)
    num_covered += low <= 0.8 <= high
  assert 0.91 < num_covered / 400 < 0.98


def test_same_seed_same_interval():
  correct = np.arange(100) % 3 == 0
  first = intervals.bootstrap_accuracy(correct, num_resamples=100, seed=1)
  assert first == intervals.bootstrap_accuracy(
    correct, num_resamples=100, seed=1
  )
  assert first != intervals.bootstrap_accuracy(
    correct, num_resamples=100, seed=2
  )


def test_certain_results_have_no_width():
  assert intervals.bootstrap_accuracy(np.ones(9), num_resamples=50) == (1, 1)


@pytest.mark.parametrize('bad', [np.ones(0), np.ones((2, 2)), np.array([2.0])])
def test_refuses_what_is_no_accuracy(bad):
  with pytest.raises(ValueError):
    intervals.bootstrap_accuracy(bad, num_resamples=10)
