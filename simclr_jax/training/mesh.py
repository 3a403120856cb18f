"""The one mesh axis and how arrays lie on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from simclr_jax import retries

DATA_AXIS = 'data'

# Arrays of a batch on the devices -> the step's 'views' and 'label'.
FinishFn = Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]]


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """All devices (or those given) along the axis 'data', process by process.

  The axis is Explicit: shardings are part of the types, so a loss that forgets
  to gather its negatives fails when it is traced instead of running slowly or
  contrasting too few.

  Not `jax.make_mesh`: on a TPU slice it orders devices along the torus, where
  processes alternate, and the rows that a process puts in would come out at
  scattered places of the global batch. Here process k's rows are rows
  [k*b, (k+1)*b), as the input pipeline counts them.
  """
  devices = jax.devices() if devices is None else devices
  in_order = sorted(devices, key=lambda d: (d.process_index, d.id))
  return Mesh(np.array(in_order), (DATA_AXIS,), axis_types=(AxisType.Explicit,))


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of parameters and everything else that is not a batch."""
  return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Sharding of the leading (batch) axis."""
  return NamedSharding(mesh, P(DATA_AXIS))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
  """This host's rows [b, ...] as part of global arrays [B, ...]."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in batch.items()
  }


def feed(
  batches: Iterable[dict[str, np.ndarray]],
  mesh: Mesh,
  *,
  finish_fn: FinishFn | None = None,
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
  """Puts batches on the devices one ahead of the step that uses them.

  Args:
    batches: Of this host, each with its example indices 'index' [b].
    mesh: Where they go.
    finish_fn: From what was put there to the step's 'views' and 'label'; its
      work is dispatched one batch ahead too. None: they are there already.

  Returns:
    Iterator of ({'views', 'label'} as global arrays, this host's example
    indices [b]); an OSError comes in the place of its batch.
  """

  def put(batch: dict[str, np.ndarray]) -> tuple[dict[str, Any], np.ndarray]:
    index = batch['index']
    if finish_fn is None:
      names = ('views', 'label')
      return put_batch({name: batch[name] for name in names}, mesh), index
    # Devices count in 32 bits.
    small = {**batch, 'index': index.astype(np.int32)}
    return finish_fn(put_batch(small, mesh)), index

  return retries.one_ahead(map(put, batches))
