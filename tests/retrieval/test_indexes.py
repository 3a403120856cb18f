"""Approximate indexes against the exact one; what is refused or built anew."""

import json
import shutil

import jax
import numpy as np
import pytest

from simclr_jax.retrieval import indexes, metrics, transforms, views
from simclr_jax.retrieval.embedding_set import EmbeddingSet
from simclr_jax.training import mesh as mesh_lib
from tests.retrieval import fake_set

N, D, K = 3000, 16, 10
VIEW = views.View('h')


@pytest.fixture(scope='module')
def vectors():
  rng = np.random.default_rng(1)
  centres = rng.normal(size=(40, D)) * 2
  rows = centres[rng.integers(0, 40, N)] + rng.normal(size=(N, D))
  return (rows * rng.uniform(0.1, 5, (N, 1))).astype(np.float32)


@pytest.fixture(scope='module')
def found(tmp_path_factory, vectors):
  folder = tmp_path_factory.mktemp('set') / 'e'
  return fake_set.write(folder, vectors, shard_rows=700)


@pytest.fixture(scope='module')
def mesh():
  return mesh_lib.make_mesh(jax.local_devices())


@pytest.fixture(scope='module')
def exact(found, vectors, mesh):
  index = indexes.open_index(found, VIEW, kind='exact', mesh=mesh)
  return index.search(VIEW.prepare(vectors[:200]), K)


def test_exact_is_brute_force(exact, vectors):
  unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  similarity = unit[:200].astype(np.float64) @ unit.T
  order = np.argsort(-similarity, axis=1, kind='stable')[:, :K]
  np.testing.assert_array_equal(exact.index_Qxk, order)
  np.testing.assert_allclose(
    exact.similarity_Qxk, np.take_along_axis(similarity, order, 1), atol=1e-5
  )


def test_plain_product_is_brute_force(found, vectors, mesh):
  view = views.View('h', 'dot')
  index = indexes.open_index(found, view, kind='exact', mesh=mesh)
  similarity = vectors[:50].astype(np.float64) @ vectors.T
  order = np.argsort(-similarity, axis=1, kind='stable')[:, :K]
  result = index.search(view.prepare(vectors[:50]), K)
  np.testing.assert_array_equal(result.index_Qxk, order)


@pytest.mark.parametrize('kind', indexes.APPROXIMATE)
def test_approximate_ones_find_nearly_all(found, vectors, exact, mesh, kind):
  queries = VIEW.prepare(vectors[:200])
  recalls = []
  for options in (
    indexes.Options(num_probes=1, ef_search=1),
    indexes.Options(),
    indexes.Options(num_probes=10**6, ef_search=1000),
  ):
    index = indexes.open_index(
      found, VIEW, kind=kind, mesh=mesh, options=options
    )
    result = index.search(queries, K)
    recalls.append(metrics.overlap(result.index_Qxk, exact.index_Qxk))
  # The harder it looks the more it finds, and at the end everything.
  assert recalls[0] < recalls[2] and recalls[1] > 0.9 and recalls[2] > 0.99
  np.testing.assert_allclose(
    result.similarity_Qxk[:, 0], exact.similarity_Qxk[:, 0], atol=1e-5
  )


def test_is_kept_and_used_again(found, mesh, vectors, monkeypatch):
  first = indexes.open_index(found, VIEW, kind='hnsw', mesh=mesh)
  monkeypatch.setattr(indexes, '_build', None)
  again = indexes.open_index(found, VIEW, kind='hnsw', mesh=mesh)
  queries = VIEW.prepare(vectors[:20])
  np.testing.assert_array_equal(
    first.search(queries, K).index_Qxk, again.search(queries, K).index_Qxk
  )


