"""Signals that ask a run to stop, heard by each process, obeyed by all."""

from __future__ import annotations

from collections.abc import Callable
import os
import signal
import threading
import time
import types
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np

from simclr_jax import progress_bar
from simclr_jax.training import mesh as mesh_lib

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A terminal and a launcher may both pass on one Ctrl-C.
_SAME_SECONDS = 0.1
_END = b'\0'


class StopRequest:
  """Turns SIGTERM and SIGINT into a flag that the loop looks at.

  A context manager, for the main thread. The first signal only sets
  `requested`, so that the step in flight ends and a checkpoint is saved; the
  second one exits at once, whatever the main thread is in. The former handlers
  come back at the end.

  With several processes each hears its own signals, and all have to stop at the
  same step: the flags ride with the steps (`agreed`).
  """

  def __init__(
    self,
    mesh: Mesh | None = None,
    *,
    will: str = 'stopping after this step with a checkpoint',
  ) -> None:
    """Installs nothing yet.

    Args:
      mesh: Of the run; needed with several processes.
      will: What the first signal leads to, for the log.
    """
    self._will = will
    self.requested = False
    self.failure: OSError | None = None
    self._agreement = None
    if jax.process_count() > 1:
      if mesh is None:
        raise ValueError('several processes agree over a mesh: give it')
      self._agreement = _Agreement(mesh)
    self._previous: dict[int, Any] = {}
    self._first: float | None = None

  def __enter__(self) -> StopRequest:
    # Python runs handlers in the main thread between two of its instructions,
    # and not while that is compiling, or waiting for a device. The C part of
    # the handler writes to this pipe at once.
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    for number in _SIGNALS:
      self._previous[number] = signal.signal(number, self._handle)
    self._previous_fd = signal.set_wakeup_fd(
      self._write, warn_on_full_buffer=False
    )
    self._listener = threading.Thread(
      target=self._listen, daemon=True, name='signals'
    )
    self._listener.start()
    return self

  def __exit__(self, *unused: object) -> None:
    signal.set_wakeup_fd(self._previous_fd)
    for number, handler in self._previous.items():
      # None stands for a handler that was not installed from Python.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    self._previous.clear()
    os.write(self._write, _END)
    self._listener.join()
    os.close(self._write)
    os.close(self._read)

  def fail(self, error: OSError) -> None:
    """Asks to stop because data cannot be read; from any thread.

    Attribute `failure` is the first such error.
    """
    self.failure = self.failure or error
    self.requested = True

  def agreed(self) -> bool:
    """Whether all processes stop now; every one has to ask at the same places.

    With several processes the answer is that to the question before: a signal
    is obeyed one question later, and nobody waits for the devices.
    """
    if self._agreement is None:
      return self.requested
    if not self._agreement.ask(self.requested):
      return False
    if not self.requested:
      logging.info(
        'another process was asked to stop, or cannot read: stopping with it'
      )
    self.requested = True
    return True

  def _listen(self) -> None:
    while (data := os.read(self._read, 1)) != _END:
      if data and data[0] in _SIGNALS:
        self._hear(data[0])

  def _handle(self, number: int, frame: types.FrameType | None) -> None:
    """Python's handler; only the pipe counts, which may be faster or slower."""
    del number, frame
    self.requested = True

  def _hear(self, number: int) -> None:
    name = signal.Signals(number).name
    now = time.monotonic()
    first, self._first = self._first, self._first or now
    if first is None:
      self.requested = True
      logging.warning('%s: %s; again to exit at once', name, self._will)
    elif now - first > _SAME_SECONDS:
      # Not sys.exit: an exception could be swallowed by whatever the main
      # thread is in, and exit handlers would wait for the checkpoint.
      progress_bar.say(f'{name} again: exit without a checkpoint')
      os._exit(128 + number)


class _Agreement:
  """Whether any process wants to stop, known to all one question later."""

  def __init__(self, mesh: Mesh):
    self._mesh = mesh
    self._num_local = len(mesh.local_devices)
    self._pending: jax.Array | None = None
    self._any: Callable[[jax.Array], jax.Array] = jax.jit(
      lambda flags: jax.numpy.max(jax.reshard(flags, P()))
    )

  def ask(self, wanted: bool) -> bool:
    """The answer to the question before."""
    flags = jax.make_array_from_process_local_data(
      mesh_lib.batch_sharding(self._mesh),
      np.full(self._num_local, wanted, np.int32),
    )
    with jax.set_mesh(self._mesh):
      answer, self._pending = self._pending, self._any(flags)
    return answer is not None and bool(answer)
