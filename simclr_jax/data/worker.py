"""What a worker process of `worker_pool.py` runs."""

from __future__ import annotations

from multiprocessing import connection
import os
import pickle
import signal
import threading
import time
import traceback
from typing import Any

from simclr_jax import retries
from simclr_jax.data import worker_pool

_PARENT_POLL_SECONDS = 1.0


def main(messages: int, memory: int, *, parent: int) -> None:
  """Makes rows until the parent is gone.

  Args:
    messages: Descriptor of the connection: a pickled `worker_pool.Task`, then
      pairs (start, stop) of local positions; the answer is None or what was
      raised.
    memory: Descriptor of the memory for rows.
    parent: Process that this one must not outlive.
  """
  # A signal to the whole group is the parent's to handle, which may still want
  # batches; it ends this process when it ends.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  # The parent tries again, for all of its workers and with one warning.
  retries.limit = 0
  threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
  channel: connection.Connection[Any, Any] = connection.Connection(messages)
  try:
    _serve(channel, memory)
  except (EOFError, OSError):
    pass  # the parent has closed the connection, or is gone


def _serve(channel: connection.Connection[Any, Any], memory: int) -> None:
  pickled = channel.recv_bytes()
  task: worker_pool.Task | None = None
  while True:
    start, stop = channel.recv()
    try:
      if task is None:
        task = pickle.loads(pickled)
        rows = worker_pool.map_rows(memory, task)
      part = {name: values[: stop - start] for name, values in rows.items()}
      task.make_rows(range(start, stop), part)
    except ValueError as error:
      channel.send(ValueError(str(error)))
    except retries.DataAway as error:
      channel.send(retries.DataAway(str(error)))
    except Exception:
      text = traceback.format_exc()
      channel.send(RuntimeError(f'a worker process failed:\n{text}'))
    else:
      channel.send(None)


def _leave_with(parent: int) -> None:
  """Ends the process once its parent is another: killed, it closes nothing.

  The connection alone would not do: a child that the parent has forked may
  hold it open, and a worker may be waiting for a slow disk.
  """
  while os.getppid() == parent:
    time.sleep(_PARENT_POLL_SECONDS)
  os._exit(1)
