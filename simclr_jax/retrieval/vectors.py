"""Vectors in host memory: norms, and the numbers they may be stored as."""

from __future__ import annotations

import numpy as np

_EPSILON = 1e-12  # Official l2_normalize: rsqrt(max(sum of squares, 1e-12)).


def l2_normalize(x_nxD: np.ndarray) -> np.ndarray:
  """Rows of length one, f32; a row of zeros stays one."""
  x_nxD = np.asarray(x_nxD, np.float32)
  squares = np.sum(np.square(x_nxD), axis=-1, keepdims=True)
  return x_nxD / np.sqrt(np.maximum(squares, np.float32(_EPSILON)))
