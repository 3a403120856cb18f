"""Reads and writes of a checkpoint that end before one of them is reported.

Orbax handles arrays side by side in an event loop of its own, gives up at the
first that fails, and closes the loop. The others go on in TensorStore's threads
and report to a loop that is gone: a traceback on stderr for each ('Event loop
is closed'), at any later time, and coroutines that the garbage collector
complains about in the midst of something else. With a loop that waits for what
it has begun before it closes there is nothing left to report. Orbax also logs
the failure of each of its threads with a traceback; the one that is raised says
the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
import contextlib
import logging as std_logging
import sys
import threading
import time
from typing import Any

from absl import logging

# Longest wait for reads that go on after one has failed: a storage that hangs
# must not hide the failure.
_SECONDS = 60.0
_lock = threading.Lock()
_num_open = 0
_before: asyncio.AbstractEventLoopPolicy | None = None


class _SettlingLoop(asyncio.SelectorEventLoop):
  """Waits for its tasks when it is closed."""

  def close(self) -> None:
    """As every loop, once its tasks have ended or a minute has passed."""
    if not (self.is_closed() or self.is_running() or _is_interrupted()):
      pending = asyncio.all_tasks(self)
      if pending:
        self.run_until_complete(asyncio.wait(pending, timeout=_SECONDS))
      self.run_until_complete(asyncio.sleep(0))  # Callbacks of what has ended.
    super().close()

  def call_exception_handler(self, context: Mapping[str, Any]) -> None:
    """Hides failures that nobody waits for: the first one is raised."""
    logging.debug('in a loop of Orbax: %s', context.get('exception', context))


def join_threads() -> None:
  """Waits for Orbax's threads, which outlive a save that failed in another."""
  deadline = time.monotonic() + _SECONDS
  for thread in threading.enumerate():
    if type(thread).__module__.startswith('orbax.') and not _is_interrupted():
      # Not its own method, which raises what the thread raised.
      threading.Thread.join(thread, max(0.0, deadline - time.monotonic()))


def _is_interrupted() -> bool:
  """Whether a Ctrl-C is on its way up: nobody waits any more."""
  return isinstance(sys.exception(), (KeyboardInterrupt, SystemExit))


class _SettlingPolicy(asyncio.DefaultEventLoopPolicy):
  """Makes such loops."""

  def new_event_loop(self) -> asyncio.AbstractEventLoop:
    """For one reading or writing."""
    return _SettlingLoop()


class _OneAccount(std_logging.Filter):
  """Drops the errors that Orbax logs besides the one that it raises."""

  def filter(self, record: std_logging.LogRecord) -> bool:
    by_orbax = '/orbax/' in record.pathname.replace('\\', '/')
    is_error = record.levelno >= std_logging.ERROR
    return logging.level_debug() or not (by_orbax and is_error)


_one_account = _OneAccount()


@contextlib.contextmanager
def settled() -> Iterator[None]:
  """Around what Orbax does: nothing of it goes on behind the block.

  Blocks may overlap, as one around a save that goes on behind the training
  does; what they change is of the whole process.
  """
  global _num_open, _before
  with _lock:
    _num_open += 1
    if _num_open == 1:
      _before = asyncio.get_event_loop_policy()
      asyncio.set_event_loop_policy(_SettlingPolicy())
      logging.get_absl_logger().addFilter(_one_account)
  try:
    yield
  finally:
    join_threads()
    with _lock:
      _num_open -= 1
      if _num_open == 0:
        asyncio.set_event_loop_policy(_before)
        logging.get_absl_logger().removeFilter(_one_account)
