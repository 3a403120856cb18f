"""Against scikit-learn's solver, and against itself in smaller pieces."""

import numpy as np
import pytest
from sklearn import linear_model

from simclr_jax.evaluation import logistic_regression, minibatches

N, DIM, CLASSES = 400, 6, 4
ROWS = np.arange(N)


@pytest.fixture(scope='module')
def blobs():
  rng = np.random.default_rng(0)
  centres = 0.8 * rng.normal(size=(CLASSES, DIM))
  labels = rng.integers(0, CLASSES, N).astype(np.int32)
  features = centres[labels] + rng.normal(size=(N, DIM))
  return features.astype(np.float32), labels


def _fit(blobs, grid, **changes):
  options = {'rows': ROWS, 'num_classes': CLASSES, 'batch_size': N}
  return logistic_regression.fit(
    *blobs, grid=grid, **{**options, 'epochs': 600, **changes}
  )


@pytest.mark.parametrize('standardize', [False, True])
def test_reaches_scikit_learns_minimum(blobs, standardize):
  features, labels = blobs
  decays = (1e-2, 1e-1)
  grid = logistic_regression.Grid((1.0, 1.0), decays, (0,))
  fitted = _fit(blobs, grid, standardize=standardize)
  nll = logistic_regression.score(fitted, *blobs, rows=ROWS).nll_RxG[0]
  scaled = features
  if standardize:
    scaled = (features - features.mean(0)) / features.std(0)
  for g, decay in enumerate(decays):
    # Its objective is C * sum(nll) + |w|^2 / 2.
    oracle = linear_model.LogisticRegression(
      C=1 / (decay * N), tol=1e-8, max_iter=2000
    ).fit(scaled, labels)
    log_p = oracle.predict_log_proba(scaled)
    expected = -log_p[ROWS, labels].mean()
    np.testing.assert_allclose(nll[g], expected, rtol=1e-4)
    kernel = fitted.kernel_RxGxDxK[0, g]
    np.testing.assert_allclose(
      kernel - kernel.mean(1, keepdims=True),
      (oracle.coef_ - oracle.coef_.mean(0)).T,
      atol=2e-3,
    )


def test_one_training_of_many_settings_equals_each_alone(blobs):
  grid = logistic_regression.Grid(
    (0.1, 0.3, 1.0), (0.0, 1e-3, 1e-2), seeds=(0, 5)
  )
  options = {'batch_size': 64, 'epochs': 5}
  together = _fit(blobs, grid, **options)
  assert not np.allclose(together.kernel_RxGxDxK[0], together.kernel_RxGxDxK[1])
  for g in range(3):
    for r, seed in enumerate(grid.seeds):
      alone = _fit(
        blobs,
        logistic_regression.Grid(
          grid.base_lrs[g : g + 1], grid.weight_decays[g : g + 1], (seed,)
        ),
        **options,
      )
      np.testing.assert_allclose(
        together.kernel_RxGxDxK[r, g], alone.kernel_RxGxDxK[0, 0], atol=2e-6
      )


def test_streamed_features_give_the_same_fit(blobs, monkeypatch):
  grid = logistic_regression.Grid((0.3,), (1e-4,), seeds=(0, 1))
  options = {'batch_size': 48, 'epochs': 7, 'rows': ROWS[::2]}
  resident = _fit(blobs, grid, **options)
  monkeypatch.setattr(minibatches, 'RESIDENT_BYTES', 0)
  monkeypatch.setattr(minibatches, 'CHUNK_BYTES', 5 * 48 * 2 * DIM * 4)
  streamed = _fit(blobs, grid, **options)
  np.testing.assert_allclose(
    resident.kernel_RxGxDxK, streamed.kernel_RxGxDxK, atol=1e-6
  )
  assert resident.num_steps == 200 * 7 // 48 + 1


def test_same_call_same_bits(blobs):
  grid = logistic_regression.Grid((0.3, 1.0), (0.0, 0.0), seeds=(0,))
  first = _fit(blobs, grid, batch_size=64, epochs=4)
  again = _fit(blobs, grid, batch_size=64, epochs=4)
  np.testing.assert_array_equal(first.kernel_RxGxDxK, again.kernel_RxGxDxK)
  np.testing.assert_array_equal(first.bias_RxGxK, again.bias_RxGxK)


