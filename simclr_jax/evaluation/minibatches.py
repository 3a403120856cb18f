"""Shuffled minibatches of a feature table, from host memory to the device.

Where the table is small it goes to the device once and minibatches are gathered
there; else the rows of a few steps at a time follow it. So the features of
ImageNet (1.28 million x 2048 float32, 10.5 GB) need that much host memory and
about `CHUNK_BYTES` of the device. Both ways give the same minibatches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from simclr_jax.data import order

RESIDENT_BYTES = 2 * 2**30
CHUNK_BYTES = 256 * 2**20
MAX_CHUNK_STEPS = 64


class Chunk(NamedTuple):
  """What T consecutive steps need; all on the device.

  Attributes:
    features_mxD, labels_m: A table of examples.
    rows_TxRxB: Rows of the table for every step and seed.
  """

  features_mxD: Any
  labels_m: Any
  rows_TxRxB: Any


def chunks(
  features_nxD: np.ndarray,
  labels_n: np.ndarray,
  *,
  rows: np.ndarray,
  seeds: tuple[int, ...],
  batch_size: int,
  num_steps: int,
  put: Callable[[Any], Any],
) -> Iterator[tuple[int, Chunk]]:
  """Yields (first step, chunk) until `num_steps` are covered.

  All chunks have the same number of steps T, so that one program serves all;
  the last may reach past `num_steps`.

  Args:
    features_nxD: In host memory.
    labels_n: Classes.
    rows: Examples to draw from.
    seeds: One order for each (R).
    batch_size: B.
    num_steps: Steps to cover.
    put: Sends NumPy arrays (a tree of them) to the device.
  """
  row_bytes = features_nxD.shape[1] * features_nxD.itemsize
  resident = len(rows) * row_bytes <= RESIDENT_BYTES
  num_chunk_steps = min(MAX_CHUNK_STEPS, num_steps)
  if resident:
    features, labels = put(
      (features_nxD[rows], labels_n[rows].astype(np.int32))
    )
  else:
    step_bytes = row_bytes * batch_size * len(seeds)
    num_chunk_steps = max(1, min(num_chunk_steps, CHUNK_BYTES // step_bytes))
  for first_step in range(0, num_steps, num_chunk_steps):
    positions = np.arange(
      first_step * batch_size, (first_step + num_chunk_steps) * batch_size
    )
    picked_TxRxB = np.stack(
      [
        order.locate(seed, positions, n=len(rows))[1].reshape(
          num_chunk_steps, batch_size
        )
        for seed in seeds
      ],
      axis=1,
    )
    if not resident:
      flat = rows[picked_TxRxB.reshape(-1)]
      features, labels = put(
        (features_nxD[flat], labels_n[flat].astype(np.int32))
      )
      picked_TxRxB = np.arange(flat.size).reshape(picked_TxRxB.shape)
    rows_TxRxB = put(picked_TxRxB.astype(np.int32))
    yield first_step, Chunk(features, labels, rows_TxRxB)
