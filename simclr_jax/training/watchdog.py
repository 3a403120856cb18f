"""Ends a process whose steps no longer end.

A collective waits for ever for a process that hangs, and a hung disk or device
for nobody. Where the processes watch each other a dead one is noticed at once;
this one notices what is alive and stuck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import math
import pathlib
import sys
import threading
import time
import traceback

from absl import logging

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]


class Watchdog:
  """Calls `on_stall` in a thread of its own if `beat` stays away too long.

  A context manager for the main thread, one run after the other. It counts from
  the first beat, so that compiling is not counted, and not while `paused`.
  """

  def __init__(
    self,
    timeout: float = 0.0,
    *,
    on_stall: Callable[[str], None] | None = None,
  ):
    """Starts nothing yet.

    Args:
      timeout: Longest time between two beats, seconds; 0: any.
      on_stall: Told what happened; has to end the process.
    """
    if timeout < 0:
      raise ValueError(f'--stall_timeout={timeout}: seconds, or 0 for none')
    self._timeout = timeout
    self._on_stall = on_stall
    self._is_counting = False
    self._waited = 0.0
    self._stop = threading.Event()

  def __enter__(self) -> Watchdog:
    # Of its own for each run: that of the run before has been set.
    self._stop = threading.Event()
    self._is_counting, self._waited = False, 0.0
    if self._timeout and self._on_stall is not None:
      self._main = threading.get_ident()
      threading.Thread(
        target=self._watch, args=(self._stop,), daemon=True, name='watchdog'
      ).start()
    return self

  def __exit__(self, *unused: object) -> None:
    self._stop.set()

  @property
  def longest_wait(self) -> float:
    """Longest time that a step may wait for data, seconds.

    Half of the timeout: the other processes wait for it in a collective.
    """
    return self._timeout / 2 if self._timeout else math.inf

  def beat(self) -> None:
    """A step has ended."""
    self._waited = 0.0
    self._is_counting = True

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Around what may take long: an evaluation, a save."""
    counting, self._is_counting = self._is_counting, False
    try:
      yield
    finally:
      self._waited = 0.0
      self._is_counting = counting

  def _watch(self, stop: threading.Event) -> None:
    pause = min(1.0, self._timeout / 5)
    before = time.monotonic()
    while not stop.wait(pause):
      now = time.monotonic()
      # At most two pauses: while this process was stopped (Ctrl-Z) or its host
      # asleep, nothing was to be expected of it.
      self._waited += min(now - before, 2 * pause)
      before = now
      if not self._is_counting:
        self._waited = 0.0
      elif self._waited > self._timeout and self._on_stall is not None:
        self._on_stall(self._describe())
        return

  def _describe(self) -> str:
    frame = sys._current_frames().get(self._main)
    stack = traceback.extract_stack(frame)
    logging.error(
      'where the main thread is:\n%s', ''.join(traceback.format_list(stack))
    )
    place = ''
    for entry in reversed(stack):
      path = pathlib.Path(entry.filename)
      if path.is_relative_to(_PACKAGE):
        where = path.relative_to(_PACKAGE.parent).as_posix()
        place = f'; it is in {entry.name} ({where}, line {entry.lineno})'
        break
    return (
      f'no step has ended for {self._timeout:g} s (--stall_timeout; 0 waits '
      f'for ever){place}'
    )
