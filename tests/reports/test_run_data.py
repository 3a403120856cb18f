from __future__ import annotations

import numpy as np

from simclr_jax import data as data_lib
from simclr_jax.reports import run_data
from tests.reports.test_job import CONFIG


def test_queries_take_every_class_once_first():
  labels = np.array([2, 2, 0, 0, 1, 2, 1])
  np.testing.assert_array_equal(
    run_data.pick_queries(labels, count=3), [2, 4, 0]
  )
  np.testing.assert_array_equal(
    run_data.pick_queries(labels, count=5), [2, 4, 0, 3, 6]
  )
  assert len(run_data.pick_queries(labels, count=99)) == 7


def test_queries_without_labels_are_the_first():
  np.testing.assert_array_equal(
    run_data.pick_queries(np.full(9, -1), count=4), [0, 1, 2, 3]
  )


def test_images_come_in_the_order_asked_for():
  source = data_lib.make_source(CONFIG.data, 'train')
  images = run_data.read_images(source, np.array([5, 3, 5]), CONFIG)
  assert images.shape == (3, 8, 8, 3)
  for row, index in enumerate((5, 3, 5)):
    np.testing.assert_allclose(
      images[row], source.read(index).image / 255, atol=1e-6
    )


def test_finite_drops_what_json_wrote_as_text():
  points = [(1, 0.5), (2, float('NaN')), (3, float('-Infinity')), (4, 0.25)]
  assert run_data.finite(points) == [(1, 0.5), (4, 0.25)]
