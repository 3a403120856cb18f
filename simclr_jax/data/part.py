"""Parts of a source: some of its examples, or all without some labels."""

from __future__ import annotations

from concurrent import futures
import dataclasses
import hashlib

from etils import epath
import numpy as np

from simclr_jax.data import cache, reading
from simclr_jax.data.progress import Progress
from simclr_jax.data.source import NO_LABEL, Example, Source

_CHUNK = 256
_THREADS = 16


def take(source: Source, rows: np.ndarray, *, name: str) -> Source:
  """The examples at `rows` (int64 [k]), in that order.

  Args:
    source: Of all.
    rows: Places in it, each at most once.
    name: What the part is, for people; stands behind the source's name.
  """
  rows = np.asarray(rows, np.int64)
  return dataclasses.replace(
    source,
    name=f'{source.name}, {name}',
    num_examples=len(rows),
    read=lambda i: source.read(int(rows[i])),
    example_id=lambda i: source.example_id(int(rows[i])),
    fingerprint=_digest(source, b'take', rows),
  )


def hide_labels(source: Source, shown: np.ndarray) -> Source:
  """All examples, of which only those at `shown` (int64 [k]) have a label."""
  visible = np.zeros(source.num_examples, bool)
  visible[shown] = True

  def read(i: int) -> Example:
    image, label = source.read(i)
    return Example(image, label if visible[i] else NO_LABEL)

  return dataclasses.replace(
    source,
    name=f'{source.name}, {len(shown)} of the labels',
    read=read,
    fingerprint=_digest(source, b'hide', np.sort(shown)),
  )


def read_labels(
  source: Source, *, workdir: epath.PathLike | None = None
) -> np.ndarray:
  """int32 [n], NO_LABEL where there is none; read once, then kept.

  A label stands beside its picture, so all pictures are read (not decoded):
  minutes for ImageNet on a fast disk.

  Args:
    source: Whose.
    workdir: Where they are kept, see `cache.folder`.

  Raises:
    ValueError: If an example cannot be read; it names it.
  """
  key = hashlib.sha256(source.cache_key.encode()).hexdigest()[:32]
  path = cache.folder(workdir) / f'labels_{key}.npz'
  kept = cache.load(path)
  if kept is not None and len(kept.get('labels', ())) == source.num_examples:
    return kept['labels']
  labels = np.empty(source.num_examples, np.int32)
  progress = Progress('Read', source.num_examples, unit='labels')

  def read(start: int) -> int:
    stop = min(start + _CHUNK, source.num_examples)
    for i in range(start, stop):
      labels[i] = reading.read(source, i).label
    return stop - start

  with futures.ThreadPoolExecutor(_THREADS, 'labels') as executor:
    for count in executor.map(read, range(0, source.num_examples, _CHUNK)):
      progress.add(count)
  cache.save(path, {'labels': labels})
  return labels


def _digest(source: Source, what: bytes, rows: np.ndarray) -> str:
  digest = hashlib.sha256(source.fingerprint.encode() + what)
  digest.update(np.asarray(rows, '<i8').tobytes())
  return digest.hexdigest()
