"""Writes that fail: what they are, and what to tell whoever has to mend it."""

from __future__ import annotations

import errno
import os

from etils import epath
import jax

from simclr_jax import writes

# As TensorStore begins the message of an error that comes from the storage.
_STATUS = (
  'RESOURCE_EXHAUSTED',
  'PERMISSION_DENIED',
  'UNAUTHENTICATED',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'UNAVAILABLE',
  'DEADLINE_EXCEEDED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'DATA_LOSS',
  'INTERNAL',
  'UNKNOWN',
)
_PROBE = '.write-test'


explain = writes.explain
space = writes.space
format_bytes = writes.format_bytes
StorageFailed = writes.StorageFailed


class RunNotSaved(StorageFailed):
  """The run ends without its newest state; in every process or in none."""


class SaveFailed(StorageFailed):
  """A checkpoint was not written; those before it are as they were.

  Attributes:
    step: Of the checkpoint.
  """

  def __init__(self, step: int, message: str):
    super().__init__(message)
    self.step = step


def is_storage_error(error: BaseException | None) -> bool:
  """Whether the storage refused a write; anything else is a bug of ours."""
  for each in writes.chain(error):
    if isinstance(each, jax.errors.JaxRuntimeError):
      return False  # The device ran out of memory, not the disk.
    text = str(each)
    if isinstance(each, OSError) or text.startswith(_STATUS):
      return True
    if 'os_error_code=' in text:  # TensorStore's, under any status.
      return True
  return False


def check_folder(folder: epath.PathLike) -> None:
  """Raises OSError unless a file can be written into an existing folder.

  Object stores are not tried: they have no folders, and writing tells.
  """
  text = os.fspath(folder)
  if '://' in text:
    return
  if not os.path.isdir(text):
    # Making it anew would write beside a file system that is not mounted now.
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
  probe = os.path.join(text, f'{_PROBE}-{jax.process_index()}')
  try:
    with open(probe, 'wb') as file:
      file.write(b'simclr_jax')
      file.flush()
      os.fsync(file.fileno())
  finally:
    if os.path.lexists(probe):
      os.unlink(probe)
