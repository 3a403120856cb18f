"""A plan's examples without TensorFlow: read, decoded, mapped, batched.

The counterpart of `stream.py`. Chunks of examples are made by threads of this
process, or by worker processes (`worker_pool.py`), straight into the rows of
their batch. Which examples these are is the plan's affair, so the number of
workers changes nothing and to resume is to start elsewhere.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from concurrent import futures
import dataclasses
import itertools

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import (
  background,
  decode,
  draws,
  opencv_views,
  reading,
  worker_pool,
)
from simclr_jax.data.lazy_cv2 import cv2
from simclr_jax.data.plan import Plan
from simclr_jax.data.source import Batch, Source

# Examples made by one call: what a call costs is shared, above all that of the
# draws, while a batch still spreads over all workers.
_CHUNK = 32


def view_stream(
  source: Source,
  plan: Plan,
  *,
  data: config_lib.DataConfig,
  augment: config_lib.AugmentConfig,
  num_views: int,
) -> Iterator[Batch]:
  """Batches of 'views', 'label', 'index', see `pipeline.train_batches`.

  Raises:
    ValueError: If the source cannot be sent to worker processes. While
      iterating: if an example cannot be read or decoded; with its index and
      name.
    RuntimeError: While iterating, if a worker process dies.
  """
  side = data.image_size
  fill = opencv_views.make_view_fn(
    augment, image_size=side, num_views=num_views
  )
  name, shape = 'views', (num_views, side, side, 3)
  maker = _Maker(source, plan, fill, name, shape, np.dtype(np.float32))
  return _make_stream(maker, data)


def crop_stream(
  source: Source,
  plan: Plan,
  *,
  data: config_lib.DataConfig,
  augment: config_lib.AugmentConfig,
  num_views: int,
) -> Iterator[Batch]:
  """Batches of 'crops', 'draws', 'label', 'index', `pipeline.crop_batches`."""
  side = data.image_size
  fill = opencv_views.make_crop_fn(
    augment, image_size=side, num_views=num_views
  )
  name, shape = 'crops', (num_views, side, side, 3)
  maker = _Maker(
    source, plan, fill, name, shape, np.dtype(np.uint8), num_drawn=num_views
  )
  return _make_stream(maker, data)


def eval_stream(
  source: Source,
  plan: Plan,
  *,
  data: config_lib.DataConfig,
  eval_config: config_lib.EvalConfig,
) -> Iterator[Batch]:
  """Batches of 'image', 'label', 'index'; the last may be short."""
  side = data.image_size
  fill = opencv_views.make_eval_fn(eval_config, image_size=side)
  name, shape = 'image', (side, side, 3)
  maker = _Maker(source, plan, fill, name, shape, np.dtype(np.float32))
  return _make_stream(maker, data)


@dataclasses.dataclass(frozen=True)
class _Maker:
  """Makes rows of a batch, in whichever process it is.

  Attributes:
    source: Where examples come from.
    plan: Which they are.
    fill: Makes the pixels of one.
    name: Of the pixels in the batch.
    shape: Of the pixels of one example.
    dtype: Of the pixels.
    num_drawn: Views whose draws go with the batch; 0 leaves them out.
  """

  source: Source
  plan: Plan
  fill: opencv_views.FillFn
  name: str
  shape: tuple[int, ...]
  dtype: np.dtype
  num_drawn: int = 0

  def columns(self) -> dict[str, worker_pool.Column]:
    """Shape of a row and type of every array of a batch."""
    columns: dict[str, worker_pool.Column] = {
      self.name: (self.shape, self.dtype),
      'label': ((), np.dtype(np.int32)),
      'index': ((), np.dtype(np.int64)),
    }
    if self.num_drawn:
      shape = (self.num_drawn, draws.NUM_COLUMNS)
      columns['draws'] = (shape, np.dtype(np.float32))
    return columns

  def __call__(self, local: range, rows: Batch) -> None:
    """Fills `rows` with the examples at local positions.

    Raises:
      ValueError: If one cannot be used; it names the example.
    """
    chunk = reading.read_chunk(self.source, self.plan, np.array(local))
    rows['label'][:] = chunk.labels
    rows['index'][:] = chunk.indices
    if self.num_drawn:
      rows['draws'][:] = chunk.decided
    for row, image in enumerate(chunk.images):
      if not isinstance(image, np.ndarray):
        image = self._decode(image, int(chunk.indices[row]))
      self.fill(image, chunk.decided[row], rows[self.name][row])

  def _decode(self, image: bytes, index: int) -> np.ndarray:
    try:
      return decode.decode(image)
    except ValueError as error:
      raise ValueError(
        reading.describe_failure(self.source, index, error=error)
      ) from error


def _make_stream(maker: _Maker, data: config_lib.DataConfig) -> Iterator[Batch]:
  rows = maker.plan.rows
  if not data.num_workers:
    cv2.setNumThreads(1)  # also where somebody has changed it since
    return _batches(maker, maker, threads=background.num_cores(), data=data)
  chunk = _chunk_size(rows, data.num_workers)
  workers = worker_pool.WorkerPool(maker, maker.columns(), max_rows=chunk)
  return _batches(
    maker, workers, threads=data.num_workers, data=data, stop=workers.stop
  )


def _chunk_size(rows: int, workers: int) -> int:
  return min(-(-rows // workers), _CHUNK)


def _batches(
  maker: _Maker,
  make_rows: worker_pool.MakeRowsFn,
  *,
  threads: int,
  data: config_lib.DataConfig,
  stop: Callable[[], None] = lambda: None,
) -> Iterator[Batch]:
  """Batches in order, the next ones under way; a failure comes in its place.

  Args:
    maker: Names the batch's arrays.
    make_rows: Fills rows of it, in several threads at once.
    threads: Their number.
    data: Reads `prefetch_batches`.
    stop: Called at the end, before the threads are waited for.
  """
  local, rows = maker.plan.local, maker.plan.rows
  chunk = _chunk_size(rows, threads)
  executor = futures.ThreadPoolExecutor(threads, 'input')

  def start(begin: int) -> tuple[Batch, list[futures.Future[None]]]:
    end = min(begin + rows, local.stop)
    batch = {
      name: np.empty((end - begin, *shape), dtype)
      for name, (shape, dtype) in maker.columns().items()
    }
    jobs = []
    for low in range(begin, end, chunk):
      high = min(low + chunk, end)
      part = slice(low - begin, high - begin)
      mine = {name: values[part] for name, values in batch.items()}
      jobs.append(executor.submit(make_rows, range(low, high), mine))
    return batch, jobs

  begins = iter(range(local.start, local.stop, rows))
  pending: collections.deque[tuple[Batch, list[futures.Future[None]]]]
  pending = collections.deque()
  try:
    while True:
      ahead = data.prefetch_batches + 1 - len(pending)
      pending.extend(start(begin) for begin in itertools.islice(begins, ahead))
      if not pending:
        return
      batch, jobs = pending.popleft()
      for job in jobs:
        job.result()
      yield batch
      del batch, jobs  # else a batch more would be held while the next is made
  finally:
    stop()
    executor.shutdown(cancel_futures=True)
