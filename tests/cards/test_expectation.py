from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from simclr_jax import config as config_lib
from simclr_jax.cards import card as card_lib
from simclr_jax.cards import expectation


def _card(values_RxE: np.ndarray, **final) -> card_lib.Card:
  runs = [
    card_lib.CardRun(
      seed=i,
      curve=[
        {'epoch': e + 1, 'contrast_loss': float(v)} for e, v in enumerate(row)
      ],
      final={name: float(v[i]) for name, v in final.items()},
    )
    for i, row in enumerate(values_RxE)
  ]
  return card_lib.Card(
    'x', config_lib.Config(), {}, 'c', 'h', {}, runs=tuple(runs)
  )


def test_interval_of_one_epoch_is_the_textbooks():
  values = np.array([[1.0], [1.2], [0.9], [1.3]])
  (found,) = expectation.by_epoch(
    _card(values), 'contrast_loss', num_comparisons=1
  ).values()
  # Prediction interval of a normal sample, e.g. Hahn and Meeker 1991, 4.7.
  half = stats.t.ppf(0.995, 3) * np.std(values, ddof=1) * np.sqrt(1 + 1 / 4)
  assert found.mean == pytest.approx(1.1)
  assert found.high - found.mean == pytest.approx(half)
  assert found.mean - found.low == pytest.approx(half)


def _deviations(generator, shape, correlation):
  """Standard normal, correlated from one epoch to the next."""
  found = generator.normal(size=shape)
  for i in range(1, shape[1]):
    new = math.sqrt(1 - correlation**2) * found[:, i]
    found[:, i] = correlation * found[:, i - 1] + new
  return found


@pytest.mark.parametrize(
  'num_runs,num_epochs,correlation',
  [(2, 6, 0.0), (3, 30, 0.0), (3, 30, 0.9), (3, 30, 0.99)],
)
def test_one_sound_run_in_a_hundred_fails(num_runs, num_epochs, correlation):
  """What the module promises, by simulation."""
  generator = np.random.default_rng(0)
  failed, repeats = 0, 24_000 // num_epochs // 2
  curve = 5 - np.log(1 + np.arange(num_epochs))
  for _ in range(repeats):
    *known, new = curve + 0.1 * _deviations(
      generator, (num_runs + 1, num_epochs), correlation
    )
    expected = expectation.by_epoch(
      _card(np.array(known)), 'contrast_loss', num_comparisons=num_epochs
    )
    failed += any(
      not expected[e + 1].low <= v <= expected[e + 1].high
      for e, v in enumerate(new)
    )
  # Pooling over epochs shares what little there is; the bound of Bonferroni is
  # from above.
  assert 0 < failed / repeats < 0.016


def test_epochs_that_a_run_lacks_are_not_compared():
  card = _card(np.array([[3.0, 2.0], [3.1, 2.1]]))
  del card.runs[1].curve[0]
  assert list(
    expectation.by_epoch(card, 'contrast_loss', num_comparisons=1)
  ) == [2]
  assert expectation.by_epoch(card, 'knn_top1', num_comparisons=1) == {}


def test_final_numbers_need_two_runs():
  card = _card(np.ones((2, 1)), knn_top1=[0.5, 0.6])
  found = expectation.final(card, 'knn_top1', num_comparisons=1)
  assert found.mean == pytest.approx(0.55)
  assert expectation.final(card, 'linear_top1', num_comparisons=1) is None


def test_the_first_epochs_may_vary_more():
  values = np.array([[9.0] + 20 * [5.0], [8.0] + 20 * [5.01]])
  found = expectation.by_epoch(
    _card(values), 'contrast_loss', num_comparisons=1
  )
  first, last = found[1], found[21]
  assert first.high - first.low > 2
  assert last.high - last.low < 0.2


def test_runs_that_are_alike_by_chance_do_not_make_the_next_exact():
  card = _card(np.ones((3, 1)), knn_top1=[0.5, 0.5, 0.5])
  found = expectation.final(card, 'knn_top1', num_comparisons=1)
  assert found.low < 0.48 and found.high > 0.52
