from __future__ import annotations

import numpy as np
from sklearn import metrics

from simclr_jax.reports import similarities


def _rows(seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=(12, 5)).astype(np.float32)


def _brute_force(rows, labels):
  """Every unordered pair, one at a time."""
  groups: dict[str, list[float]] = {}
  for i in range(len(rows)):
    for j in range(i + 1, len(rows)):
      cosine = rows[i] @ rows[j]
      cosine /= np.linalg.norm(rows[i]) * np.linalg.norm(rows[j])
      if i // 2 == j // 2:
        name = 'two views of a picture'
      elif labels is None:
        name = 'two pictures'
      else:
        same = labels[i // 2] == labels[j // 2]
        name = f'two pictures, {"same" if same else "other"} class'
      groups.setdefault(name, []).append(float(cosine))
  return groups


def test_pairs_are_sorted_by_what_they_are():
  labels = np.array([0, 1, 0, 2, 1, 0])
  for given in (None, labels):
    found = similarities.cosines(_rows(), given)
    wanted = _brute_force(_rows(), given)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
      np.testing.assert_allclose(
        np.sort(found[name]), np.sort(values), atol=1e-6
      )


def test_without_a_label_a_pair_is_of_no_class():
  found = similarities.cosines(_rows(), np.array([-1, -1, 0, 0, 1, -1]))
  assert {name: len(values) for name, values in found.items()} == {
    'two views of a picture': 6,
    'two pictures, same class': 4,
    'two pictures, other class': 8,
    'two pictures': 48,
  }


def test_no_pair_of_a_class_no_histogram():
  found = similarities.cosines(_rows(), np.arange(6))
  assert 'two pictures, same class' not in found


def test_separation_is_the_area_under_the_roc_curve():
  groups = similarities.cosines(_rows(1), np.array([0, 0, 0, 1, 1, 1]))
  groups = {name: values.round(1) for name, values in groups.items()}  # ties
  values = np.concatenate(list(groups.values()))
  positive = np.repeat(
    [name == 'two views of a picture' for name in groups],
    [len(v) for v in groups.values()],
  )
  np.testing.assert_allclose(
    similarities.separation(groups), metrics.roc_auc_score(positive, values)
  )
