"""Work in threads of this process, and how many of them there is room for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import os
import queue
import sys
import threading
from typing import TypeVar

T = TypeVar('T')

_END = object()


def run_aside(work: Callable[[], None]) -> None:
  """Runs `work` in a thread that nothing waits for, the program's end least."""
  if not sys.is_finalizing():  # To start a thread would then hang.
    threading.Thread(target=work, daemon=True, name='run_aside').start()


def run_ahead(items: Iterator[T], *, ahead: int) -> Iterator[T]:
  """The same items in the same order, made up to `ahead` before their use.

  An exception comes where its item would have come. The thread starts with the
  first item that is asked for and ends with the iterator: when it is exhausted,
  closed or forgotten.

  Args:
    items: Used by the thread alone from then on.
    ahead: At least 1.
  """
  made: queue.Queue[tuple[object, BaseException | None]] = queue.Queue(ahead)
  stop = threading.Event()

  def put(entry: tuple[object, BaseException | None]) -> bool:
    # With a timeout, so that a reader who went away is noticed.
    while not stop.is_set():
      try:
        made.put(entry, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def work() -> None:
    try:
      for item in items:
        if not put((item, None)):
          return
    except BaseException as error:
      put((_END, error))
    else:
      put((_END, None))

  thread = threading.Thread(target=work, daemon=True, name='run_ahead')
  thread.start()
  try:
    while True:
      item, error = made.get()
      if error is not None:
        raise error
      if item is _END:
        return
      yield item  # type: ignore[misc]
  finally:
    stop.set()
    thread.join()


def num_cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
