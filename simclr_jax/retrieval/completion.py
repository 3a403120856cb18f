"""The end of embedding: all shards are there, and the set says so."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import time
from typing import Any, NamedTuple

import jax

from simclr_jax import processes
from simclr_jax.data.source import Source
from simclr_jax.retrieval import atomic, embedding_files, shards
from simclr_jax.retrieval.identity import Identity
from simclr_jax.training import provenance

# Longest wait until a file of another host shows here.
_VISIBLE_SECONDS = 70.0


class Embedded(NamedTuple):
  """What lies in the folder now.

  Attributes:
    folder: Of the set.
    num_rows: Embeddings.
    bad: (path, reason) of pictures without; known to process 0.
    num_computed: Rows that this command computed, on all hosts; the others were
      there already.
  """

  folder: pathlib.Path
  num_rows: int
  bad: tuple[tuple[str, str], ...]
  num_computed: int


def finish(
  out: pathlib.Path,
  identity: Identity,
  about: dict[str, Any],
  source: Source,
  *,
  missing: Sequence[int],
) -> Embedded:
  """Waits for all, then process 0 says that the set is complete."""
  with processes.together():
    pass  # every process has written its shards, or all of them fail here
  embedded = Embedded(out, 0, (), 0)
  with processes.together():
    if jax.process_index() == 0:
      embedded = _conclude(out, identity, about, source, missing=missing)
  num_rows, num_computed = processes.from_first(
    [embedded.num_rows, embedded.num_computed]
  )
  return embedded._replace(num_rows=num_rows, num_computed=num_computed)


def _conclude(
  out: pathlib.Path,
  identity: Identity,
  about: dict[str, Any],
  source: Source,
  *,
  missing: Sequence[int],
) -> Embedded:
  """Reads what every shard says, and writes the description of the set."""
  _wait_for_shards(out, identity)
  all_shards = [
    shards.open_shard(out / identity.file_name(k), identity, k)
    for k in range(identity.num_shards)
  ]
  num_rows = sum(shard.num_rows for shard in all_shards)
  bad = [*source.skipped]
  bad += [(b.path, b.reason) for shard in all_shards for b in shard.bad]
  if not num_rows:
    raise ValueError(
      f'no picture of {source.name} could be read; the first: {bad[0]}'
    )
  embedding_files.write_skipped(out, bad)
  if missing or not (out / embedding_files.MANIFEST).exists():
    result = {
      'num_rows': num_rows,
      'rows_of_shards': [shard.num_rows for shard in all_shards],
      'num_bad': len(bad),
      'devices': sorted({shard.device for shard in all_shards}),
    }
    manifest = {'identity': identity.to_json(), **about, **result}
    atomic.write_json(
      out / embedding_files.MANIFEST, manifest | provenance.made_by()
    )
  embedding_files.remove_unfinished(out)
  computed = sum(all_shards[k].num_rows for k in missing)
  return Embedded(out, num_rows, tuple(bad), computed)


def _wait_for_shards(out: pathlib.Path, identity: Identity) -> None:
  """Until files of other hosts show here: NFS keeps what it has seen.

  Raises:
    ValueError: If they do not.
  """
  deadline = time.monotonic() + _VISIBLE_SECONDS
  while True:
    absent = [
      name
      for name in map(identity.file_name, range(identity.num_shards))
      if not (out / name).exists()
    ]
    if not absent:
      return
    if time.monotonic() > deadline:
      raise ValueError(
        f'{len(absent)} of {identity.num_shards} files that other processes '
        f'have written are not in {out} ({absent[0]}): --out must be one '
        'folder for all of them'
      )
    time.sleep(0.5)
