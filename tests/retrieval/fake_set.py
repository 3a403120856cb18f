"""Sets of given vectors, written as simclr_jax.embed writes them."""

from __future__ import annotations

import pathlib

import numpy as np

from simclr_jax.retrieval import atomic, embedding_files, shards
from simclr_jax.retrieval.embedding_set import EmbeddingSet
from simclr_jax.retrieval.identity import Identity


def write(
  folder: pathlib.Path,
  h: np.ndarray,
  *,
  z: np.ndarray | None = None,
  labels: np.ndarray | None = None,
  shard_rows: int = 1000,
  bad: tuple[int, ...] = (),
  space: str = 'a space',
  source: str = 'a source',
  dtype: str = 'float32',
  about: dict | None = None,
) -> EmbeddingSet:
  """A complete set; `bad` rows are left out."""
  vectors = {'h': h} if z is None else {'h': h, 'z': z}
  identity = Identity(
    space=space,
    source=source,
    num_examples=len(h),
    dims={name: rows.shape[1] for name, rows in vectors.items()},
    dtype=dtype,
    normalized=False,
    num_classes=0 if labels is None else int(labels.max()) + 1,
    shard_rows=shard_rows,
  )
  folder.mkdir(exist_ok=True)
  counts = []
  for shard in range(identity.num_shards):
    span = np.array(identity.span(shard))
    good = np.setdiff1d(span, bad)
    with shards.shard_writer(folder, identity, shard) as writer:
      missing = sorted(set(span.tolist()) & set(bad))
      writer.bad = [shards.Bad(i, f'{i}.jpg', 'broken') for i in missing]
      writer.add(
        shards.Rows(
          good,
          [f'{i}.jpg' for i in good],
          None if labels is None else labels[good],
          {name: rows[good] for name, rows in vectors.items()},
        )
      )
    counts.append(len(good))
  atomic.write_json(
    folder / embedding_files.MANIFEST,
    {
      'identity': identity.to_json(),
      'rows_of_shards': counts,
      **(about or {}),
    },
  )
  return EmbeddingSet(folder)
