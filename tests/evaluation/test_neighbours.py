from __future__ import annotations

import numpy as np

from simclr_jax.evaluation import neighbours


def test_no_picture_is_its_own_neighbour():
  index = np.array([[3, 1, 2], [0, 3, 1], [5, 6, 7]])
  found = neighbours.without_itself(index, np.array([3, 3, 4]))
  np.testing.assert_array_equal(found, [[1, 2], [0, 1], [5, 6]])
