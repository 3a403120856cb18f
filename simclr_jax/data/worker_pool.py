"""Processes that fill rows of batches, and never outlive this one.

Each worker is a fresh interpreter that runs `worker.py`: no fork of a process
with JAX's threads, no second import of the caller's script. It is told what to
make by a pickle, then gets positions and answers in memory shared with this
process, a file without a name: nothing is left behind however either ends, and
no limit of /dev/shm applies.
"""

from __future__ import annotations

from collections.abc import Callable
import mmap
import multiprocessing as mp
from multiprocessing import connection
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import retries
from simclr_jax.data.lazy_cv2 import cloudpickle

# Shape of a row and type, of one of the arrays of a batch.
Column = tuple[tuple[int, ...], np.dtype]
# (local positions, where their rows go).
MakeRowsFn = Callable[[range, dict[str, np.ndarray]], None]

_ALIGNMENT = 64  # bytes, of arrays in shared memory
# One thread in each: there are as many workers as somebody asked for.
_ENVIRONMENT = {'OPENBLAS_NUM_THREADS': '1', 'OMP_NUM_THREADS': '1'}
_START = """
import sys
sys.path[:] = {path!r}
from simclr_jax.data import worker
worker.main({messages}, {memory}, parent={parent})
"""


class Task(NamedTuple):
  """What a worker is for.

  Attributes:
    make_rows: Fills rows.
    columns: What they consist of.
    max_rows: Most rows at once.
  """

  make_rows: MakeRowsFn
  columns: dict[str, Column]
  max_rows: int


class WorkerPool:
  """Called from a thread, fills rows in that thread's own worker process."""

  def __init__(
    self, make_rows: MakeRowsFn, columns: dict[str, Column], *, max_rows: int
  ):
    """Starts nothing yet.

    Args:
      make_rows: What the workers do; goes there by cloudpickle.
      columns: What rows consist of.
      max_rows: Most rows of one call.

    Raises:
      ValueError: If `make_rows` cannot be sent to another process.
    """
    self._task = Task(make_rows, columns, max_rows)
    try:
      self._pickle = cloudpickle.dumps(self._task)
    except (TypeError, pickle.PicklingError, AttributeError) as error:
      raise ValueError(
        f'the source cannot be sent to worker processes ({error}); set '
        'config.data.num_workers=0 to work in threads of this process'
      ) from error
    self._local = threading.local()
    self._lock = threading.Lock()
    self._workers: list[_Worker] = []
    self._stopped = False

  def __call__(self, local: range, rows: dict[str, np.ndarray]) -> None:
    """Fills rows.

    Raises:
      ValueError: What `make_rows` raised.
      retries.DataAway: The same, or the worker is killed again and again.
      RuntimeError: If the worker died or failed otherwise.
    """
    made = retries.retry(
      lambda: self._make(local),
      passing=lambda e: isinstance(e, retries.DataAway) or retries.is_system(e),
    )
    for name, values in rows.items():
      values[:] = made[name][: len(local)]

  def _make(self, local: range) -> dict[str, np.ndarray]:
    """Rows of this thread's worker, started anew where it was killed."""
    if not hasattr(self._local, 'worker'):
      with self._lock:
        if self._stopped:
          raise RuntimeError('the workers have been stopped')
        self._local.worker = _Worker(self._task, self._pickle)
        self._workers.append(self._local.worker)
    try:
      made: dict[str, np.ndarray] = self._local.worker.make(local)
    except _Ended as error:
      if error.code == -signal.SIGKILL and not self._stopped:
        del self._local.worker
        raise retries.DataAway(
          f'{error} (killed, as the system does for want of memory: fewer '
          'workers, data.num_workers, or batches ahead, data.prefetch_batches, '
          'need less)'
        ) from None
      raise
    return made

  def stop(self) -> None:
    """Ends the processes; calls under way fail."""
    with self._lock:
      self._stopped = True
      for worker in self._workers:
        worker.stop()


class _Ended(RuntimeError):
  """A worker process is gone."""

  def __init__(self, code: int):
    super().__init__(
      f'a worker process of the input pipeline ended with code {code}'
    )
    self.code = code


class _Worker:
  """One process."""

  def __init__(self, task: Task, pickled: bytes):
    mine, its = mp.Pipe()
    memory = open_memory(size_of(task))
    code = _START.format(
      path=sys.path, messages=its.fileno(), memory=memory, parent=os.getpid()
    )
    self._messages: connection.Connection[Any, Any] = mine
    try:
      self._process = subprocess.Popen(
        [sys.executable, '-c', code],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **_ENVIRONMENT},
        pass_fds=(its.fileno(), memory),
      )
      self._rows = map_rows(memory, task)
    finally:
      its.close()
      os.close(memory)
    self._pickled: bytes | None = pickled

  def make(self, local: range) -> dict[str, np.ndarray]:
    """Rows in shared memory, until the next call."""
    try:
      if self._pickled is not None:
        self._messages.send_bytes(self._pickled)
        self._pickled = None
      self._messages.send((local.start, local.stop))
      failure = self._messages.recv()
    except (EOFError, OSError) as error:
      raise _Ended(self._process.wait()) from error
    if failure is not None:
      raise failure
    return self._rows

  def stop(self) -> None:
    """Kills the process, whatever it is doing."""
    self._process.kill()
    self._process.wait()
    # The other end is gone: a thread that waits for an answer is told so.


def open_memory(size: int) -> int:
  """Descriptor of a nameless file of `size` bytes, in memory where possible."""
  if hasattr(os, 'memfd_create'):
    memory = os.memfd_create('simclr_jax_rows')
  else:
    with tempfile.TemporaryFile() as file:
      memory = os.dup(file.fileno())
  os.ftruncate(memory, size)
  return memory


def map_rows(memory: int, task: Task) -> dict[str, np.ndarray]:
  """The file as arrays [max_rows, ...], one behind the other."""
  buffer = mmap.mmap(memory, size_of(task))
  arrays, start = {}, 0
  for name, (shape, dtype) in task.columns.items():
    full = (task.max_rows, *shape)
    arrays[name] = np.ndarray(full, dtype, buffer, start)
    start += _aligned(arrays[name].nbytes)
  return arrays


def size_of(task: Task) -> int:
  """Bytes of shared memory."""
  return sum(
    _aligned(task.max_rows * int(np.prod(shape)) * dtype.itemsize)
    for shape, dtype in task.columns.values()
  )


def _aligned(size: int) -> int:
  return -(-size // _ALIGNMENT) * _ALIGNMENT
