"""Planted copies are found, and those of the same bytes told apart."""

import numpy as np
import pytest

from simclr_jax.evaluation.neighbours import Neighbours
from simclr_jax.retrieval import duplicates
from simclr_jax.training import mesh as mesh_lib
from tests.retrieval import fake_set


def search(bank):
  """Brute force."""

  def search_fn(queries, k):
    similarity = queries @ bank.T
    order = np.argsort(-similarity, axis=1, kind='stable')[:, :k]
    return Neighbours(np.take_along_axis(similarity, order, 1), order)

  return search_fn


@pytest.fixture(scope='module')
def rows():
  """Far apart but for 3 ~ 40 ~ 41 and 7 = 30."""
  rows = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)
  rows[40] = rows[3] + 0.02
  rows[41] = rows[40] + 0.02
  rows[30] = rows[7]
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize('block', [50, 7])
def test_groups_are_what_links_connect(rows, block, monkeypatch):
  monkeypatch.setattr(duplicates, '_BLOCK', block)
  found = duplicates.find_groups(rows, search(rows), threshold=0.99)
  assert [g.positions for g in found.groups] == [(7, 30), (3, 40, 41)]
  assert found.groups[0].least == pytest.approx(1, abs=1e-6)
  assert (found.num_members, found.num_redundant) == (5, 3)
  assert found.quantiles[0.5] < 0.9
  # A chain: 3 and 41 are linked through 40 alone.
  chain = duplicates.find_groups(rows, search(rows), threshold=0.9994, k=1)
  assert (3, 40, 41) in [g.positions for g in chain.groups]


def test_more_copies_than_neighbours_that_are_looked_at():
  rows = np.repeat(np.eye(4, dtype=np.float32), 9, axis=0)
  found = duplicates.find_groups(rows, search(rows), threshold=1.0, k=2)
  assert [len(g.positions) for g in found.groups] == [9, 9, 9, 9]


def test_no_copies_no_groups():
  rows = np.eye(8, dtype=np.float32)
  found = duplicates.find_groups(rows, search(rows), threshold=0.9)
  assert found.groups == () and found.num_redundant == 0


def test_the_same_bytes_are_told_apart(rows, tmp_path):
  embeddings = fake_set.write(
    tmp_path / 'e', rows, labels=np.arange(50) % 3, shard_rows=20
  )
  found = duplicates.find_groups(rows, search(rows), threshold=0.99)
  contents = {3: b'x', 40: b'y', 41: b'x', 7: b'q', 30: b'r'}
  told = duplicates.tell_identical(
    found, embeddings, lambda row: contents[int(row.id[0])]
  )
  assert [g.identical for g in told.groups] == [(), ((3, 41),)]
  assert told.num_identical == 1
  report = duplicates.to_json(told, embeddings, threshold=0.99)
  assert report['groups'][1] == {
    'ids': [3, 40, 41],
    'paths': ['3.jpg', '40.jpg', '41.jpg'],
    'least_similarity': pytest.approx(told.groups[1].least, abs=1e-5),
    'identical': [[3, 41]],
    'labels': [0, 1, 2],
  }
  assert report['num_groups_of_several_labels'] == 2
  assert (report['num_redundant'], report['num_identical']) == (3, 1)


def test_no_label_is_no_class(rows, tmp_path):
  labels = np.full(50, 3)
  labels[30] = -1  # Of 7 and 30: one class, and nothing known.
  labels[[40, 41]] = -1, 2  # Of 3, 40 and 41: two classes.
  embeddings = fake_set.write(tmp_path / 'e', rows, labels=labels)
  found = duplicates.find_groups(rows, search(rows), threshold=0.99)
  report = duplicates.to_json(found, embeddings, threshold=0.99)
  assert report['num_groups'] == 2
  assert report['num_groups_of_several_labels'] == 1


def test_a_threshold_is_above_what_different_pictures_have(rows):
  threshold = duplicates.suggest_threshold(rows, search(rows))
  similarity = rows @ rows.T - 3 * np.eye(50)
  nearest = np.median(similarity.max(1))
  assert threshold == pytest.approx(1 - (1 - nearest) / 10, abs=1e-5)
  found = duplicates.find_groups(rows, search(rows), threshold=threshold)
  assert [g.positions for g in found.groups] == [(7, 30), (3, 40, 41)]
  # Where most have a copy, only copies count.
  twice = np.concatenate([rows, rows])
  assert duplicates.suggest_threshold(twice, search(twice)) == pytest.approx(1)


def test_features_of_a_report(rows):
  lengths = np.linspace(1, 9, 50, dtype=np.float32)[:, None]
  found = duplicates.find_in_features(rows * lengths, mesh=mesh_lib.make_mesh())
  assert [g.positions for g in found.groups] == [(7, 30), (3, 40, 41)]


def test_impossible_numbers(rows):
  for bad in ({'threshold': 1.5}, {'threshold': 0.9, 'k': 0}):
    with pytest.raises(ValueError, match='--threshold'):
      duplicates.find_groups(rows, search(rows), **bad)
