"""Reads of a checkpoint that all end before it is said that one failed.

Orbax reads arrays side by side in an event loop of its own, gives up at the
first that fails, and closes the loop. The other reads go on in TensorStore's
threads and report to a loop that is gone: a traceback on stderr for each
('Event loop is closed'), at any later time, and coroutines that the garbage
collector complains about in the midst of something else. With a loop that
waits for what it has begun before it closes there is nothing left to report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
import contextlib
import sys
import threading

# Longest wait for reads that go on after one has failed: a storage that hangs
# must not hide the failure.
_SECONDS = 60.0
_policies = threading.Lock()


class _SettlingLoop(asyncio.SelectorEventLoop):
  """Waits for its tasks when it is closed."""

  def close(self) -> None:
    """As every loop, once its tasks have ended or a minute has passed."""
    if not (self.is_closed() or self.is_running() or _is_interrupted()):
      pending = asyncio.all_tasks(self)
      if pending:
        done, _ = self.run_until_complete(
          asyncio.wait(pending, timeout=_SECONDS)
        )
        for task in done:
          if not task.cancelled():
            task.exception()  # Seen: the first failure is what is raised.
    super().close()


def _is_interrupted() -> bool:
  """Whether a Ctrl-C is on its way up: nobody waits any more."""
  return isinstance(sys.exception(), (KeyboardInterrupt, SystemExit))


class _SettlingPolicy(asyncio.DefaultEventLoopPolicy):
  """Makes such loops."""

  def new_event_loop(self) -> asyncio.AbstractEventLoop:
    """For one reading."""
    return _SettlingLoop()


@contextlib.contextmanager
def settled_reads() -> Iterator[None]:
  """Around Orbax's reading: no read goes on behind the block."""
  with _policies:
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_SettlingPolicy())
    try:
      yield
    finally:
      asyncio.set_event_loop_policy(before)