def test_an_index_of_another_checkpoint_is_refused(
  found, vectors, mesh, tmp_path
):
  indexes.open_index(found, VIEW, kind='ivf', mesh=mesh)
  other = fake_set.write(tmp_path / 'o', vectors, shard_rows=700, space='b')
  shutil.copytree(found.folder / 'index', other.folder / 'index')
  with pytest.raises(ValueError, match='an index of another checkpoint'):
    indexes.open_index(other, VIEW, kind='ivf', mesh=mesh)
  fewer = fake_set.write(tmp_path / 'f', vectors[1:], source='b')
  shutil.copytree(found.folder / 'index', fewer.folder / 'index')
  with pytest.raises(ValueError, match='an index of other embeddings'):
    indexes.open_index(fewer, VIEW, kind='ivf', mesh=mesh)
  assert indexes.open_index(fewer, VIEW, kind='ivf', mesh=mesh, rebuild=True)


def test_another_transform_of_the_same_name_is_refused(found, mesh, vectors):
  view, other = (
    views.View('h', 'cosine', transforms.fit([rows], kind='pca', dim=4))
    for rows in (vectors, vectors[:99])
  )
  indexes.open_index(found, view, kind='ivf', mesh=mesh)
  with pytest.raises(ValueError, match='transform differ'):
    indexes.open_index(found, other, kind='ivf', mesh=mesh)


@pytest.mark.parametrize('what', ['cut', 'flipped', 'description'])
def test_a_damaged_index_is_built_again(vectors, exact, mesh, tmp_path, what):
  found = fake_set.write(tmp_path / 'e', vectors)
  indexes.open_index(found, VIEW, kind='ivf', mesh=mesh)
  path = found.folder / 'index' / 'ivf-h-cosine.faiss'
  content = bytearray(path.read_bytes())
  if what == 'cut':
    content = content[: len(content) // 2]
  content[100] ^= 255
  if what == 'description':
    path.with_suffix('.json').write_text('{')
  else:
    path.write_bytes(content)
  options = indexes.Options(num_probes=10**6)
  index = indexes.open_index(
    EmbeddingSet(found.folder), VIEW, kind='ivf', mesh=mesh, options=options
  )
  result = index.search(VIEW.prepare(vectors[:200]), K)
  assert metrics.overlap(result.index_Qxk, exact.index_Qxk) > 0.999
  stated = json.loads(path.with_suffix('.json').read_text())
  assert stated['num_rows'] == N


def test_a_description_of_another_form_is_of_no_index_of_these(
  vectors, mesh, tmp_path
):
  found = fake_set.write(tmp_path / 'e', vectors[:64])
  indexes.open_index(found, VIEW, kind='ivf', mesh=mesh)
  path = found.folder / 'index' / 'ivf-h-cosine.json'
  path.write_text('{"embeddings": []}')
  with pytest.raises(ValueError, match='give --rebuild'):
    indexes.open_index(found, VIEW, kind='ivf', mesh=mesh)


def test_few_rows_are_nothing_to_warn_of(vectors, mesh, tmp_path, capfd):
  """FAISS does, on the stderr of its C++ code."""
  found = fake_set.write(tmp_path / 'e', vectors[:32])
  index = indexes.open_index(found, VIEW, kind='ivf', mesh=mesh)
  queries = VIEW.prepare(vectors[:32])
  np.testing.assert_array_equal(
    index.search(queries, 1).index_Qxk[:, 0], np.arange(32)
  )
  assert 'WARNING' not in capfd.readouterr().err


def test_unknown_kinds_and_a_missing_package(found, mesh, monkeypatch):
  with pytest.raises(ValueError, match="did you mean 'hnsw'"):
    indexes.open_index(found, VIEW, kind='hsnw', mesh=mesh)
  monkeypatch.setitem(indexes.importlib.sys.modules, 'faiss', None)
  with pytest.raises(ValueError, match='pip install'):
    indexes.open_index(found, VIEW, kind='hnsw', mesh=mesh)
  # Exact search does without.
  assert indexes.open_index(found, VIEW, kind='exact', mesh=mesh)
