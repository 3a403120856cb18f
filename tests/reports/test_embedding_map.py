from __future__ import annotations

import numpy as np

from simclr_jax.reports import embedding_map


def test_clusters_stay_together_and_the_map_says_how_well():
  generator = np.random.default_rng(0)
  centres = 5 * np.eye(3, 20)
  labels = np.repeat(np.arange(3), 20)
  h = centres[labels] + generator.normal(0, 0.3, (60, 20))
  # Lengths mean nothing: the map is of directions.
  h *= generator.uniform(0.1, 10, (60, 1))
  places, kept = embedding_map.project(h.astype(np.float32))
  assert places.shape == (60, 2)
  gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
  np.fill_diagonal(gaps, np.inf)
  assert np.mean(labels[np.argmin(gaps, axis=1)] == labels) == 1.0
  assert 0.9 < kept <= 1.0


def test_the_same_map_every_time():
  h = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
  first, _ = embedding_map.project(h)
  second, _ = embedding_map.project(h)
  np.testing.assert_array_equal(first, second)
