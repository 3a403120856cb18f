"""Reads that the operating system refuses for a while are tried again.

A network disk that is away for seconds, a single I/O error or too many open
files say nothing about the data. So such a read is repeated for up to `limit`
seconds, with one warning for all reads that fail meanwhile; after that it is a
`DataAway`, never a property of the file. What follows from the content of a
file (a truncated JPEG) is raised at once, as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import errno
import math
import os
import resource
import stat
import threading
import time
from typing import TypeVar

from absl import logging

T = TypeVar('T')
AskFn = Callable[[], bool]

# What a user has to mend when it is met at the start of a command; in a run
# that has read the same file before, it passes like everything else.
_LASTING = frozenset(
  {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
  }
)
# Codes of tf.errors for what remote storage refuses; the others are content.
_REMOTE = frozenset({2, 4, 5, 7, 8, 9, 10, 13, 14, 16})
_FIRST_PAUSE, _LONGEST_PAUSE, _POLL = 0.1, 5.0, 0.25

# Longest time that one read is tried again, seconds; 0 raises at once.
limit = 60.0
_clock, _sleep = time.monotonic, time.sleep


class DataAway(OSError):
  """The system refused a read for as long as it was tried again."""


def is_system(error: BaseException) -> bool:
  """Whether the operating system or remote storage refused a read.

  Pillow, NumPy and pyarrow raise OSErrors of their own for what is in a file;
  those have no number, or that of a place that a damaged file names (EINVAL).
  """
  if isinstance(error, DataAway):
    return False  # Has been tried again.
  if isinstance(error, OSError):
    given = isinstance(error, ConnectionError | TimeoutError)
    return given or error.errno not in (None, errno.EINVAL)
  remote = type(error).__module__.startswith('tensorflow.')
  return remote and getattr(error, 'error_code', None) in _REMOTE


def may_pass(error: BaseException) -> bool:
  """As `is_system` at the start of a command, less what the user must mend."""
  known = isinstance(error, OSError) and is_system(error)
  return known and getattr(error, 'errno', None) not in _LASTING


def naming(error: OSError, path: str) -> OSError:
  """The same error; those of reads from an open file do not name it."""
  if error.filename is None and error.errno is not None:
    error.filename = path
  return error


def is_dir(path: str) -> bool:
  """As `os.path.isdir`, which takes an I/O error for a missing folder."""
  return stat.S_ISDIR(_mode(path))


def is_file(path: str) -> bool:
  """As `os.path.isfile`, which takes an I/O error for a missing file."""
  return stat.S_ISREG(_mode(path))


def _mode(path: str) -> int:
  try:
    return os.stat(path).st_mode
  except OSError as error:
    if may_pass(error):
      raise
    return 0
  except ValueError:  # A name with a NUL.
    return 0


class _Episode:
  """A time in which reads fail, shared by all threads of the process."""

  def __init__(self) -> None:
    self.lock = threading.Lock()
    self.waiting = 0
    self.begin: float | None = None
    self.last_failure = float('-inf')
    self.last_warning = float('-inf')


class _Run:
  """The run that is told of data that are away, and may ask to stop."""

  stop_fn: AskFn | None = None
  away_fn: Callable[[DataAway], None] | None = None


_episode, _run, _thread = _Episode(), _Run(), threading.local()


@contextlib.contextmanager
def listening(
  stop_fn: AskFn,
  away_fn: Callable[[DataAway], None] | None = None,
  *,
  at_most: float = math.inf,
) -> Iterator[None]:
  """For a run: how waits end early, and who learns that one was in vain.

  Args:
    stop_fn: Asked a few times a second while a read waits; True gives it up.
    away_fn: Told at once, in the thread that read.
    at_most: Shortens `limit`, seconds.
  """
  global limit
  before = _run.stop_fn, _run.away_fn, limit
  _run.stop_fn, _run.away_fn, limit = stop_fn, away_fn, min(limit, at_most)
  try:
    yield
  finally:
    _run.stop_fn, _run.away_fn, limit = before


def give_up_when(closed_fn: AskFn) -> None:
  """Ends waits of this thread early, once nobody wants what it reads."""
  _thread.closed_fn = closed_fn


def retry(
  read_fn: Callable[[], T],
  *,
  what: Callable[[], str] | str = '',
  passing: Callable[[BaseException], bool] = is_system,
) -> T:
  """What `read_fn` gives, as soon as the system lets it.

  Args:
    read_fn: Reads something; can be repeated.
    what: Name of it for messages; '' where the errors name it.
    passing: Which of its exceptions may pass.

  Raises:
    DataAway: If they do not within `limit` seconds, or somebody asked to stop.
    Exception: Every other of `read_fn`, at once.
  """
  try:
    return read_fn()
  except Exception as error:
    if not passing(error):
      raise
    first = error
  return _again(read_fn, what=what, passing=passing, error=first)


def open_data(open_fn: Callable[[], T]) -> T:
  """As `retry`, at the start of a command; `open_fn` names what it reads."""
  return retry(open_fn, what='the data set', passing=may_pass)


def _again(
  read_fn: Callable[[], T],
  *,
  what: Callable[[], str] | str,
  passing: Callable[[BaseException], bool],
  error: Exception,
) -> T:
  name = what if isinstance(what, str) else what()
  mine = _clock()
  with _episode.lock:
    _episode.waiting += 1
  warned, pause = False, _FIRST_PAUSE
  try:
    while True:
      deadline = min(mine, _failed_now()) + limit
      text = f'{name} cannot be read: ' if name else ''
      text += describe(error)
      if (now := _clock()) >= deadline:
        raise _away(text, seconds=now - mine) from error
      warned = _warn(text, deadline - now) or warned
      if not _wait(min(pause, deadline - now)):
        raise _away(
          f'{text}; asked to stop', seconds=_clock() - mine
        ) from error
      pause = min(2 * pause, _LONGEST_PAUSE)
      try:
        result = read_fn()
      except Exception as caught:
        if not passing(caught):
          raise
        error = caught
        continue
      with _episode.lock:
        if _episode.waiting == 1:
          _episode.begin = None
      if warned:
        logging.info('it can be read again after %.1f s', _clock() - mine)
      return result
  finally:
    with _episode.lock:
      _episode.waiting -= 1


def _failed_now() -> float:
  """Notes a failure; when the reads began to fail.

  All that fail at a time share one deadline: else a thread that begins to wait
  when another gives up would hold up the end of the run for as long again.
  """
  with _episode.lock:
    now = _clock()
    if _episode.begin is None or now - _episode.last_failure > limit:
      _episode.begin = now
    _episode.last_failure = now
    return _episode.begin


def _warn(text: str, seconds: float) -> bool:
  """Warns unless that was done less than `limit` seconds ago."""
  with _episode.lock:
    now = _clock()
    if now - _episode.last_warning <= limit:
      return False
    _episode.last_warning = now
  logging.warning('%s; trying again for up to %.0f s', text, seconds)
  return True


def _wait(seconds: float) -> bool:
  """Sleeps; False as soon as nobody wants the result any more."""
  end = _clock() + seconds
  while True:
    for ask_fn in (_run.stop_fn, getattr(_thread, 'closed_fn', None)):
      if ask_fn is not None and ask_fn():
        return False
    if (left := end - _clock()) <= 0:
      return True
    _sleep(min(left, _POLL))


def _away(text: str, *, seconds: float) -> DataAway:
  if limit:
    text += f' (tried again for {seconds:.0f} s)'
  error = DataAway(text)
  closed_fn: AskFn | None = getattr(_thread, 'closed_fn', None)
  # A worker process, whose limit is 0, only passes on what its parent retries.
  if _run.away_fn is not None and not (closed_fn is not None and closed_fn()):
    _run.away_fn(error)
  return error


def describe(error: BaseException) -> str:
  """'FileNotFoundError: ...'; a `DataAway` as it is."""
  text = ' '.join(str(getattr(error, 'message', error)).split())
  if isinstance(error, DataAway):
    return text
  if isinstance(error, OSError) and error.errno == errno.EMFILE:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text += f' (at most {soft} may be open: ulimit -n)'
  return f'{type(error).__name__}: {text}'


_NONE = object()


def one_ahead(items: Iterator[T]) -> Iterator[T]:
  """The same items, each made before the one ahead of it is used.

  An OSError comes in the place of its item, after all that were made before:
  so a run whose processes have to agree where to stop has an item in hand when
  the next one fails.
  """
  ahead: object = next(items, _NONE)
  while ahead is not _NONE:
    failure = None
    try:
      following: object = next(items, _NONE)
    except OSError as error:
      failure, following = error, _NONE
    yield ahead  # type: ignore[misc]
    if failure is not None:
      raise failure
    ahead = following
