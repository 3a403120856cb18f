"""A data set opened without a change to a folder that is another set's.

Sources keep what they found out (checked pictures, those that cannot be read)
in the folder they are given. While it is not known whether a folder's
embeddings are of these pictures, they get a copy of it.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import pathlib
import shutil
import tempfile
import uuid

from simclr_jax.data import cache
from simclr_jax.retrieval import embedding_files


@contextlib.contextmanager
def workdir(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """`out` where it holds nothing yet, else a folder for a while.

  Within `out`, as elsewhere it might lie among the pictures.
  """
  if not (out / embedding_files.STARTED).exists():
    yield out
    return
  try:
    kept = tempfile.TemporaryDirectory(
      dir=out, prefix=embedding_files.LOOKING, ignore_cleanup_errors=True
    )
  except OSError:  # A finished set may be read-only.
    kept = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
  with kept as name:
    copy = pathlib.Path(name)
    if (out / cache.FOLDER).is_dir():
      # Without what other processes have half written.
      shutil.copytree(
        out / cache.FOLDER,
        copy / cache.FOLDER,
        ignore=shutil.ignore_patterns('*.tmp'),
      )
    yield copy


def keep(looked: pathlib.Path, out: pathlib.Path) -> None:
  """Moves what was found out to `out`, whose embeddings are of this data."""
  if looked == out:
    return
  for file in sorted((looked / cache.FOLDER).glob('*')):
    target = out / cache.FOLDER / file.name
    # copytree keeps times: a file that is as it was is not written again.
    if target.exists() and target.stat().st_mtime_ns == file.stat().st_mtime_ns:
      continue
    target.parent.mkdir(exist_ok=True)
    hidden = target.with_name(f'{target.name}.{uuid.uuid4().hex}.tmp')
    try:
      shutil.copy2(file, hidden)
      hidden.replace(target)
    finally:
      hidden.unlink(missing_ok=True)
