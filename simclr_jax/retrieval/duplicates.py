"""Pictures that are there more than once, or nearly.

Two pictures are linked if the cosine of their embeddings reaches a threshold;
groups are what links connect. Within a group, files with the same bytes are
told apart from those that only look alike. Each picture is compared with all
others by its k nearest alone, block by block, so memory is k numbers a picture
and never n x n; copies beyond k are connected through those they share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
from typing import Any

from jax.sharding import Mesh
import numpy as np

from simclr_jax.data.progress import Progress
from simclr_jax.evaluation.neighbours import (
  Bank,
  Neighbours,
  nearest_neighbours,
)
from simclr_jax.retrieval import pictures, sheets, vectors
from simclr_jax.retrieval.embedding_set import EmbeddingSet

_BLOCK = 8192  # pictures that are searched for at a time
_SAMPLE = 2048  # pictures from which a threshold is taken
_CLOSE = 0.1  # of the median distance to the nearest other picture
_QUANTILES = (0.5, 0.9, 0.99, 0.999)

# (queries f32 [Q, D], k) -> the k largest inner products.
SearchFn = Callable[[np.ndarray, int], Neighbours]


@dataclasses.dataclass(frozen=True)
class Group:
  """Pictures that are linked.

  Attributes:
    positions: Rising.
    least: Smallest of the members' similarities to their nearest member.
    identical: Parts of it with the same bytes, each of two or more.
  """

  positions: tuple[int, ...]
  least: float
  identical: tuple[tuple[int, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class Found:
  """All groups of a set.

  Attributes:
    groups: Largest similarity first.
    num_pictures: That were compared.
    quantiles: Share of pictures -> the similarity to their nearest other
      picture that so many stay below: what a threshold has to be above.
    threshold: Least cosine of a link.
  """

  groups: tuple[Group, ...]
  num_pictures: int
  quantiles: dict[float, float]
  threshold: float

  @property
  def num_members(self) -> int:
    """Pictures in groups."""
    return sum(len(group.positions) for group in self.groups)

  @property
  def num_redundant(self) -> int:
    """Pictures that would go if one of each group stayed."""
    return self.num_members - len(self.groups)

  @property
  def num_identical(self) -> int:
    """Of them, those with the same bytes as another."""
    return sum(
      len(part) - 1 for group in self.groups for part in group.identical
    )


def suggest_threshold(bank_nxD: Bank, search_fn: SearchFn) -> float:
  """A cosine that unrelated pictures of this encoder seldom reach.

  No fixed one serves: the nearest of two thousand different pictures has .7
  with one encoder and .99 with another. Copies are closer than that by far, so:
  a tenth of the median distance (1 - cosine) to the nearest other picture, of a
  sample of pictures.

  Args:
    bank_nxD: Rows of length one.
    search_fn: Searches among them.
  """
  size = len(bank_nxD)
  own = np.unique(np.linspace(0, size - 1, min(size, _SAMPLE)).astype(int))
  queries = np.concatenate([bank_nxD[i : i + 1] for i in own.tolist()])
  found = search_fn(queries, min(2, size))
  other = (found.index_Qxk != own[:, None]) & (found.index_Qxk >= 0)
  nearest = np.where(other, found.similarity_Qxk, -1).max(1)
  return float(1 - max(1 - np.median(nearest), 0) * _CLOSE)


def check(threshold: float, k: int) -> None:
  """Raises ValueError if a number is out of range."""
  if not -1 < threshold <= 1 or k < 1:
    raise ValueError(
      f'--threshold={threshold} --k={k}: a cosine in (-1, 1] and at least 1 '
      'are wanted'
    )


def find_groups(
  bank_nxD: Bank, search_fn: SearchFn, *, threshold: float, k: int = 10
) -> Found:
  """Groups by similarity alone.

  Args:
    bank_nxD: Rows of length one.
    search_fn: Searches among them.
    threshold: Least cosine of a link, in (-1, 1].
    k: Nearest others of each picture that are looked at.

  Raises:
    ValueError: If a number is out of range.
  """
  check(threshold, k)
  size = len(bank_nxD)
  parent = np.arange(size)
  nearest = np.full(size, -1.0, np.float32)
  progress = Progress('Compared', size)
  for start in range(0, size, _BLOCK):
    queries = bank_nxD[start : start + _BLOCK]
    # One more, for the picture itself; copies of it may stand before it.
    found = search_fn(queries, min(k + 1, size))
    own = start + np.arange(len(queries))
    other = (found.index_Qxk != own[:, None]) & (found.index_Qxk >= 0)
    similarity = np.where(other, found.similarity_Qxk, -1)
    nearest[own] = similarity.max(1, initial=-1)
    # Cosines of equal vectors are one up to rounding.
    for row, column in np.argwhere(similarity >= threshold - 1e-6):
      _join(parent, int(own[row]), int(found.index_Qxk[row, column]))
    progress.add(len(queries))
  roots = np.array([_root(parent, i) for i in range(size)])
  order = np.argsort(roots, kind='stable')
  cuts = np.flatnonzero(np.diff(roots[order])) + 1
  groups = [
    Group(tuple(part.tolist()), float(nearest[part].min()))
    for part in np.split(order, cuts)
    if len(part) > 1
  ]
  return Found(
    tuple(sorted(groups, key=lambda g: (-g.least, g.positions))),
    size,
    {q: float(np.quantile(nearest, q)) for q in _QUANTILES},
    threshold,
  )


def find_in_features(
  features_nxD: np.ndarray,
  *,
  mesh: Mesh,
  threshold: float | None = None,
  k: int = 10,
) -> Found:
  """Groups among features in memory, for reports on a data set.

  Args:
    features_nxD: h of any lengths, as `evaluation.features` gives it.
    mesh: Axis 'data'.
    threshold: Least cosine of a link; None for that of `suggest_threshold`.
    k: As for `find_groups`.
  """
  bank_nxD = vectors.l2_normalize(features_nxD)

  def search(queries_QxD: np.ndarray, k: int) -> Neighbours:
    return nearest_neighbours(
      bank_nxD, queries_QxD, k=k, chunk_size=_BLOCK, mesh=mesh
    )

  if threshold is None:
    threshold = suggest_threshold(bank_nxD, search)
  return find_groups(bank_nxD, search, threshold=threshold, k=k)


def _root(parent: np.ndarray, i: int) -> int:
  while parent[i] != i:
    parent[i] = parent[parent[i]]
    i = int(parent[i])
  return i


def _join(parent: np.ndarray, i: int, j: int) -> None:
  i, j = sorted((_root(parent, i), _root(parent, j)))
  parent[j] = i


def tell_identical(
  found: Found,
  embeddings: EmbeddingSet,
  read: Callable[[Any], bytes | np.ndarray],
) -> Found:
  """Adds which members have the same bytes.

  Args:
    found: Groups.
    embeddings: Set that they are of.
    read: Row of the set -> stored bytes or pixels; only members are read.

  Raises:
    ValueError: If a picture is not there any more.
  """
  groups = []
  for group in found.groups:
    by_hash: dict[str, list[int]] = {}
    for position in group.positions:
      row = embeddings.rows(position, position + 1, ('path',))
      try:
        content = read(row)
      except Exception as error:
        raise ValueError(
          f'{row.path[0]} cannot be read any more: {error}'
        ) from error
      by_hash.setdefault(_hash(content), []).append(position)
    identical = tuple(tuple(p) for p in by_hash.values() if len(p) > 1)
    groups.append(dataclasses.replace(group, identical=identical))
  return dataclasses.replace(found, groups=tuple(groups))


def _hash(content: bytes | np.ndarray) -> str:
  if isinstance(content, np.ndarray):
    content = repr(content.shape).encode() + content.tobytes()
  return hashlib.sha256(content).hexdigest()


def to_json(
  found: Found, embeddings: EmbeddingSet, *, threshold: float
) -> dict[str, Any]:
  """Groups with ids, names and labels."""
  groups: list[dict[str, Any]] = []
  labelled = embeddings.identity.num_classes > 0
  for group in found.groups:
    rows = embeddings.take(
      np.array(group.positions), ('path', *(('label',) if labelled else ()))
    )
    ids = dict(zip(group.positions, rows.id.tolist(), strict=True))
    entry: dict[str, Any] = {
      'ids': list(ids.values()),
      'paths': rows.path,
      'least_similarity': round(group.least, 6),
      'identical': [[ids[p] for p in part] for part in group.identical],
    }
    if rows.label is not None:
      entry['labels'] = rows.label.tolist()
    groups.append(entry)
  return {
    'job': 'duplicates',
    'embeddings': str(embeddings.folder),
    'threshold': threshold,
    'num_pictures': found.num_pictures,
    'num_groups': len(found.groups),
    'num_in_groups': found.num_members,
    'num_redundant': found.num_redundant,
    'num_identical': found.num_identical,
    'num_groups_of_several_labels': sum(
      # -1 is no label, and no class.
      len(set(entry.get('labels', ())) - {-1}) > 1
      for entry in groups
    ),
    'nearest_other_quantiles': {
      str(q): round(value, 6) for q, value in found.quantiles.items()
    },
    'groups': groups,
  }


def to_lines(
  groups: Sequence[dict[str, Any]],
  embeddings: EmbeddingSet,
  shown: pictures.SetPictures,
  *,
  most: int,
  per_line: int = 8,
) -> list[sheets.Line]:
  """Lines of a contact sheet from the groups of `to_json`.

  Blue frames have the bytes of another member, orange ones look alike.
  """
  names = embeddings.class_names
  lines = []
  for entry in groups[:most]:
    positions = embeddings.find(entry['ids'][:per_line])
    copies = {i for part in entry['identical'] for i in part}
    tiles = []
    for number, position in enumerate(positions.tolist()):
      row = embeddings.rows(position, position + 1, ('path',))
      is_copy = entry['ids'][number] in copies
      caption = 'same bytes' if is_copy else 'nearly the same'
      label = entry.get('labels', [-1] * len(entry['ids']))[number]
      if 0 <= label < len(names):
        caption = f'{names[label]}{", same bytes" if is_copy else ""}'
      tiles.append(
        sheets.Tile(
          pictures.thumbnail(shown.pixels(row), side=sheets.SIDE),
          caption,
          row.path[0],
          'same' if is_copy else 'other',
        )
      )
    more = len(entry['ids']) - len(tiles)
    title = f'{len(entry["ids"])} pictures, cosine from ' + (
      f'{entry["least_similarity"]:.4f}'
    )
    lines.append(sheets.Line(title + (f', {more} more' if more else ''), tiles))
  return lines
