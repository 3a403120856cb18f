"""Whether a file can be written, asked before the hours of work it is for."""

from __future__ import annotations

import os
import pathlib


def check(path: str, *, flag: str = 'out', local: bool = False) -> None:
  """Raises where a file could not be written later; writes nothing itself.

  Args:
    path: Of the file; folders on its way need not be there yet. A remote one
      ('gs://...') is not looked at.
    flag: That names it, for the message.
    local: Whether it must not be a remote one.

  Raises:
    ValueError: If it is a folder, or cannot be made where it is to be.
  """
  if '://' in path:
    if local:
      raise ValueError(f'--{flag}={path} must be a local or mounted file')
    return
  if os.path.isdir(path):
    raise ValueError(f'--{flag}={path} is a folder; name a file')
  folder = pathlib.Path(os.path.abspath(path)).parent
  try:
    while not _is_there(folder):
      folder = folder.parent
    if not folder.is_dir():
      raise NotADirectoryError(f'{folder} is no folder')
  except OSError as error:
    raise ValueError(f'--{flag}={path}: {error}; name another file') from error
  if not os.access(folder, os.W_OK | os.X_OK):
    raise ValueError(
      f'--{flag}={path}: {folder} is not writable; name another file'
    )


def _is_there(path: pathlib.Path) -> bool:
  """Whether the name is taken, be it by a link to nothing.

  Raises:
    OSError: If nothing can have that name.
  """
  try:
    path.lstat()
  except (FileNotFoundError, NotADirectoryError):
    return False
  return True