def test_first_steps_are_nesterov_with_cosine_rate(blobs):
  """The update written out in float64 NumPy, minibatches of the whole set."""
  features, labels = blobs
  decay, steps = 0.01, 6
  grid = logistic_regression.Grid((0.5,), (decay,), (3,))
  fitted = _fit(blobs, grid, epochs=steps - 1)
  assert fitted.num_steps == steps
  kernel = np.zeros((DIM, CLASSES))
  bias = np.zeros(CLASSES)
  moved = [np.zeros_like(kernel), np.zeros_like(bias)]
  for step in range(steps):
    rate = 0.5 * N / 256 * 0.5 * (1 + np.cos(np.pi * step / steps))
    logits = features @ kernel + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    error = (p - np.eye(CLASSES)[labels]) / N
    grads = [features.T @ error + decay * kernel, error.sum(0)]
    moved = [0.9 * v + g for v, g in zip(moved, grads, strict=True)]
    kernel = kernel - rate * (grads[0] + 0.9 * moved[0])
    bias = bias - rate * (grads[1] + 0.9 * moved[1])
  np.testing.assert_allclose(fitted.kernel_RxGxDxK[0, 0], kernel, atol=1e-5)
  np.testing.assert_allclose(fitted.bias_RxGxK[0, 0], bias, atol=1e-5)


def test_rank_counts_the_classes_above_the_true_one():
  features = np.eye(3, dtype=np.float32)
  kernel = np.array([[3, 2, 2, 1], [0, 0, 0, 0], [1, 2, 3, 4]], np.float32)
  fitted = logistic_regression.Fit(
    kernel_RxGxDxK=kernel[None, None],
    bias_RxGxK=np.zeros((1, 1, 4), np.float32),
    shift_D=np.zeros(3, np.float32),
    scale_D=np.ones(3, np.float32),
    batch_size=1,
    num_steps=1,
    peak_lrs=np.ones(1),
  )
  for last, rank in ((0, 3), (4, 4)):  # The second was never fitted to.
    labels = np.array([2, 1, last])
    scores = logistic_regression.score(
      fitted, features, labels, rows=np.arange(3)
    )
    # Class 1 ties with 2 and is lower; of four equal ones 0 is lower than 1.
    np.testing.assert_array_equal(scores.rank_RxGxn, [[[2, 1, rank]]])


def test_infinite_weights_count_as_wrong(blobs):
  kernel = np.zeros((1, 2, DIM, CLASSES), np.float32)
  kernel[0, 0] = np.inf
  fitted = logistic_regression.Fit(
    kernel_RxGxDxK=kernel,
    bias_RxGxK=np.zeros((1, 2, CLASSES), np.float32),
    shift_D=np.zeros(DIM, np.float32),
    scale_D=np.ones(DIM, np.float32),
    batch_size=1,
    num_steps=1,
    peak_lrs=np.ones(2),
  )
  scores = logistic_regression.score(fitted, *blobs, rows=ROWS)
  assert not np.isfinite(scores.nll_RxG[0, 0])
  assert np.all(scores.rank_RxGxn[0, 0] == CLASSES)
  np.testing.assert_allclose(scores.nll_RxG[0, 1], np.log(CLASSES), rtol=1e-6)


def test_scores_do_not_depend_on_blocks(blobs, monkeypatch):
  grid = logistic_regression.Grid((0.1,), (0.0,), (0,))
  fitted = _fit(blobs, grid, batch_size=64, epochs=2)
  whole = logistic_regression.score(fitted, *blobs, rows=ROWS[:301])
  monkeypatch.setattr(logistic_regression, '_SCORE_ROWS', 64)
  blocks = logistic_regression.score(fitted, *blobs, rows=ROWS[:301])
  np.testing.assert_array_equal(whole.rank_RxGxn, blocks.rank_RxGxn)
  np.testing.assert_allclose(whole.nll_RxG, blocks.nll_RxG, rtol=1e-6)
