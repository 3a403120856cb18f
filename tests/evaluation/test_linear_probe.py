"""The probe's protocol on Gaussian features whose Bayes accuracy is known."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from simclr_jax import config as config_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import linear_probe, occurring

CLASSES, DIM = 8, 8
SHIFT = 2.0
CONFIG = config_lib.ProbeConfig(
  epochs=30,
  batch_size=128,
  base_lrs=(0.01, 0.1, 1.0),
  weight_decays=(0.0, 1e-3),
  num_bootstrap=500,
)


def _features(n, *, seed, shuffled=False):
  """Class c is N(SHIFT * e_c, I)."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, CLASSES, n).astype(np.int32)
  h = rng.normal(size=(n, DIM)).astype(np.float32)
  h[np.arange(n), labels] += SHIFT
  if shuffled:
    labels = rng.permutation(labels)
  return features_lib.Features(
    h=h,
    z=h,
    labels=labels,
    num_classes=CLASSES,
    name=f'blobs/{seed}',
    source_fingerprint=f'source{seed}',
    encoder_fingerprint='encoder',
  )


@pytest.fixture(scope='module')
def blobs():
  return _features(2000, seed=0), _features(3000, seed=1)


@pytest.fixture(scope='module')
def result(blobs):
  return linear_probe.probe_features(*blobs, CONFIG)


def _bayes_accuracy():
  """P(x_c + SHIFT is the largest of CLASSES unit normals)."""
  x = np.linspace(-8, 10, 20_001)
  density = stats.norm.pdf(x - SHIFT) * stats.norm.cdf(x) ** (CLASSES - 1)
  return np.trapezoid(density, x)


def test_comes_close_to_the_bayes_accuracy(result):
  bayes = _bayes_accuracy()
  noise = math.sqrt(bayes * (1 - bayes) / 3000)
  assert bayes - 3 * noise - 0.015 < result.top1 < bayes + 3 * noise
  low, high = result.top1_interval
  assert low < result.top1 < high
  np.testing.assert_allclose(high - low, 2 * 1.96 * noise, rtol=0.15)
  assert result.top1 < result.top5 <= 1
  assert result.num_train == 2000 and result.num_holdout == 200


def test_the_holdout_chooses_and_the_table_shows_it(result):
  assert len(result.holdout) == 6
  best = max(result.holdout, key=lambda row: (row.top1, -row.nll))
  assert (best.base_lr, best.weight_decay) == (
    result.base_lr,
    result.weight_decay,
  )


def test_the_sweep_is_judged_on_what_it_did_not_fit(blobs, monkeypatch):
  fitted, judged = [], []
  module = linear_probe.logistic_regression
  fit, score = module.fit, module.score
  monkeypatch.setattr(
    module,
    'fit',
    lambda *a, rows, **k: fitted.append(rows) or fit(*a, rows=rows, **k),
  )
  monkeypatch.setattr(
    module,
    'score',
    lambda *a, rows: judged.append(rows) or score(*a, rows=rows),
  )
  linear_probe.probe_features(*blobs, CONFIG)
  assert sorted([*fitted[0], *judged[0]]) == list(range(2000))
  # Chosen, it is trained on both parts and judged on the test split.
  np.testing.assert_array_equal(fitted[1], np.arange(2000))
  np.testing.assert_array_equal(judged[-1], np.arange(3000))


def test_same_call_same_result(blobs, result):
  assert linear_probe.probe_features(*blobs, CONFIG) == result


def test_test_labels_choose_nothing(blobs, result):
  train, test = blobs
  other = dataclasses.replace(test, labels=np.roll(test.labels, 1))
  found = linear_probe.probe_features(train, other, CONFIG)
  assert found.holdout == result.holdout
  assert found.base_lr == result.base_lr


def test_shuffled_labels_give_chance():
  for seed in range(2):
    found = linear_probe.probe_features(
      _features(2000, seed=seed, shuffled=True),
      _features(3000, seed=seed + 10, shuffled=True),
      CONFIG,
    )
    low, high = stats.binom.ppf([0.0005, 0.9995], 3000, 1 / CLASSES) / 3000
    assert low < found.top1 < high


def test_every_seed_is_reported(blobs):
  config = dataclasses.replace(
    CONFIG, num_seeds=3, epochs=2, base_lrs=(0.1,), weight_decays=(0.0,)
  )
  found = linear_probe.probe_features(*blobs, config)
  assert len(set(found.top1_per_seed)) > 1
  np.testing.assert_allclose(np.mean(found.top1_per_seed), found.top1)
  np.testing.assert_allclose(
    np.std(found.top1_per_seed, ddof=1), found.top1_std
  )


