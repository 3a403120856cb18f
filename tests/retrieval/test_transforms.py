"""PCA and whitening against scikit-learn's."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from simclr_jax.retrieval import transforms


@pytest.fixture(scope='module')
def rows():
  """Correlated, far from the origin."""
  rng = np.random.default_rng(0)
  mixed = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))
  return (mixed + rng.normal(size=6) * 100).astype(np.float32)


def chunks(rows, size):
  return (rows[i : i + size] for i in range(0, len(rows), size))


@pytest.mark.parametrize('kind,whiten', [('pca', False), ('whitening', True)])
@pytest.mark.parametrize('size', [7, 500])
def test_is_that_of_scikit_learn_but_for_signs(rows, kind, whiten, size):
  fitted = transforms.fit(chunks(rows, size), kind=kind, dim=4)
  theirs = PCA(4, whiten=whiten).fit(rows.astype(np.float64))
  ours, wanted = fitted.apply(rows), theirs.transform(rows)
  signs = np.sign(np.sum(ours * wanted, axis=0))
  np.testing.assert_allclose(ours * signs, wanted, rtol=2e-3, atol=2e-3)
  assert fitted.dim == 4
  assert fitted.kept == pytest.approx(theirs.explained_variance_ratio_.sum())


def test_whitened_directions_have_equal_variance(rows):
  fitted = transforms.fit([rows], kind='whitening', dim=6)
  covariance = np.cov(fitted.apply(rows).T)
  np.testing.assert_allclose(covariance, np.eye(6), atol=5e-3)


def test_new_rows_go_through_the_fitted_one(rows):
  """A query is centred on the set's mean, not on its own."""
  fitted = transforms.fit([rows], kind='pca', dim=2)
  np.testing.assert_allclose(
    fitted.apply(rows[:1]), fitted.apply(rows)[:1], rtol=1e-3, atol=1e-3
  )


def test_directions_without_variance_are_refused(rows):
  flat = np.concatenate([rows, rows[:, :2]], axis=1)
  with pytest.raises(ValueError, match='only 6 of 8 directions'):
    transforms.fit([flat], kind='whitening', dim=7)
  assert transforms.fit([flat], kind='whitening', dim=6).dim == 6
  with pytest.raises(ValueError, match='at least two'):
    transforms.fit([rows[:1]], kind='pca', dim=1)


def test_file_holds_it_and_knows_what_it_is_of(rows, tmp_path):
  fitted = transforms.fit([rows], kind='whitening', dim=3)
  path = tmp_path / 'new' / 't.npz'
  transforms.save(fitted, path, of='these')
  again = transforms.load(path, of='these')
  np.testing.assert_array_equal(again.apply(rows), fitted.apply(rows))
  assert again.kind == 'whitening' and again.kept == fitted.kept
  with pytest.raises(ValueError, match='other embeddings'):
    transforms.load(path, of='those')


def test_files_of_others_are_data(tmp_path):
  path = tmp_path / 't.npz'
  path.write_bytes(b'no zip')
  with pytest.raises(ValueError, match='no transform'):
    transforms.load(path, of='x')
  # An object array would have to be unpickled.
  np.savez(path, mean=np.array([{}], object))
  with pytest.raises(ValueError, match='no transform'):
    transforms.load(path, of='x')
  good = {'kind': np.array('pca'), 'of': np.array('x')}
  np.savez(
    path, mean=np.zeros(2), matrix=np.full((2, 1), np.nan),
    variances=np.ones(2), **good,
  )  # fmt: skip
  with pytest.raises(ValueError, match='no transform'):
    transforms.load(path, of='x')


@pytest.mark.parametrize(
  'text,what',
  [
    ('whitenin:3', "did you mean 'whitening'"),
    ('pca', 'a width is wanted'),
    ('pca:0', 'a width is wanted'),
    ('pca:-3', 'a width is wanted'),
  ],
)
def test_flag_is_checked(text, what):
  with pytest.raises(ValueError, match=what):
    transforms.parse(text)
