"""A data set kept on the devices as uint8, and batches gathered there.

The host sends indices and draws only, 72 bytes a view. Replicated, a
device takes its rows from its own copy. Sharded, each device looks up the rows
it owns of the whole global batch, and a reduce-scatter brings every device its
share of the batch: B x H x W x 3 bytes move in all, exactly, since of the bytes
that are added all but one are 0. It needs that many bytes on each device
for a moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import concurrent.futures
import dataclasses
import functools
import os

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import processes
from simclr_jax.augmentation import canvas as canvas_lib
from simclr_jax.augmentation import device_memory
from simclr_jax.data.plan import Plan
from simclr_jax.data.progress import Progress
from simclr_jax.data.source import Batch, Source

_AXIS = 'data'  # of the mesh, see training/mesh.py
_CHUNK_BYTES = 1 << 26  # decoded at a time, beside what is on the devices


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['rows'],
  meta_fields=['height', 'width', 'placement'],
)
@dataclasses.dataclass(frozen=True)
class DevicePixels:
  """Pictures on the devices; an argument of compiled functions.

  Give it to a jitted function as an argument: what a function closes over
  becomes a constant of the program, and would be there twice.

  Attributes:
    rows: uint8 [n, height * width * 3], or a few more rows where it is sharded
      and n does not divide. Flat, because accelerators pad a last axis of 3.
    height, width: Of the canvas, pixels.
    placement: 'replicated' or 'sharded'.
  """

  rows: jax.Array
  height: int
  width: int
  placement: str

  def take(self, index: jax.Array) -> jax.Array:
    """Pictures at `index` int32 [B], sharded over 'data', under the mesh.

    Returns:
      uint8 [B, height, width, 3], sharded on B.
    """
    if self.placement == 'sharded':
      taken = _take_from_owners(self.rows, jax.reshard(index, P()))
    else:
      taken = self.rows.at[index].get(out_sharding=P(_AXIS))
    return taken.reshape(len(index), self.height, self.width, 3)


@dataclasses.dataclass(frozen=True)
class PixelCache:
  """A data set on the devices, and on every host what is known of it.

  Attributes:
    pixels: On the devices.
    sizes: int32 [n, 2], (height, width) of each picture within its canvas.
    labels: int32 [n]; NO_LABEL where there is none.
  """

  pixels: DevicePixels
  sizes: np.ndarray
  labels: np.ndarray

  def take(self, index: jax.Array) -> jax.Array:
    """As `DevicePixels.take`, outside of a compiled function."""
    return _take(self.pixels, index)


def build_cache(
  source: Source, *, data: config_lib.DataConfig, mesh: Mesh
) -> PixelCache:
  """Decodes a source in threads and puts it on the devices of the mesh.

  Each process reads what its own devices keep: its shards, or everything.

  Args:
    source: Any, encoded or not; Pillow decodes.
    data: Reads `canvas_size`, `device_cache`, `num_workers` (threads; 0 is one
      for each core).
    mesh: With the one axis 'data'.

  Raises:
    ValueError: If the pixels do not fit on the devices (before anything else is
      read), if sizes differ though `canvas_size` is 0, or if an example cannot
      be read; it is named.
    processes.AgreedFailure: The same, with several processes, in all of them.
  """
  with processes.together():
    canvas = canvas_lib.choose_canvas(source, data.canvas_size)
  processes.check_same(
    {'size of the pictures': [canvas.height, canvas.width]},
    consequence='they would keep other pictures; give all the same data',
  )
  n = source.num_examples
  placement = device_memory.choose_placement(
    data.device_cache,
    num_bytes=n * canvas.num_bytes,
    mesh=mesh,
    what=f'{source.name} ({n:,} pictures of {canvas.height} x {canvas.width})',
  )
  sharded = placement == 'sharded'
  sharding = NamedSharding(mesh, P(_AXIS) if sharded else P())
  parts = mesh.devices.size if sharded else 1
  shape = (-(-n // parts) * parts, canvas.num_bytes)

  loader = _Loader(source, canvas, num_threads=data.num_workers)
  ranges = _local_ranges(sharding, shape)
  with processes.together():
    arrays = _fill(loader, ranges, num_examples=n)
  if sharded:
    loader.share()
  return PixelCache(
    pixels=DevicePixels(
      jax.make_array_from_single_device_arrays(shape, sharding, arrays),
      height=canvas.height,
      width=canvas.width,
      placement=placement,
    ),
    sizes=loader.table[:, :2],
    labels=loader.table[:, 2],
  )


def _fill(
  loader: _Loader,
  ranges: Mapping[tuple[int, int], list[jax.Device]],
  *,
  num_examples: int,
) -> list[jax.Array]:
  """What the devices of this process keep; an array for each."""
  progress = Progress(
    'Cached',
    sum(min(b, num_examples) - min(a, num_examples) for a, b in ranges),
  )
  return [
    array
    for (start, stop), devices in ranges.items()
    for array in loader.load(start, stop, devices=devices, progress=progress)
  ]


def index_batches(plan: Plan, cache: PixelCache) -> Iterator[Batch]:
  """What the host sends for each batch of a `plan.train_plan` of the source.

  Yields:
    {'index': int32 [b] for `take`, 'draws': float32 [b, V, 17] with boxes
    within the canvas, 'label': int32 [b]}.
  """
  for start in range(plan.local.start, plan.local.stop, plan.rows):
    local = np.arange(start, min(start + plan.rows, plan.local.stop))
    index = plan.locate(local)
    yield {
      'index': index.astype(np.int32),
      'draws': plan.decide(local, cache.sizes[index]),
      'label': cache.labels[index],
    }


def _local_ranges(
  sharding: NamedSharding, shape: tuple[int, int]
) -> dict[tuple[int, int], list[jax.Device]]:
  """(first row, one past the last) -> devices of this process that hold it."""
  ranges: dict[tuple[int, int], list[jax.Device]] = {}
  for device, index in sharding.addressable_devices_indices_map(shape).items():
    rows = slice(None) if index is None else index[0]
    start, stop, _ = rows.indices(shape[0])
    ranges.setdefault((start, stop), []).append(device)
  return ranges


class _Loader:
  """Decodes examples, puts them on devices and notes sizes and labels.

  Attributes:
    table: int32 [n, 3]: height, width, label of what this process has loaded.
  """

  def __init__(
    self, source: Source, canvas: canvas_lib.Canvas, *, num_threads: int
  ):
    self._source, self._canvas = source, canvas
    self._threads = num_threads or os.cpu_count() or 1
    self.table = np.zeros((source.num_examples, 3), np.int32)

  def load(
    self,
    start: int,
    stop: int,
    *,
    devices: list[jax.Device],
    progress: Progress,
  ) -> list[jax.Array]:
    """Examples [start, stop) on each of the devices; zeros beyond the last."""
    row_bytes = self._canvas.num_bytes
    held = [
      jnp.zeros((stop - start, row_bytes), jnp.uint8, device=device)
      for device in devices
    ]
    end = min(stop, self._source.num_examples)
    step = max(1, _CHUNK_BYTES // row_bytes)
    with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
      for first in range(start, end, step):
        chunk = self._decode(pool, first, min(first + step, end))
        progress.add(len(chunk))
        for place, device in enumerate(devices):
          held[place] = _write_on(
            device, held[place], chunk=chunk, at=first - start
          )
    return held

  def share(self) -> None:
    """Fills the table with what the other processes have loaded."""
    if jax.process_count() > 1:
      tables = multihost_utils.process_allgather(self.table)
      self.table = np.sum(tables, axis=0, dtype=np.int32)

  def _decode(
    self, pool: concurrent.futures.Executor, start: int, stop: int
  ) -> np.ndarray:
    """uint8 [stop - start, bytes of a canvas]."""
    canvas = self._canvas
    chunk = np.zeros((stop - start, canvas.height, canvas.width, 3), np.uint8)

    def decode(index: int) -> None:
      size, label = canvas_lib.place(
        self._source, index, canvas=canvas, out=chunk[index - start]
      )
      self.table[index] = (*size, label)

    for _ in pool.map(decode, range(start, stop)):
      pass
    return chunk.reshape(stop - start, canvas.num_bytes)


def _write_on(
  device: jax.Device, rows: jax.Array, *, chunk: np.ndarray, at: int
) -> jax.Array:
  """Rows with a chunk in place of what stood there; the old ones are gone."""
  # The mesh of the run, where one is set, is not that of a single device.
  with jax.set_mesh(Mesh(np.array([device]), (_AXIS,))):
    return _write(rows, jax.device_put(chunk, device), at)


@functools.partial(jax.jit, donate_argnums=0)
def _write(rows: jax.Array, chunk: jax.Array, at: int) -> jax.Array:
  return jax.lax.dynamic_update_slice(rows, chunk, (at, 0))


@jax.jit
def _take(pixels: DevicePixels, index: jax.Array) -> jax.Array:
  return pixels.take(index)


def _take_from_owners(rows: jax.Array, index: jax.Array) -> jax.Array:
  """Rows at `index`, the same on all devices -> each device's share of them."""
  # Made at each call: a shard_map made once keeps the mesh of its first call.
  take = jax.shard_map(
    _owned_rows, in_specs=(P(_AXIS), P()), out_specs=P(_AXIS)
  )
  return take(rows, index)


def _owned_rows(mine: jax.Array, index: jax.Array) -> jax.Array:
  """On each device: its rows of the whole batch, summed over the devices."""
  at = index - jax.lax.axis_index(_AXIS) * len(mine)
  owned = (at >= 0) & (at < len(mine))
  found = mine[jnp.clip(at, 0, len(mine) - 1)]
  found = jnp.where(owned[:, None], found, jnp.uint8(0))
  return jax.lax.psum_scatter(found, _AXIS, scatter_dimension=0, tiled=True)
