"""Parts of a source: some of its examples, or all without some labels."""

from __future__ import annotations

import collections
from collections.abc import Iterator
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
_DECISIVE = 4096  # Records from which a data set is judged.


def take(source: Source, rows: np.ndarray, *, name: str) -> Source:
  """The examples at `rows` (int64 [k]), in that order.

  Args:
    source: Of all.
    rows: Places in it, each at most once.
    name: What the part is, for people; stands behind the source's name.
  """
  rows, known = np.asarray(rows, np.int64), source.label_fn
  return dataclasses.replace(
    source,
    name=f'{source.name}, {name}',
    num_examples=len(rows),
    read=lambda i: source.read(int(rows[i])),
    example_id=lambda i: source.example_id(int(rows[i])),
    fingerprint=_digest(source, b'take', rows),
    label_fn=known and (lambda i: known(int(rows[i]))),
  )


def hide_labels(source: Source, shown: np.ndarray) -> Source:
  """All examples, of which only those at `shown` (int64 [k]) have a label."""
  visible = np.zeros(source.num_examples, bool)
  visible[shown] = True
  known = source.label_fn

  def read(i: int) -> Example:
    image, label = source.read(i)
    return Example(image, label if visible[i] else NO_LABEL)

  return dataclasses.replace(
    source,
    name=f'{source.name}, {len(shown)} of the labels',
    read=read,
    fingerprint=_digest(source, b'hide', np.sort(shown)),
    label_fn=known and (lambda i: known(i) if visible[i] else NO_LABEL),
  )


def label_of(source: Source, i: int) -> int:
  """Label of an example; reads its image only where it stands beside it.

  Raises:
    ValueError: If it cannot be read; the message names the example.
  """
  if source.label_fn is not None:
    return source.label_fn(i)
  return reading.read(source, i).label


def some_labels(source: Source, *, examples: int, classes: int) -> list[int]:
  """Labels of a source, looked at in a random order until these are enough.

  Args:
    source: Whose.
    examples: Labels that are enough,
    classes: if they are of so many classes.
  """
  found: list[int] = []
  kinds: set[int] = set()
  for label in _at_random(source):
    if label != NO_LABEL:
      found.append(label)
      kinds.add(label)
    if len(found) >= examples and len(kinds) >= classes:
      break
  return found


def tells_classes(source: Source) -> bool:
  """Whether two classes occur among the labels.

  Taken for granted where labels stand in the records.
  """
  if source.label_fn is None or source.num_classes < 2:
    return source.num_classes > 1
  return len(set(some_labels(source, examples=1, classes=2))) > 1


def describe_labels(source: Source, *, num_classes: int) -> str:
  """'10 classes', and how many occur and have a label where not all do.

  Args:
    source: Whose labels.
    num_classes: Numbered by the data set; 0 without labels.
  """
  if not num_classes:
    return 'no labels'
  text = f'{num_classes} class' + ('' if num_classes == 1 else 'es')
  if source.label_fn is None:
    return text
  label_n = read_labels(source)
  labels = label_n[label_n != NO_LABEL]
  if (number := len(np.unique(labels))) < num_classes:
    text = f'{number} of {text} occur'
  if len(labels) < len(label_n):
    text += f', {len(labels):,} labels'
  return text


def are_complete(source: Source) -> bool:
  """Whether every example has a label, and every class an example.

  Without `Source.label_fn` some thousand records decide, drawn at random, and
  more until every class has been seen: reading all of them can take an hour.
  """
  kinds: set[int] = set()
  most = source.num_examples if source.label_fn else _DECISIVE
  for count, label in enumerate(_at_random(source), start=1):
    if label == NO_LABEL:
      return False
    kinds.add(label)
    if count >= most and len(kinds) == source.num_classes:
      return True
  return len(kinds) == source.num_classes


def _at_random(source: Source) -> Iterator[int]:
  """All labels, in a random order."""
  rows = np.random.default_rng(0).permutation(source.num_examples)
  for labels in _labels_at(source, rows, size=32):
    yield from labels.tolist()


def _labels_at(
  source: Source, rows: np.ndarray, *, size: int
) -> Iterator[np.ndarray]:
  """Labels at `rows`, `size` at a time, in their order; read by threads."""

  def read(start: int) -> np.ndarray:
    some = rows[start : start + size].tolist()
    return np.array([label_of(source, i) for i in some], np.int32)

  starts = range(0, len(rows), size)
  if source.label_fn is not None:
    yield from map(read, starts)
    return
  # Not far ahead: a sample is soon large enough.
  ahead: collections.deque[futures.Future[np.ndarray]] = collections.deque()
  with futures.ThreadPoolExecutor(_THREADS, 'labels') as executor:
    for start in starts:
      ahead.append(executor.submit(read, start))
      if len(ahead) > _THREADS:
        yield ahead.popleft().result()
    while ahead:
      yield ahead.popleft().result()


def labelled(source: Source, label_n: np.ndarray | None = None) -> Source:
  """The examples with a label; the source itself where all or none have one.

  Args:
    source: Of all.
    label_n: Its labels. Default: those that are known without the images; the
      source itself where they are not.
  """
  if label_n is None:
    if source.label_fn is None:
      return source
    label_n = read_labels(source)
  rows = np.flatnonzero(label_n != NO_LABEL)
  if len(rows) in (0, source.num_examples):
    return source
  name = f'{len(rows):,} of {source.num_examples:,} with a label'
  return take(source, rows, name=name)


def read_labels(
  source: Source, *, workdir: epath.PathLike | None = None
) -> np.ndarray:
  """int32 [n], NO_LABEL where there is none; read once, then kept.

  Without `Source.label_fn` a label stands beside its picture, so all pictures
  are read (not decoded): minutes for ImageNet on a fast disk.

  Args:
    source: Whose.
    workdir: Where they are kept, see `cache.folder`.

  Raises:
    ValueError: If an example cannot be read; it names it.
  """
  everything = np.arange(source.num_examples)
  if source.label_fn is not None:
    return next(_labels_at(source, everything, size=source.num_examples))
  key = hashlib.sha256(source.cache_key.encode()).hexdigest()[:32]
  path = cache.folder(workdir) / f'labels_{key}.npz'
  kept = cache.load(path)
  if kept is not None and len(kept.get('labels', ())) == source.num_examples:
    return kept['labels']
  progress, parts = Progress('Read', source.num_examples, unit='labels'), []
  for part in _labels_at(source, everything, size=_CHUNK):
    parts.append(part)
    progress.add(len(part))
  labels = np.concatenate(parts)
  cache.save(path, {'labels': labels})
  return labels


def _digest(source: Source, what: bytes, rows: np.ndarray) -> str:
  digest = hashlib.sha256(source.fingerprint.encode() + what)
  digest.update(np.asarray(rows, '<i8').tobytes())
  return digest.hexdigest()
