"""A set of embeddings on disk: Parquet shards that appear whole or not at all.

  OUT/part-00000-of-00012.parquet  id, path, h, z, label of source rows
                                   [k * shard_rows, (k + 1) * shard_rows)
  OUT/embedding_run.json           what is being computed, from the start on
  OUT/embeddings.json              the same and what came out, once all is there
  OUT/skipped_files.txt            pictures that could not be read, and why
  OUT/added-00001-.../             the same for pictures that were added later

`id` is the row of the source, so that of every picture; rows of bad pictures
are missing, and ids of what is added follow. A shard is written under a hidden
name and renamed: one that is there is complete, and says in its own metadata
what it holds and of what. So whatever is killed at whatever moment, the same
command continues.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import fcntl
import pathlib
import shutil
import time
from typing import Any

from absl import logging

from simclr_jax import writes
from simclr_jax.data import cache
from simclr_jax.data.names import printable
from simclr_jax.data.sources import parquet_schema
from simclr_jax.retrieval import atomic, members, shards
from simclr_jax.retrieval.identity import Identity, identity_from_json

STARTED, MANIFEST = 'embedding_run.json', 'embeddings.json'
SKIPPED = 'skipped_files.txt'
LOOKING = '.looking-'  # what `opening.workdir` makes
_OLD_SECONDS, _RECENT_SECONDS = 24 * 3600.0, 60.0


def claim(out: pathlib.Path, identity: Identity, about: Any) -> None:
  """Makes the folder ours, or finds that it already is.

  Args:
    out: Folder; made if it is not there.
    identity: What will be in it.
    about: For people and later commands, not compared.

  Raises:
    ValueError: If it holds something else, naming what differs.
  """
  file = out / STARTED
  if file.exists():
    before = identity_from_json(
      atomic.read_json(file).get('identity'), where=str(file)
    )
    check_same(before, identity, out, hint=_hint(out, about))
    if is_grown(out):
      raise ValueError(
        f'--out={out} has been added to since it held these pictures alone: '
        'put the others back and give --add, or embed into a new --out'
      )
    return
  check_free(out)
  out.mkdir(parents=True, exist_ok=True)
  atomic.write_json(file, {'identity': identity.to_json(), **about})


def check_free(out: pathlib.Path) -> None:
  """Raises ValueError if a folder holds anything but embeddings.

  Also for before the pictures are looked at, which leaves a cache in it.
  """
  if (out / STARTED).exists() or not out.exists():
    return
  # The check of a folder of pictures may have been here first.
  ours = {SKIPPED, cache.FOLDER}
  names = sorted(path.name for path in out.iterdir())
  if others := [name for name in names if name not in ours]:
    raise ValueError(
      f'--out={out} is not empty and holds no embeddings ({others[:5]}); name '
      'a new folder'
    )


def is_grown(out: pathlib.Path) -> bool:
  """Whether pictures have been added to the set in a folder."""
  file = out / MANIFEST
  try:
    return file.exists() and members.is_grown(atomic.read_json(file))
  except ValueError as error:
    raise ValueError(
      f'{error}; if nothing was ever added to {out}, delete it, and the same '
      'command writes it anew'
    ) from error


def _hint(out: pathlib.Path, about: Any) -> str:
  """What may be meant where the pictures are others than before."""
  source = about.get('input', {}).get('data', {}).get('source')
  if source != 'folder':
    return ''
  if not (out / MANIFEST).exists():
    return (
      '. (If pictures were added: the set must be finished with the old ones '
      'alone before --add embeds them)'
    )
  return '. If pictures were added, --add embeds those alone'


def check_same(
  before: Identity,
  now: Identity,
  out: pathlib.Path,
  *,
  ignore: Sequence[str] = (),
  hint: str = '',
) -> None:
  """Raises ValueError unless two identities are the same, naming what differs.

  Args:
    before: Of what is in `out`.
    now: Of what is to be there.
    out: Folder.
    ignore: Fields that may differ.
    hint: Added where nothing but the pictures differs.
  """
  old, new = before.to_json(), now.to_json()
  reasons = {
    'space': 'another checkpoint, step or preprocessing',
    'source': 'the pictures have changed',
  }
  changed = {
    name: reasons.get(name, f'{name}: {old[name]} -> {new[name]}')
    for name in new
    if old[name] != new[name] and name not in ignore
  }
  if changed:
    lines = '\n'.join(f'  - {line}' for line in changed.values())
    raise ValueError(
      f'--out={out} holds embeddings of something else; to continue would mix '
      f'the two:\n{lines}\nName a new folder, or delete this one'
      + (hint if changed.keys() <= {'source', 'num_examples'} else '')
    )


def complete_shard(
  folder: pathlib.Path, identity: Identity, shard: int
) -> shards.Shard | None:
  """The shard if it is there and whole; one that is damaged counts as absent.

  Raises:
    ValueError: If pyarrow is missing.
  """
  path = folder / identity.file_name(shard)
  if not path.exists():
    return None
  parquet_schema.pyarrow()
  try:
    return shards.open_shard(path, identity, shard)
  except ValueError as error:
    logging.warning('%s; it is computed again', error)
    return None


def write_skipped(folder: pathlib.Path, bad: Sequence[tuple[str, str]]) -> None:
  """Lists (path, reason), one a line; without any there is no file."""
  if not bad:
    (folder / SKIPPED).unlink(missing_ok=True)
    return
  lines = (f'{printable(path)}\t{printable(why)}\n' for path, why in bad)
  content = ''.join(lines).encode()
  with contextlib.suppress(OSError):
    if (folder / SKIPPED).read_bytes() == content:
      return
  writes.whole(folder / SKIPPED, content)


def is_being_written(folder: pathlib.Path) -> bool:
  """Whether another command computes a shard of it, or did just now."""
  for path in folder.glob(f'{shards.HIDDEN}*.tmp'):
    with contextlib.suppress(OSError), open(path, 'r+b') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        return True
  with contextlib.suppress(OSError):
    # Between two shards nothing is locked.
    return time.time() - folder.stat().st_mtime < _RECENT_SECONDS
  return False


def remove_unfinished(folder: pathlib.Path) -> None:
  """Removes what killed processes have left; once every shard is there."""
  for path in folder.glob(f'{shards.HIDDEN}*.tmp'):
    # One that is locked is being written by another command.
    with contextlib.suppress(OSError), open(path, 'r+b') as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      path.unlink(missing_ok=True)
  for path in folder.glob(f'{LOOKING}*'):
    with contextlib.suppress(OSError):
      # One of today may be in use.
      if time.time() - path.stat().st_mtime > _OLD_SECONDS:
        shutil.rmtree(path, ignore_errors=True)
