"""Indexes over a set of embeddings; a new kind is a function and a line below.

  exact  every row is compared, chunk by chunk from the disk: nothing is kept
  ivf    FAISS, inverted lists: the rows near the closest of 4 sqrt(n) centres
  hnsw   FAISS, a graph of neighbours (Malkov and Yashunin 2018)

Approximate ones hold all vectors in memory (4 n d bytes; a PCA makes d small)
and are kept in SET/index. Each says what it was built of, and is refused for
anything else. FAISS reads its own binary format: the file is checked against
the hash that was written with it, which finds damage; open no index that
somebody else made, build it from their embeddings instead.
"""

from __future__ import annotations

from collections.abc import Callable
import difflib
import hashlib
import importlib
import os
import pathlib
from typing import Any, NamedTuple, Protocol
import uuid

from absl import logging
from jax.sharding import Mesh
import numpy as np

from simclr_jax.data.progress import Progress
from simclr_jax.evaluation import neighbours
from simclr_jax.evaluation.neighbours import Neighbours
from simclr_jax.retrieval import atomic
from simclr_jax.retrieval.embedding_set import EmbeddingSet
from simclr_jax.retrieval.views import CHUNK, View

FOLDER = 'index'
_FORMAT = 1
_LINKS, _EF_CONSTRUCTION = 32, 200
# FAISS wants 39 rows for a centre, and uses at most 256.
_LEAST_ROWS, _MOST_ROWS = 39, 256


class Options(NamedTuple):
  """How hard an approximate index looks.

  Attributes:
    num_probes: Inverted lists that are read; 0 for a sixteenth of them.
    ef_search: Candidates of the graph; at least k are taken.
  """

  num_probes: int = 0
  ef_search: int = 128


class Index(Protocol):
  """Finds the largest inner products."""

  def search(self, queries_QxD: np.ndarray, k: int) -> Neighbours:
    """Positions of the k best rows, -1 where an index found fewer."""


class Exact:
  """The house's own neighbours over rows that are read as they are needed."""

  def __init__(self, embeddings: EmbeddingSet, view: View, mesh: Mesh):
    self._bank, self._mesh = view.bank(embeddings), mesh

  def search(self, queries_QxD: np.ndarray, k: int) -> Neighbours:
    """See `Index`."""
    # The view has normalised what is to be normalised.
    return neighbours.nearest_neighbours(
      self._bank,
      queries_QxD,
      k=min(k, len(self._bank)),
      chunk_size=CHUNK,
      mesh=self._mesh,
      normalize=False,
    )


