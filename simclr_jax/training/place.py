"""The folder that a run saves its checkpoints in: there, its own, and tidy."""

from __future__ import annotations

import contextlib
import errno
import os

from absl import logging
from etils import epath
import jax

from simclr_jax.training import steps as steps_lib
from simclr_jax.training import storage

# Within the folder of checkpoints; see Place.purge.
DELETED = 'deleted'
# What Orbax appends to a step's name until it is complete.
_UNFINISHED = 'orbax-checkpoint-tmp'


class Place:
  """A folder of checkpoints (may be gs://...), which need not be there yet.

  Attributes:
    directory: Absolute.
    complete: Steps that were in it when it was looked at last, rising.
    failed: Steps whose saving failed, of which remains may lie about.
  """

  def __init__(self, directory: epath.PathLike):
    """Looks at the folder.

    Raises:
      ValueError: If no checkpoint can be written under its name.
    """
    _check_name(os.fspath(directory))
    self.directory = steps_lib.absolute(directory)
    self.complete: list[int] = []
    self.failed: list[int] = []
    self.look()

  def look(self) -> None:
    """Notes the steps that are there now."""
    self.complete = steps_lib.steps_in(self.directory)

  def check(self) -> None:
    """Raises OSError unless the folder is there, is the same, and is writable.

    Orbax would make it anew, beside a file system that is not mounted just now.
    """
    storage.check_folder(self.directory)
    if not self.is_same():
      raise FileNotFoundError(
        errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(self.directory)
      )

  def is_same(self) -> bool:
    """Whether one of the checkpoints that there were is there, if any was."""
    places = [self.directory, self.directory / DELETED]
    return (
      not self.complete
      or '://' in os.fspath(self.directory)
      or any(
        (place / str(step)).is_dir()
        for step in self.complete
        for place in places
      )
    )

  def purge(self) -> None:
    """Frees the space of steps that are no longer kept, or were not completed.

    Orbax only renames those (on a file system), which is atomic: files deleted
    one by one would look like damage to a reader, and after a kill to the run.
    Without renames a step that failed has its name and lacks a part.
    """
    if jax.process_index() != 0:
      return
    unwanted = [self.directory / DELETED]
    for step in self.failed:
      unwanted += self.directory.glob(f'{step}.{_UNFINISHED}*')
      with contextlib.suppress(OSError):
        if steps_lib.missing_part(self.directory / str(step)):
          unwanted.append(self.directory / str(step))
    for folder in unwanted:
      try:
        if folder.is_dir():
          folder.rmtree()
      except OSError as error:  # Tried again at the next save.
        logging.warning('could not remove %s: %s', folder, error)


def _check_name(path: str) -> None:
  """Raises ValueError for a path that TensorStore takes for another one."""
  try:
    path.encode()
    wrong = 'a backslash' if '\\' in path else ''
  except UnicodeEncodeError:
    wrong = 'bytes that are no UTF-8'
  if wrong:
    raise ValueError(
      f'{path!a} holds {wrong}: the writer of checkpoints would look for them '
      'elsewhere. All other characters are allowed; choose another --workdir, '
      'or rename the folder that it is in'
    )
