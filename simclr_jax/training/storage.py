"""Writes that fail: what they are, and what to tell whoever has to mend it."""

from __future__ import annotations

from collections.abc import Iterator
import errno
import os
import shutil

from etils import epath
import jax

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


class StorageFailed(OSError):
  """What has to be written could not be; names place, cause and free space."""


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
  for each in _chain(error):
    if isinstance(each, jax.errors.JaxRuntimeError):
      return False  # The device ran out of memory, not the disk.
    if isinstance(each, OSError) or str(each).startswith(_STATUS):
      return True
  return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  """An error and what caused it, not what was being handled meanwhile."""
  while error is not None and not isinstance(error, StorageFailed):
    yield error
    error = error.__cause__ or error.__context__


def explain(path: epath.PathLike, error: BaseException | str) -> str:
  """Cause, place and free space in one sentence.

  Args:
    path: What was written, or its folder.
    error: What the system said.
  """
  cause = error if isinstance(error, str) else _cause(error)
  return f'{cause} ({os.fspath(path)}; {space(path)})'


def _cause(error: BaseException) -> str:
  *_, error = [error, *_chain(error)]
  if isinstance(error, OSError) and error.errno:
    name = errno.errorcode.get(error.errno, str(error.errno))
    return f'{os.strerror(error.errno)}, {name}'
  text = ' '.join(str(error).split('[tensorstore_spec')[0].split())
  # TensorStore puts the system's own words behind a long path.
  for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
    if os.strerror(number).lower() in text.lower():
      return f'{os.strerror(number)}, {errno.errorcode[number]}'
  return f'{type(error).__name__}: {text[:300]}'


def space(path: epath.PathLike) -> str:
  """Free space where `path` lies, in words."""
  text = os.fspath(path)
  if '://' in text:
    return 'an object store'
  folder = os.path.abspath(text)
  while not os.path.exists(folder) and folder != os.path.dirname(folder):
    folder = os.path.dirname(folder)
  try:
    usage = shutil.disk_usage(folder)
  except OSError as error:
    return f'free space unknown: {error.strerror}'
  return f'{format_bytes(usage.free)} of {format_bytes(usage.total)} free there'


def format_bytes(number: int) -> str:
  """'2.5 MiB'."""
  value, units = float(number), ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  while value >= 1024 and len(units) > 1:
    value, units = value / 1024, units[1:]
  return f'{value:.3g} {units[0]}'


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