class Approximate:
  """A FAISS index in memory."""

  def __init__(self, index: Any, kind: str, options: Options):
    self._index, self._kind, self._options = index, kind, options

  def search(self, queries_QxD: np.ndarray, k: int) -> Neighbours:
    """See `Index`."""
    k = min(k, self._index.ntotal)
    if self._kind == 'hnsw':
      self._index.hnsw.efSearch = max(self._options.ef_search, k)
    else:
      probes = self._options.num_probes or -(-self._index.nlist // 16)
      self._index.nprobe = min(probes, self._index.nlist)
    queries = np.ascontiguousarray(queries_QxD, np.float32)
    similarity, position = self._index.search(queries, k)
    return Neighbours(similarity, position.astype(np.int64))


def _empty_ivf(faiss: Any, dim: int, num_rows: int) -> Any:
  lists = int(4 * np.sqrt(num_rows))
  lists = max(min(lists, num_rows // _LEAST_ROWS), 1)
  product = faiss.METRIC_INNER_PRODUCT
  index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, product)
  # A single centre for fewer rows is their mean: nothing to warn of.
  index.cp.min_points_per_centroid = min(_LEAST_ROWS, num_rows)
  return index


def _empty_hnsw(faiss: Any, dim: int, num_rows: int) -> Any:
  del num_rows
  index = faiss.IndexHNSWFlat(dim, _LINKS, faiss.METRIC_INNER_PRODUCT)
  index.hnsw.efConstruction = _EF_CONSTRUCTION
  return index


# (faiss, width, rows) -> an index without rows.
APPROXIMATE: dict[str, Callable[[Any, int, int], Any]] = {
  'ivf': _empty_ivf,
  'hnsw': _empty_hnsw,
}
KINDS = ('exact', *APPROXIMATE)


def open_index(
  embeddings: EmbeddingSet,
  view: View,
  *,
  kind: str,
  mesh: Mesh,
  options: Options | None = None,
  rebuild: bool = False,
) -> Index:
  """An index of a set, built and kept where there is none yet.

  Args:
    embeddings: Set.
    view: How its rows are compared.
    kind: One of KINDS.
    mesh: For exact search; devices of this process.
    options: For the others.
    rebuild: Do not use one that is there.

  Raises:
    ValueError: If the kind is unknown, FAISS is missing, or the index there is
      one of other embeddings.
  """
  options = options or Options()
  if kind == 'exact':
    return Exact(embeddings, view, mesh)
  if kind not in APPROXIMATE:
    close = difflib.get_close_matches(kind, KINDS, n=1)
    hint = f'did you mean {close[0]!r}? ' if close else ''
    raise ValueError(f'--index={kind}: {hint}known: {", ".join(KINDS)}')
  faiss = _faiss()
  path = embeddings.folder / FOLDER / f'{kind}-{view.name}.faiss'
  wanted = _description(embeddings, view, kind)
  earlier = embeddings.earlier
  index = None if rebuild else _read(faiss, path, wanted, earlier)
  if index is None:
    index = _build(faiss, embeddings, view, kind)
    _write(faiss, index, path, wanted)
  return Approximate(index, kind, options)


def _description(
  embeddings: EmbeddingSet, view: View, kind: str
) -> dict[str, Any]:
  transform = view.transform
  return {
    'format': _FORMAT,
    'kind': kind,
    'space': embeddings.identity.space,
    'embeddings': embeddings.identity.digest,
    'num_rows': len(embeddings),
    'view': view.name,
    'transform': None
    if transform is None
    else hashlib.sha256(transform.matrix.tobytes()).hexdigest()[:16],
  }


def _faiss() -> Any:
  """FAISS, with as many threads as this process has cores.

  Raises:
    ValueError: If it is not installed.
  """
  try:
    faiss = importlib.import_module('faiss')
  except ImportError as error:
    raise ValueError(
      f'--index other than exact needs FAISS, which cannot be imported '
      f"({error}): pip install '.[search]' in the clone, or pip install "
      'faiss-cpu; or use --index=exact'
    ) from error
  if hasattr(os, 'sched_getaffinity'):
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
  return faiss


def _build(faiss: Any, embeddings: EmbeddingSet, view: View, kind: str) -> Any:
  bank = view.bank(embeddings)
  width = bank[0:1].shape[1]
  index = APPROXIMATE[kind](faiss, width, len(bank))
  if not index.is_trained:
    index.train(_sample(bank, most=_MOST_ROWS * index.nlist))
  progress = Progress(f'Indexed ({kind})', len(bank), unit='embeddings')
  for rows in bank.chunks():
    index.add(np.ascontiguousarray(rows))
    progress.add(len(rows))
  return index


def _sample(bank: Any, *, most: int) -> np.ndarray:
  """At most `most` rows, the same each time, from everywhere in the set."""
  chosen = np.arange(len(bank))
  if len(bank) > most:
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(bank), most, replace=False))
  parts = []
  for start in range(0, len(bank), CHUNK):
    here = chosen[(chosen >= start) & (chosen < start + CHUNK)] - start
    if here.size:
      parts.append(bank[start : start + CHUNK][here])
  return np.concatenate(parts)


def _write(
  faiss: Any, index: Any, path: pathlib.Path, description: dict[str, Any]
) -> None:
  """The index, then what it is: without that it is not read."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.with_suffix('.json').unlink(missing_ok=True)
  hidden = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.tmp')
  try:
    faiss.write_index(index, str(hidden))
    digest = _hash(hidden)
    os.replace(hidden, path)
  finally:
    hidden.unlink(missing_ok=True)
  atomic.write_json(
    path.with_suffix('.json'),
    {**description, 'sha256': digest, 'faiss': faiss.__version__},
  )


def _read(
  faiss: Any,
  path: pathlib.Path,
  wanted: dict[str, Any],
  earlier: frozenset[str],
) -> Any | None:
  """The index; None where there is none, or it is damaged or of fewer rows.

  Raises:
    ValueError: If it is one of other embeddings.
  """
  stated = path.with_suffix('.json')
  if not stated.exists() or not path.exists():
    return None
  try:
    found = atomic.read_json(stated)
  except ValueError as error:
    logging.warning('%s; the index is built again', error)
    return None
  if str(found.get('embeddings')) in earlier:
    logging.info(
      'pictures were added since %s was built; it is built anew', path
    )
    return None
  differing = [name for name in wanted if found.get(name) != wanted[name]]
  if differing:
    what = 'another checkpoint' if 'space' in differing else 'other embeddings'
    raise ValueError(
      f'{path} is an index of {what} ({", ".join(differing)} differ): its '
      'answers would be other pictures; delete it, or give --rebuild'
    )
  if found.get('sha256') != _hash(path):
    logging.warning('%s is damaged; it is built again', path)
    return None
  return faiss.read_index(str(path))


def _hash(path: pathlib.Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
