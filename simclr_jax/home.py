"""Finds a folder for the user's caches, also for a user without a home.

A container that is started with a number as its user has neither HOME nor an
entry in passwd; then caches lie in a folder of this user among the temporary
ones.
"""

from __future__ import annotations

import getpass
import os
import pathlib
import tempfile

from simclr_jax import paths


def cache_folder() -> pathlib.Path:
  """`$XDG_CACHE_HOME/simclr_jax`, by default `~/.cache/simclr_jax`.

  Raises:
    OSError: If there is no home, and the temporary folder of this user belongs
      to somebody else or cannot be made.
  """
  if base := os.environ.get('XDG_CACHE_HOME'):
    return pathlib.Path(paths.read(base)) / 'simclr_jax'
  home = _home()
  if home is None or not _is_writable(home / '.cache' / 'simclr_jax'):
    return _temporary_home() / '.cache' / 'simclr_jax'
  return home / '.cache' / 'simclr_jax'


def provide() -> None:
  """Sets HOME and USER where this user has none: libraries ask for both."""
  if _home() is None:
    os.environ['HOME'] = str(_temporary_home())
  try:
    getpass.getuser()
  except (KeyError, OSError):
    os.environ['USER'] = str(os.getuid())


def _home() -> pathlib.Path | None:
  if os.environ.get('HOME') == '':
    del os.environ['HOME']
  try:
    return pathlib.Path.home()
  except RuntimeError:
    return None


def _temporary_home() -> pathlib.Path:
  folder = pathlib.Path(tempfile.gettempdir()) / f'simclr_jax-{os.getuid()}'
  folder.mkdir(mode=0o700, exist_ok=True)
  if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
    raise PermissionError(
      f'{folder} belongs to another user; name a folder for caches by the '
      'environment variable XDG_CACHE_HOME'
    )
  return folder


def _is_writable(folder: pathlib.Path) -> bool:
  """Whether a folder that need not be there can be made and written."""
  while not folder.exists() and folder != folder.parent:
    folder = folder.parent
  return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
