"""Writes that the system refuses: cause, place, free space, remedy.

Imports no JAX: the input and the commands use it as well as training.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import errno
import os
import shutil
import uuid

from etils import epath

# Only a write fails with these, so a block that reads too may be wrapped.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
REMEDY = (
  'Make room there or name another place, then run the same command again'
)


class StorageFailed(OSError):
  """A file could not be written; names place, cause and free space."""


@contextlib.contextmanager
def to(path: str | os.PathLike[str], *, remedy: str = REMEDY) -> Iterator[None]:
  """Names the place where a write of the block is refused.

  Libraries (Arrow, zipfile, NumPy, safetensors) raise errors without it.

  Args:
    path: File or folder that the block writes.
    remedy: Last sentence of the message.

  Raises:
    StorageFailed: If the storage is full, over its quota or read-only.
  """
  try:
    yield
  except StorageFailed:
    raise
  except Exception as error:
    if not is_full(error):
      raise
    raise StorageFailed(
      f'cannot write {os.fspath(path)}: {_cause(error)} ({space(path)}). '
      f'{remedy}'
    ) from error


def whole(path: str | os.PathLike[str], content: bytes | str) -> None:
  """Writes a file that is there whole or not at all; makes its folder.

  Raises:
    StorageFailed: As `to`.
    OSError: If the system refuses it for another reason.
  """
  data = content.encode() if isinstance(content, str) else content
  with to(path):
    if '://' in os.fspath(path):
      epath.Path(path).write_bytes(data)  # An object is replaced as a whole.
      return
    target = os.path.realpath(path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.exists(target) and not os.path.isfile(target):
      with open(target, 'wb') as file:  # A device or a pipe has no parts.
        file.write(data)
      return
    folder, name = os.path.split(target)
    hidden = os.path.join(folder, f'.{name[:99]}.{uuid.uuid4().hex}.tmp')
    try:
      with open(hidden, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
      os.replace(hidden, target)
    finally:
      if os.path.lexists(hidden):
        os.unlink(hidden)


def is_full(error: BaseException) -> bool:
  """Whether a write was refused for lack of room, or on a read-only disk."""
  return any(_refused(each) in _FULL for each in chain(error))


def chain(error: BaseException | None) -> Iterator[BaseException]:
  """An error and its causes, the first cause last."""
  while error is not None and not isinstance(error, StorageFailed):
    yield error
    error = error.__cause__ or error.__context__


def explain(path: str | os.PathLike[str], error: BaseException | str) -> str:
  """Cause, place and free space in one sentence.

  Args:
    path: What was written, or its folder.
    error: What the system said.
  """
  cause = error if isinstance(error, str) else _cause(error)
  return f'{cause} ({os.fspath(path)}; {space(path)})'


def _refused(error: BaseException) -> int | None:
  """The number of the system's error, also of a library that only words it."""
  if isinstance(error, OSError) and error.errno:
    return error.errno
  text = str(error).lower()
  # TensorStore puts the system's own words behind a long path.
  for number in (*_FULL, errno.EACCES):
    if os.strerror(number).lower() in text:
      return number
  return None


def _cause(error: BaseException) -> str:
  *_, error = [error, *chain(error)]
  if number := _refused(error):
    return f'{os.strerror(number)}, {errno.errorcode.get(number, str(number))}'
  text = ' '.join(str(error).split('[tensorstore_spec')[0].split())
  return f'{type(error).__name__}: {text[:300]}'


def space(path: str | os.PathLike[str]) -> str:
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
