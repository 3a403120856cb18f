"""Files that save time on the next start: record indices, folder scans.

They can be deleted at any time; their names hold a key of what they were made
from, and they are written whole or not at all, so a stale or half-written one
is never read.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
import zipfile

from absl import logging
from etils import epath
import numpy as np

from simclr_jax import home, retries

FOLDER = 'data_cache'


def stamp(status: os.stat_result) -> tuple[int, int, int, int]:
  """Part of a key that differs after any write to a file.

  Size and time of modification may be kept by a write (`rsync -t`, `cp -p`),
  the time of the last change of the inode cannot. A copy has another stamp, so
  it belongs in no fingerprint.
  """
  return (
    status.st_size,
    status.st_mtime_ns,
    status.st_ctime_ns,
    status.st_ino,
  )


def folder(workdir: epath.PathLike | None) -> pathlib.Path:
  """Where to keep them: inside a local workdir, else with the user's caches.

  Args:
    workdir: Of the run; a remote one ('gs://...') cannot hold local files.
  """
  local = '' if workdir is None else os.fspath(workdir)
  if local and '://' not in local:
    return pathlib.Path(local) / FOLDER
  return home.cache_folder()


def save(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
  """Writes an .npz atomically; says so and goes on where it cannot.

  Losing a cache costs time, not correctness, so a full or read-only disk does
  not stop a run.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix='.tmp')
    try:
      with os.fdopen(handle, 'wb') as file:
        np.savez(file, allow_pickle=False, **arrays)
      os.replace(temporary, path)
    except BaseException:
      os.unlink(temporary)
      raise
  except OSError as error:
    logging.warning(
      'Could not write %s (%s); the next start repeats this work', path, error
    )


def load(path: pathlib.Path) -> dict[str, np.ndarray] | None:
  """Arrays of an .npz, or None if there is none that can be read.

  Raises:
    retries.DataAway: If the system does not let it be read for now: what it
      holds may have taken hours.
  """
  return retries.retry(
    lambda: _load(path), what=str(path), passing=retries.may_pass
  )


def _load(path: pathlib.Path) -> dict[str, np.ndarray] | None:
  try:
    # Opened here: NumPy leaves a file open that is no archive.
    with (
      open(path, 'rb') as handle,
      np.load(handle, allow_pickle=False) as file,
    ):
      return dict(file)
  except FileNotFoundError:
    return None
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    if retries.may_pass(error):
      raise
    refused = isinstance(error, OSError) and error.errno
    what = 'which cannot be read' if refused else 'which is damaged'
    logging.warning('Not using %s, %s: %s', path, what, error)
    return None
