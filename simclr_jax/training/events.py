"""TensorBoard events, written behind the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import queue
import threading
from typing import Any

# Longest wait at the end for events that are not in their file yet: they may
# be on a store that does not answer, and are in metrics.jsonl too.
_SECONDS = 10.0
_MOST_WAITING = 10_000


class EventWriter:
  """A writer in a thread of its own, which neither ends nor delays a run.

  Its failure is raised by the next call.
  """

  def __init__(self, make_fn: Callable[[], Any]):
    """Starts the thread.

    Args:
      make_fn: Makes the writer, which opens its file; called in the thread.
    """
    self._make_fn = make_fn
    self._queue: queue.Queue[tuple[int, Mapping[str, float]] | None] = (
      queue.Queue(_MOST_WAITING)
    )
    self._error: Exception | None = None
    self._thread = threading.Thread(
      target=self._work, daemon=True, name='tensorboard'
    )
    self._thread.start()

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes the numbers of a step soon."""
    self._check()
    self._queue.put_nowait((step, scalars))

  def flush(self) -> None:
    """Raises what has failed; the thread flushes whenever nothing waits."""
    self._check()

  def close(self) -> None:
    """Waits for what is not written yet, up to ten seconds.

    Raises:
      TimeoutError: If it takes longer.
    """
    self._queue.put(None, timeout=_SECONDS)
    self._thread.join(_SECONDS)
    self._check()
    if self._thread.is_alive():
      raise TimeoutError(f'the last events took more than {_SECONDS:g} s')

  def _check(self) -> None:
    if self._error is not None:
      raise self._error

  def _work(self) -> None:
    try:
      board = self._make_fn()
      while (item := self._queue.get()) is not None:
        board.write_scalars(*item)
        if self._queue.empty():
          board.flush()
      board.close()
    except Exception as error:  # clu wraps TensorFlow's errors in its own
      self._error = error
