"""kNN against brute force in NumPy, and its rules for ties."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn import neighbors as sklearn_neighbors

from simclr_jax import config as config_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import knn, neighbours
from simclr_jax.training import mesh as mesh_lib

CLASSES, DIM = 7, 6
CONFIG = config_lib.KnnConfig(
  ks=(1, 5, 30), temperatures=(0.07, 0.5), chunk_size=64, num_bootstrap=200
)


@pytest.fixture(scope='module')
def mesh():
  return mesh_lib.make_mesh()


def _features(n, *, seed, shuffled=False):
  rng = np.random.default_rng(seed)
  centres = np.random.default_rng(99).normal(size=(CLASSES, DIM))
  labels = rng.integers(0, CLASSES, n).astype(np.int32)
  h = (centres[labels] + 0.7 * rng.normal(size=(n, DIM))).astype(np.float32)
  h *= rng.uniform(0.1, 10, (n, 1)).astype(np.float32)  # cosine ignores norms
  if shuffled:
    labels = rng.permutation(labels)
  return features_lib.Features(
    h=h,
    z=-h[:, :3],
    labels=labels,
    num_classes=CLASSES,
    name=f'blobs/{seed}',
    source_fingerprint=f'source{seed}',
    encoder_fingerprint='encoder',
  )


@pytest.fixture(scope='module')
def blobs():
  return _features(333, seed=0), _features(201, seed=1)


def _unit(x):
  x = x.astype(np.float64)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def _brute_force(train, test, *, k, temperature):
  """(top1, top5) by the definition, one query at a time, in float64."""
  num_correct = [0, 0]
  for query, label in zip(_unit(test.h), test.labels, strict=True):
    similarity = _unit(train.h) @ query
    nearest = np.argsort(-similarity, kind='stable')[:k]
    votes = np.zeros(CLASSES)
    for i in nearest:
      weight = (
        1.0 if temperature is None else np.exp(similarity[i] / temperature)
      )
      votes[train.labels[i]] += weight
    ranked = [c for c in np.argsort(-votes, kind='stable') if votes[c] > 0]
    num_correct[0] += label == ranked[0]
    num_correct[1] += label in ranked[:5]
  return [count / len(test.labels) for count in num_correct]


def test_equals_brute_force(blobs, mesh):
  result = knn.knn_accuracy(*blobs, CONFIG, mesh=mesh)
  assert len(result.table) == 9
  for score in result.table:
    expected = _brute_force(*blobs, k=score.k, temperature=score.temperature)
    np.testing.assert_allclose([score.top1, score.top5], expected, atol=1e-9)
    assert score.top1_interval.low <= score.top1 <= score.top1_interval.high
  assert result.headline == result.table[0]
  assert (result.headline.k, result.headline.temperature) == (1, 0.07)


def test_plain_votes_equal_scikit_learn(blobs, mesh):
  train, test = blobs
  result = knn.knn_accuracy(train, test, CONFIG, mesh=mesh)
  for score in result.table:
    if score.weighting == 'plain':
      oracle = sklearn_neighbors.KNeighborsClassifier(score.k, metric='cosine')
      oracle.fit(train.h, train.labels)
      np.testing.assert_allclose(
        score.top1, oracle.score(test.h, test.labels), atol=1e-9
      )


@pytest.mark.parametrize(
  'chunk_size, num_devices',
  [(1, 1), (50, 1), (10_000, 1), (50, 8), (333, 8), (10_000, 8)],
)
def test_any_chunk_and_device_count_is_exact(blobs, chunk_size, num_devices):
  train, test = blobs
  found = neighbours.nearest_neighbours(
    train.h,
    test.h,
    k=9,
    chunk_size=chunk_size,
    mesh=mesh_lib.make_mesh(jax.devices()[:num_devices]),
  )
  similarity = _unit(test.h) @ _unit(train.h).T
  order = np.argsort(-similarity, axis=1, kind='stable')[:, :9]
  np.testing.assert_array_equal(found.index_Qxk, order)
  np.testing.assert_allclose(
    found.similarity_Qxk, np.take_along_axis(similarity, order, 1), atol=1e-6
  )


def test_many_queries_take_several_blocks(monkeypatch, blobs, mesh):
  train, test = blobs
  whole = neighbours.nearest_neighbours(
    train.h, test.h, k=3, chunk_size=100, mesh=mesh
  )
  monkeypatch.setattr(neighbours, '_BLOCK', 8)
  blocks = neighbours.nearest_neighbours(
    train.h, test.h, k=3, chunk_size=100, mesh=mesh
  )
  np.testing.assert_array_equal(whole.index_Qxk, blocks.index_Qxk)


def test_ties_go_to_the_lower_index_and_the_lower_class(mesh):
  bank = np.tile(np.array([[1.0, 0.0]], np.float32), (10, 1))
  queries = np.ones((3, 2), np.float32)
  for chunk_size in (3, 10):
    found = neighbours.nearest_neighbours(
      bank, queries, k=4, chunk_size=chunk_size, mesh=mesh
    )
    np.testing.assert_array_equal(found.index_Qxk, [[0, 1, 2, 3]] * 3)
  # So that six classes occur: the other four are far from every query.
  train = dataclasses.replace(
    _features(14, seed=0),
    h=np.concatenate([bank, np.full((4, 2), -1, np.float32)]),
    labels=np.array([5, 2] * 5 + [0, 1, 3, 4], np.int32),
  )
  test = dataclasses.replace(
    _features(6, seed=1),
    h=np.ones((6, 2), np.float32),
    labels=np.array([2, 5, 0, 1, 3, 4], np.int32),
  )
  config = dataclasses.replace(CONFIG, ks=(2,), temperatures=(0.1,))
  result = knn.knn_accuracy(train, test, config, mesh=mesh)
  for score in result.table:
    # 5 and 2 have one vote each: 2 wins. Who has none is not in the top 5.
    np.testing.assert_allclose([score.top1, score.top5], [1 / 6, 2 / 6])


def test_shuffled_labels_give_chance(mesh):
  result = knn.knn_accuracy(
    _features(600, seed=0, shuffled=True),
    _features(2000, seed=1, shuffled=True),
    CONFIG,
    mesh=mesh,
  )
  low, high = stats.binom.ppf([0.0005, 0.9995], 2000, 1 / CLASSES) / 2000
  for score in result.table:
    assert low < score.top1 < high


def test_layer_z(blobs, mesh):
  train, test = blobs
  result = knn.knn_accuracy(
    train, test, dataclasses.replace(CONFIG, layer='z'), mesh=mesh
  )
  as_h = [dataclasses.replace(part, h=part.z) for part in blobs]
  assert result.layer == 'z'
  assert result.table == knn.knn_accuracy(*as_h, CONFIG, mesh=mesh).table


def test_a_k_larger_than_the_bank_is_left_out(blobs, mesh):
  config = dataclasses.replace(CONFIG, ks=(334, 5))
  result = knn.knn_accuracy(*blobs, config, mesh=mesh)
  assert {score.k for score in result.table} == {5} == {result.headline.k}
  (warning,) = result.warnings
  assert 'k = 334 is left out' in warning and '333' in warning
  with pytest.raises(ValueError, match='bank of 333'):
    knn.knn_accuracy(
      *blobs, dataclasses.replace(CONFIG, ks=(334, 400)), mesh=mesh
    )


def test_refuses_training_images_as_queries(blobs, mesh):
  train, _ = blobs
  with pytest.raises(ValueError, match='the same examples'):
    knn.knn_accuracy(train, train, CONFIG, mesh=mesh)


def test_images_of_a_class_that_only_the_test_split_has_are_wrong(blobs, mesh):
  train, test = blobs
  labels = np.where(np.arange(len(test.labels)) < 40, CLASSES, test.labels)
  more = dataclasses.replace(test, labels=labels, num_classes=CLASSES + 1)
  found, known = (
    knn.knn_accuracy(train, each, CONFIG, mesh=mesh)
    for each in (
      more,
      dataclasses.replace(test, h=test.h[40:], labels=labels[40:]),
    )
  )
  for all_, rest in zip(found.table, known.table, strict=True):
    assert np.isclose(all_.top1 * len(labels), rest.top1 * len(labels[40:]))
    assert np.isclose(all_.top5 * len(labels), rest.top5 * len(labels[40:]))
