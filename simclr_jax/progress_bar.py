"""A bar at the bottom of a terminal; in a file or a pipe there is none.

Whoever counts decides by `shown` between a bar and lines of the log. With
several processes the first has it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

# Of writing to a terminal that was closed: no reason to end a run.
_GONE = (OSError, ValueError)
_bars: list[ProgressBar] = []
_allowed = True


def allow(whether: bool) -> None:
  """Says whether this process may draw; of several only the first does."""
  global _allowed
  _allowed = whether


def shown() -> bool:
  """Whether a person looks at stderr, in a terminal that can go back a line."""
  return (
    _allowed
    and sys.stderr is not None
    and not sys.stderr.closed
    and sys.stderr.isatty()
    and os.environ.get('TERM', 'dumb') != 'dumb'
    and _columns() > 0
  )


def _columns() -> int:
  """Width of the terminal; 0 where it has not been told, and draws nothing."""
  try:
    return os.get_terminal_size(sys.stderr.fileno()).columns
  except OSError:
    return 0


def clear() -> None:
  """Makes room for a line of text; the bars come back when they move."""
  for bar in _bars:
    bar.clear()


def say(text: str) -> None:
  """Writes a line to stderr; one that is closed ends nothing."""
  clear()
  if sys.stderr is not None:
    with contextlib.suppress(*_GONE):
      print(text, file=sys.stderr, flush=True)


class ProgressBar:
  """'Pretraining:  45%|####   | 45/100 [00:11<00:14,  4.0 steps/s, loss 5.1]'.

  Does nothing where `shown` is false. May be used from any thread.
  """

  def __init__(
    self,
    title: str,
    total: int,
    *,
    unit: str,
    start: int = 0,
    stays: bool = False,
  ):
    """Draws the bar.

    Args:
      title: Stands before it.
      total: Units of the whole job.
      unit: What is counted, in the plural.
      start: Units that are done already.
      stays: Whether it is left on the screen when it is closed.
    """
    self._bar: Any = None
    if not shown():
      return
    import tqdm

    # Its monitor is a thread, beside which nothing may fork.
    tqdm.tqdm.monitor_interval = 0
    with contextlib.suppress(*_GONE):
      self._bar = tqdm.tqdm(
        desc=title,
        total=total,
        initial=start,
        unit=f' {unit}',
        leave=stays,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.2,
      )
      _bars.append(self)

  def move(self, done: int, note: str = '') -> None:
    """Sets the units that are done; `note`, if any, replaces the last one."""
    if self._bar is None:
      return
    if note:
      self._bar.set_postfix_str(note, refresh=False)
    with contextlib.suppress(*_GONE):
      self._bar.update(done - self._bar.n)

  def clear(self) -> None:
    """Takes it off the screen until it moves."""
    if self._bar is not None:
      with contextlib.suppress(*_GONE):
        self._bar.clear()

  def close(self) -> None:
    """Ends it; more than once is no error."""
    if self._bar is not None:
      bar, self._bar = self._bar, None
      _bars.remove(self)
      with contextlib.suppress(*_GONE):
        bar.close()
