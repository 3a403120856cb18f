"""A set of embeddings on disk: Parquet shards that appear whole or not at all.

  OUT/part-00000-of-00012.parquet  id, path, h, z, label of source rows
                                   [k * shard_rows, (k + 1) * shard_rows)
  OUT/embedding_run.json           what is being computed, from the start on
  OUT/embeddings.json              the same and what came out, once all is there
  OUT/skipped_files.txt            pictures that could not be read, and why

`id` is the row of the source, so that of every picture; rows of bad pictures
are missing. A shard is written under a hidden name and renamed: one that is
there is complete, and says in its own metadata what it holds and of what. So
whatever is killed at whatever moment, the same command continues.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import fcntl
import pathlib
from typing import Any

from absl import logging

from simclr_jax.data.names import printable
from simclr_jax.data.sources import parquet_schema
from simclr_jax.retrieval import atomic, shards
from simclr_jax.retrieval.identity import Identity, identity_from_json

STARTED, MANIFEST = 'embedding_run.json', 'embeddings.json'
SKIPPED = 'skipped_files.txt'


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
    _check_same(before, identity, out)
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
  ours = {SKIPPED, 'data_cache'}
  names = sorted(path.name for path in out.iterdir())
  if others := [name for name in names if name not in ours]:
    raise ValueError(
      f'--out={out} is not empty and holds no embeddings ({others[:5]}); name '
      'a new folder'
    )


def _check_same(before: Identity, now: Identity, out: pathlib.Path) -> None:
  old, new = before.to_json(), now.to_json()
  reasons = {
    'space': 'another checkpoint, step or preprocessing',
    'source': 'the pictures have changed',
  }
  changed = [
    reasons.get(name, f'{name}: {old[name]} -> {new[name]}')
    for name in new
    if old[name] != new[name]
  ]
  if changed:
    lines = '\n'.join(f'  - {line}' for line in changed)
    raise ValueError(
      f'--out={out} holds embeddings of something else; to continue would mix '
      f'the two:\n{lines}\nName a new folder, or delete this one'
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
  """Lists (path, reason), one a line."""
  lines = (f'{printable(path)}\t{printable(why)}\n' for path, why in bad)
  atomic.write_atomically(folder / SKIPPED, ''.join(lines).encode())


def remove_unfinished(folder: pathlib.Path) -> None:
  """Removes what killed processes have left; once every shard is there."""
  for path in folder.glob(f'{shards.HIDDEN}*.tmp'):
    # One that is locked is being written by another command.
    with contextlib.suppress(OSError), open(path, 'r+b') as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      path.unlink(missing_ok=True)
