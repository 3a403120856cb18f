"""Normalising before comparing, by the house's exact search and by FAISS."""

import numpy as np
import pytest

from simclr_jax.retrieval import embedding_set, indexes, transforms, views
from simclr_jax.training import mesh as mesh_lib
from tests.retrieval import fake_set

# FACTS: an item with a large norm wins the raw product, 8.66 against 5.0; the
# cosine ranks it below, .82 against 1.00.
QUERY = np.array([[0.6, 0.8, 0.02]], np.float32)
LARGE = [10.0, 3.325, 0.0]
ALIKE = [3.0, 4.0, 0.1]


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  rows = np.array([LARGE, ALIKE, [0.5, -0.2, 1.0]], np.float32)
  return fake_set.write(tmp_path_factory.mktemp('set'), rows)


@pytest.mark.parametrize('kind', indexes.KINDS)
def test_a_long_vector_wins_only_the_plain_product(small, kind):
  found = {}
  for metric in views.METRICS:
    view = views.View('h', metric)
    index = indexes.open_index(
      small, view, kind=kind, mesh=mesh_lib.make_mesh()
    )
    found[metric] = index.search(view.prepare(QUERY), 2)
  raw, cosine = found['dot'], found['cosine']
  np.testing.assert_array_equal(raw.index_Qxk, [[0, 1]])
  np.testing.assert_allclose(raw.similarity_Qxk, [[8.66, 5.0]], atol=2e-3)
  np.testing.assert_array_equal(cosine.index_Qxk, [[1, 0]])
  np.testing.assert_allclose(cosine.similarity_Qxk, [[1.0, 0.82]], atol=3e-3)


def test_transform_stands_between_two_normalisations():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(50, 4)).astype(np.float32) * rng.uniform(
    1, 9, (50, 1)
  )
  unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  fitted = transforms.fit([unit], kind='whitening', dim=3)
  wanted = fitted.apply(unit)
  wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
  view = views.View('h', 'cosine', fitted)
  np.testing.assert_allclose(view.prepare(rows), wanted, atol=1e-5)
  assert view.name == 'h-cosine-whitening3'
  # Length does not matter, with cosine: not even to the transform.
  np.testing.assert_allclose(view.prepare(7 * rows), wanted, atol=1e-5)


def test_unknown_looks_are_refused(small):
  with pytest.raises(ValueError, match="holds h, not 'z'"):
    views.check(views.View('z'), small)
  with pytest.raises(ValueError, match='--metric=l2: one of cosine, dot'):
    views.check(views.View('h', 'l2'), small)


def test_column_is_read_as_a_bank(small):
  column = embedding_set.Column(small, 'h')
  assert len(column) == 3
  np.testing.assert_allclose(column[1:9], [ALIKE, [0.5, -0.2, 1.0]])
