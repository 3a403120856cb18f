"""A file of lines that survives a full disk: no half line, nothing lost."""

from __future__ import annotations

import collections
import os

from absl import logging

from simclr_jax.training import steps as steps_lib
from simclr_jax.training import storage

# Lines kept in memory while they cannot be written; a day of one each second.
_MOST_KEPT = 100_000


class LineFile:
  """Appends whole lines to a local file, in order, sooner or later.

  A line that does not fit (disk full, quota, folder gone) is kept and tried
  again before the next one. What the system wrote of it is cut off: half a
  line in the middle of the file would make it unreadable.
  """

  def __init__(self, path: os.PathLike[str]):
    """Opens `path` for appending; makes it if need be.

    Raises:
      OSError: If that is impossible.
    """
    self._path = os.fspath(path)
    self._kept: collections.deque[bytes] = collections.deque()
    self._num_lost = 0
    self._failing = False
    # Where the file ends without the half line that could not be cut off yet.
    self._whole: int | None = None
    self._fd = -1
    self._open(os.O_CREAT)

  @property
  def num_unwritten(self) -> int:
    """Lines that are not in the file, kept or given up."""
    return len(self._kept) + self._num_lost

  def write(self, line: str) -> None:
    """Appends a line (with its newline), or keeps it for later."""
    self._kept.append(line.encode())
    if len(self._kept) > _MOST_KEPT:
      self._kept.popleft()
      self._num_lost += 1
    self._drain()

  def close(self) -> None:
    """Tries once more, says what is lost, closes; twice is allowed."""
    if self._kept:
      self._drain(os.O_CREAT)
    if self.num_unwritten:
      steps_lib.shout(f'{self.num_unwritten} lines of {self._path} are lost')
      self._kept.clear()
      self._num_lost = 0
    if self._fd >= 0:
      os.close(self._fd)
      self._fd = -1

  def _drain(self, create: int = 0) -> None:
    num_late = len(self._kept) - 1
    try:
      self._check_place(create)
      while self._kept:
        self._append(self._kept[0])
        self._kept.popleft()
    except OSError as error:
      if not self._failing:
        steps_lib.shout(
          f'cannot write to {self._path}: '
          f'{storage.explain(self._path, error)}. Training goes on; the lines '
          'are kept in memory and written as soon as that is possible'
        )
      self._failing = True
      return
    if self._failing:
      logging.warning('%s: wrote %d lines late', self._path, num_late)
      self._failing = False

  def _append(self, line: bytes) -> None:
    """Writes all of a line, or raises and leaves the file as it was."""
    self._cut()
    size = os.fstat(self._fd).st_size
    try:
      written = os.write(self._fd, line)
      while written < len(line):  # The error comes with the next attempt.
        written += os.write(self._fd, line[written:])
    except OSError:
      if os.fstat(self._fd).st_size > size:
        self._whole = size
        self._cut()
      raise

  def _cut(self) -> None:
    if self._whole is not None:
      os.ftruncate(self._fd, self._whole)
      self._whole = None

  def _check_place(self, create: int) -> None:
    """Opens anew if the file at the path is another by now.

    Bytes written to a deleted file vanish without an error. The file is not
    made before the end: a folder that is gone may be a file system that comes
    back, with all lines so far.
    """
    if self._fd >= 0:
      mine = os.fstat(self._fd)
      try:
        there = os.stat(self._path)
      except FileNotFoundError:
        pass
      else:
        if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
          return
      steps_lib.shout(f'{self._path} was moved or deleted during the run')
      os.close(self._fd)
      self._fd, self._whole = -1, None
    self._open(create)

  def _open(self, create: int) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | create
    self._fd = os.open(self._path, flags, 0o666)
