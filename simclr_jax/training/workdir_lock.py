"""One run in a workdir: a second one would mix its checkpoints with the first.

On a file system the operating system holds the lock, and it goes with the
process however that ends. Object stores ('gs://...') and some network file
systems have none: there the holder rewrites a file every now and then, and a
file that nobody rewrites belongs to a run that is dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import datetime
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from typing import Any

from absl import logging
from etils import epath
import jax

from simclr_jax import processes, writes
from simclr_jax.training import steps as steps_lib

FILE_NAME = 'run.lock'
# Of an object store: seconds between two rewritings, and until the holder is
# taken for dead.
REFRESH_SECONDS = 20.0
STALE_SECONDS = 90.0
# Longest wait until a file of process 0 shows elsewhere; NFS keeps what it has
# seen of a folder for up to a minute.
_VISIBLE_SECONDS = 70.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)

# Raises if the workdir has been taken over by another run.
CheckFn = Callable[[], None]


@contextlib.contextmanager
def held(workdir: epath.PathLike) -> Iterator[CheckFn]:
  """Holds a workdir that exists for the time of the block.

  Process 0 locks, and all get the same answer. Collective with several
  processes.

  Yields:
    A function to call now and then.

  Raises:
    ValueError: If another run holds it (with several processes:
      processes.AgreedFailure), or another process sees another folder.
  """
  folder = steps_lib.absolute(workdir)
  with contextlib.ExitStack() as stack:
    token, check = secrets.token_hex(8), _nothing
    with processes.together():
      if jax.process_index() == 0:
        check = stack.enter_context(_hold(folder / FILE_NAME, token))
    if jax.process_count() > 1:
      token = processes.from_first(token)
      with processes.together():
        _wait_for_token(folder / FILE_NAME, token)
    yield check


def _nothing() -> None:
  pass


def _hold(
  path: epath.Path, token: str
) -> contextlib.AbstractContextManager[CheckFn]:
  if '://' in os.fspath(path):
    return hold_by_refreshing(path, token)
  return _hold_by_system(path, token)


def _owner(token: str) -> dict[str, Any]:
  now = datetime.datetime.now(datetime.UTC).isoformat(' ', 'seconds')
  return {
    'token': token,
    'host': socket.gethostname(),
    'pid': os.getpid(),
    'since': now,
  }


def _refuse(path: epath.Path, owner: dict[str, Any]) -> ValueError:
  who = 'another run'
  if 'pid' in owner:
    who = (
      f'a run on host {owner["host"]}, process id {owner["pid"]}, since '
      f'{owner["since"]}'
    )
  return ValueError(
    f'the workdir {path.parent} is in use by {who}: two runs in one would mix '
    'their checkpoints. Wait for it, end it, or choose another --workdir'
  )


def _read(path: epath.Path) -> dict[str, Any]:
  """Who wrote the file; {} while it is being written, or if there is none."""
  try:
    owner = json.loads(path.read_text())
  except (OSError, ValueError):
    return {}
  return owner if isinstance(owner, dict) else {}


@contextlib.contextmanager
def _hold_by_system(path: epath.Path, token: str) -> Iterator[CheckFn]:
  # The file stays: removing it would let two others each lock one of its name.
  with open(path, 'a+', encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise _refuse(path, _read(path)) from error
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      logging.warning(
        '%s: this file system has no locks (%s); a file that is rewritten '
        'every %g s stands in',
        path,
        error.strerror,
        REFRESH_SECONDS,
      )
      with hold_by_refreshing(path, token) as check:
        yield check
      return
    with writes.to(path):
      file.truncate(0)
      file.write(json.dumps(_owner(token)) + '\n')
      file.flush()
      os.fsync(file.fileno())
    yield _nothing


@contextlib.contextmanager
def hold_by_refreshing(
  path: epath.Path,
  token: str,
  *,
  refresh: float = REFRESH_SECONDS,
  stale: float = STALE_SECONDS,
) -> Iterator[CheckFn]:
  """Holds a file by rewriting it.

  Args:
    path: Need not exist.
    token: Of this run.
    refresh: Seconds between two rewritings.
    stale: Seconds without one after which the holder is dead.

  Raises:
    ValueError: If another run rewrites it.
  """
  before = _read(path)
  if before and not _is_dead(before):
    # By watching, not by the clock: those of two hosts differ.
    logging.warning(
      '%s is held by %s; watching for %g s whether that run still lives',
      path,
      before.get('host'),
      stale,
    )
    deadline = time.monotonic() + stale
    while time.monotonic() < deadline:
      time.sleep(refresh / 4)
      if (now := _read(path)) and now != before:
        raise _refuse(path, now)
      if not now and not path.exists():
        break  # It has just ended.
  owner = _owner(token)
  _write(path, owner, 0)
  # Of two that start at once the later one has the file.
  time.sleep(refresh / 4)
  if (now := _read(path)).get('token') != token:
    raise _refuse(path, now)
  stop, taken = threading.Event(), threading.Event()

  def rewrite() -> None:
    count = 0
    while not stop.wait(refresh):
      count += 1
      try:
        if _read(path).get('token', token) != token:
          taken.set()
          return
        _write(path, owner, count)
      except OSError as error:
        logging.warning('%s cannot be rewritten: %s', path, error)

  def check() -> None:
    if taken.is_set():
      raise ValueError(
        f'the workdir {path.parent} was taken over by another run, while this '
        'one stood still: this one ends and saves nothing more'
      )

  thread = threading.Thread(target=rewrite, daemon=True, name='workdir_lock')
  thread.start()
  try:
    yield check
  finally:
    stop.set()
    thread.join()
    if not taken.is_set():
      path.unlink(missing_ok=True)


def _write(path: epath.Path, owner: dict[str, Any], count: int) -> None:
  path.write_text(json.dumps({**owner, 'rewritten': count}) + '\n')


def _is_dead(owner: dict[str, Any]) -> bool:
  """Whether the holder was a process of this host that is no more."""
  if owner.get('host') != socket.gethostname():
    return False
  try:
    os.kill(int(owner.get('pid', 0)), 0)
  except ProcessLookupError:
    return True
  except (OSError, ValueError, TypeError):
    return False
  return False


def _wait_for_token(path: epath.Path, token: str) -> None:
  """Raises ValueError unless this process sees the file of process 0."""
  deadline = time.monotonic() + _VISIBLE_SECONDS
  while _read(path).get('token') != token:
    if time.monotonic() > deadline:
      raise ValueError(
        f'the workdir {path.parent} here is not that of process 0: a folder of '
        'that name on a local disk? All processes need one shared folder (a '
        'network file system, or gs://...)'
      )
    time.sleep(0.5)
