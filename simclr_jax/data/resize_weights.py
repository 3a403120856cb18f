"""Resizing without antialias as weights, with TensorFlow's numbers.

A resize in one direction is a sparse matrix of four (bicubic) or two (bilinear)
weights in each row. Half-pixel centres, Keys' kernel with a = -0.5, as in
tf.image.resize (resize_bicubic_op.cc, resize_bilinear_op.cc), whose rounding of
bicubic offsets to 1/1024 is kept: with it the loaders differ by float32
rounding alone.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import sparse

_TABLE = 1024
_KEYS = -0.5


def resize_taps(
  size: int, out: int, *, method: str
) -> tuple[np.ndarray, np.ndarray]:
  """Where each of `out` positions looks among `size` pixels, how it weighs.

  Returns:
    Indices int64 [out, taps] in [0, size), weights float32 [out, taps].
  """
  # In float32, in TensorFlow's order: an offset may round the other way.
  scale = np.float32(size) / np.float32(out)
  half = np.float32(0.5)
  centres = (np.arange(out, dtype=np.float32) + half) * scale - half
  first = np.floor(centres)
  part = centres - first
  below = first.astype(np.int64)
  if method == 'bilinear':
    at = np.stack([below, np.ceil(centres).astype(np.int64)], axis=-1)
    return at.clip(0, size - 1), np.stack([1 - part, part], axis=-1)
  offset = np.rint(part * np.float32(_TABLE)).astype(np.int64)
  near, far = _keys_table()
  weights = np.stack(
    [far[offset], near[offset], near[_TABLE - offset], far[_TABLE - offset]],
    axis=-1,
  )
  at = below[:, None] + np.arange(-1, 3)
  # Beyond the border there is nothing, and what remains sums to 1.
  weights[(at < 0) | (at >= size)] = 0
  weights /= weights.sum(-1, keepdims=True)
  return at.clip(0, size - 1), weights


@functools.lru_cache(maxsize=2048)
def resize_matrix(
  size: int, out: int, *, method: str, backwards: bool = False
) -> sparse.csr_matrix:
  """`resize_taps` as float32 [out, size]; `backwards` reverses the rows."""
  at, weights = resize_taps(size, out, method=method)
  if backwards:
    at, weights = at[::-1], weights[::-1]
  taps = at.shape[1]
  matrix = sparse.csr_matrix(
    (
      weights.astype(np.float32).ravel(),
      at.astype(np.int32).ravel(),
      np.arange(0, out * taps + 1, taps, dtype=np.int32),
    ),
    shape=(out, size),
  )
  # Repeated places at the border become one; zeros stay, they are few.
  matrix.sum_duplicates()
  return matrix


@functools.lru_cache(maxsize=2048)
def dense_matrix(
  size: int, out: int, *, method: str, backwards: bool = False
) -> np.ndarray:
  """`resize_matrix` with its zeros, for small images."""
  return resize_matrix(size, out, method=method, backwards=backwards).toarray()


@functools.cache
def _keys_table() -> tuple[np.ndarray, np.ndarray]:
  """Keys' kernel at i/1024 and 1 + i/1024, each float32 [1025]."""
  x = np.arange(_TABLE + 1, dtype=np.float64) / _TABLE
  near = ((_KEYS + 2) * x - (_KEYS + 3)) * x * x + 1
  x = x + 1
  far = ((_KEYS * x - 5 * _KEYS) * x + 8 * _KEYS) * x - 4 * _KEYS
  return near.astype(np.float32), far.astype(np.float32)