def test_few_labels_take_their_number_of_each_class(blobs, result):
  config = dataclasses.replace(CONFIG, labels_per_class=10)
  found = linear_probe.probe_features(*blobs, config)
  assert found.num_train == 80 and found.num_holdout == 8
  assert found.batch_size == 80
  assert 1 / CLASSES + 0.1 < found.top1 <= result.top1


def test_one_setting_needs_no_holdout(blobs):
  config = dataclasses.replace(
    CONFIG, base_lrs=(0.1,), weight_decays=(0.0,), holdout_fraction=0.0
  )
  found = linear_probe.probe_features(*blobs, config)
  assert found.num_holdout == 0 and found.holdout == ()
  assert found.warnings == ()
  with pytest.raises(ValueError, match='holdout_fraction'):
    linear_probe.probe_features(
      *blobs, dataclasses.replace(config, base_lrs=(0.1, 1.0))
    )


def test_warns_at_the_edge_of_the_grid():
  config = dataclasses.replace(CONFIG, base_lrs=(1.0, 0.1, 0.01))
  assert 'smallest' in linear_probe.edge_warnings((0.01, 0.0), config)[0]
  assert 'largest' in linear_probe.edge_warnings((1.0, 0.0), config)[0]
  assert linear_probe.edge_warnings((0.1, 0.0), config) == ()


def test_a_diverged_setting_is_never_chosen(blobs):
  config = dataclasses.replace(CONFIG, base_lrs=(1e30, 1e-2, 0.1))
  found = linear_probe.probe_features(*blobs, config)
  assert found.base_lr < 1
  assert found.holdout[0].train_nll > 1e9


@pytest.mark.parametrize('rate', [1e-9, 1e30])
@pytest.mark.parametrize('decays', [(0.0,), (0.0, 1e-4)])
def test_refuses_when_the_loss_did_not_fall(blobs, rate, decays):
  config = dataclasses.replace(
    CONFIG, base_lrs=(rate,), weight_decays=decays, epochs=1
  )
  with pytest.raises(ValueError, match='loss did not fall'):
    linear_probe.probe_features(*blobs, config)


@pytest.mark.parametrize(
  'part, changes, message',
  [
    (0, {'labels': np.full(2000, -1, np.int32)}, 'no label'),
    (0, {'num_classes': 0}, 'no label'),
    (0, {'num_classes': 9}, 'do not mean the same'),
    (1, {'source_fingerprint': 'source0'}, 'the same examples'),
    (1, {'encoder_fingerprint': 'moved'}, 'encoder changed'),
    (1, {'num_classes': 2}, 'only 2 classes'),
    (1, {'labels': np.zeros(0, np.int32)}, 'is empty'),
  ],
)
def test_refuses_features_that_prove_nothing(blobs, part, changes, message):
  pair = list(blobs)
  pair[part] = dataclasses.replace(pair[part], **changes)
  with pytest.raises(ValueError, match=message):
    linear_probe.probe_features(*pair, CONFIG)


def test_summary_counts_ranks():
  ranks = np.array([[0, 0, 4, 5], [0, 1, 4, 9]])
  labels = np.array([0, 1, 1, 2])
  found = linear_probe.summarize(
    ranks,
    labels,
    mode='features',
    config=CONFIG,
    num_classes=10,
    occurring=occurring.Occurring(10, 6, ('a note',)),
    warnings=('another',),
    train_nll=0.0,
    num_train=1,
    base_lr=0.1,
    weight_decay=0.0,
    peak_lr=0.1,
    batch_size=1,
    num_steps=1,
  )
  assert found.top1 == 3 / 8 and found.top5 == 6 / 8
  assert found.top1_per_seed == (0.5, 0.25)
  assert found.majority == 0.5
  assert found.warnings == ('a note', 'another')


def test_selection_prefers_accuracy_then_loss():
  rows = [
    linear_probe.SettingScore(0.1, 0.0, top1=0.8, nll=0.9, train_nll=0.1),
    linear_probe.SettingScore(0.2, 0.0, top1=0.9, nll=0.5, train_nll=0.1),
    linear_probe.SettingScore(0.3, 0.0, top1=0.9, nll=0.4, train_nll=0.1),
    linear_probe.SettingScore(0.4, 0.0, top1=1.0, nll=None, train_nll=None),
    linear_probe.SettingScore(0.5, 0.0, top1=1.0, nll=9.0, train_nll=9.0),
  ]
  assert linear_probe.select(tuple(rows), num_classes=8).base_lr == 0.3
