"""Retrieval on a labelled set: raw and normalised h and z, and the index."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

import jax
import numpy as np

from simclr_jax.data.names import printable
from simclr_jax.evaluation import occurring
from simclr_jax.evaluation.neighbours import without_itself
from simclr_jax.retrieval import indexes, metrics, searching, views
from simclr_jax.retrieval.embedding_set import EmbeddingSet
from simclr_jax.retrieval.metrics import Ranking
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import provenance

_INDEX_K = 10  # neighbours on which an approximate index is judged


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table."""

  output: str
  compared: str
  transform: str
  ranking: Ranking


def judge(
  bank: EmbeddingSet,
  queries: EmbeddingSet,
  *,
  ks: tuple[int, ...],
  max_queries: int,
  transform_names: Sequence[str] = (),
) -> list[Row]:
  """Every output, raw and normalised, and each transform of the normalised.

  Args:
    bank: Set with labels.
    queries: Another set of the same encoder; or `bank` itself, and then each
      picture is searched for among the others.
    ks: Cut-offs of recall and precision.
    max_queries: More are drawn from, with a fixed seed.
    transform_names: Such as 'whitening:64', fitted on the bank.

  Raises:
    NoAccuracy: If the bank's labels are none, or of one class.
    ValueError: If there are no labels, or two encoders made the sets.
  """
  check_comparable(bank, queries)
  positions = draw(len(queries), max_queries)
  own = positions if queries is bank else None
  bank_labels = _labels(bank)
  query_labels = _labels(queries)[positions]
  occurring.require_two(np.unique(bank_labels[bank_labels >= 0]).tolist())
  rows = []
  for output in bank.outputs:
    vectors = queries.take(positions, (output,)).vectors[output]
    metrics_of_set = (
      views.METRICS[:1] if bank.identity.normalized else (views.METRICS[::-1])
    )
    looks = [(metric, '') for metric in metrics_of_set]
    looks += [('cosine', name) for name in transform_names]
    for metric, name in looks:
      view = searching.open_view(
        bank, output=output, metric=metric, transform=name
      )
      ranking = metrics.judge(
        view.bank(bank),
        view.prepare(vectors),
        bank_labels=bank_labels,
        query_labels=query_labels,
        ks=ks,
        own_rows=own,
      )
      compared = 'normalised' if metric == 'cosine' else 'raw'
      rows.append(Row(output, compared, name, ranking))
  return rows


def check_comparable(bank: EmbeddingSet, queries: EmbeddingSet) -> None:
  """Raises ValueError unless they are labelled, and of one encoder."""
  for each in (bank, queries):
    if not each.identity.num_classes:
      raise ValueError(
        f'{each.folder} has no labels to judge by; embed with '
        '--labels_from=folders, or a data set that has them'
      )
  if bank.identity.space != queries.identity.space:
    raise ValueError(
      f'{bank.folder} and {queries.folder} were made by different checkpoints '
      'or preprocessing: their vectors mean nothing to each other'
    )
  for name in ('dims', 'normalized', 'num_classes'):
    one, other = (getattr(each.identity, name) for each in (bank, queries))
    if one != other:
      raise ValueError(
        f'{bank.folder} and {queries.folder} differ in {name}: {one}, {other}'
      )
  if (
    bank.class_names
    and queries.class_names
    and bank.class_names != queries.class_names
  ):
    first, second = next(
      pair
      for pair in itertools.zip_longest(
        bank.class_names, queries.class_names, fillvalue='nothing'
      )
      if pair[0] != pair[1]
    )
    raise ValueError(
      f'{bank.folder} and {queries.folder} number other classes (what is '
      f'{printable(first)} in one is {printable(second)} in the other): a '
      'label of one means another class in the other'
    )
  same = bank.identity.source == queries.identity.source
  if same and queries is not bank:
    raise ValueError(
      f'{bank.folder} and {queries.folder} hold the same pictures: each would '
      'find itself; leave out --queries, which leaves itself out'
    )


def draw(size: int, most: int) -> np.ndarray:
  """Rising positions int64, at most `most`, always the same."""
  if most < 1:
    raise ValueError(f'--max_queries={most}: at least 1 is wanted')
  if size <= most:
    return np.arange(size)
  chosen = np.random.default_rng(0).choice(size, most, replace=False)
  return np.sort(chosen).astype(np.int64)


def _labels(embeddings: EmbeddingSet) -> np.ndarray:
  parts = [
    rows.label
    for rows in embeddings.chunks(views.CHUNK, ('label',))
    if rows.label is not None
  ]
  return np.concatenate(parts)


def judge_index(
  bank: EmbeddingSet,
  queries: EmbeddingSet,
  view: views.View,
  index: indexes.Index,
  *,
  max_queries: int,
) -> dict[str, Any]:
  """How many of the true nearest an index finds.

  Args:
    bank: Set.
    queries: Another set of the same encoder; or `bank` itself, and then each
      picture is searched for among the others: every index finds itself.
    view: How they are compared.
    index: Of the bank.
    max_queries: As for `judge`.
  """
  positions = draw(len(queries), max_queries)
  vectors = queries.take(positions, (view.output,)).vectors[view.output]
  prepared = view.prepare(vectors)
  mesh = mesh_lib.make_mesh(jax.local_devices())
  exact, found = (
    each.search(prepared, _INDEX_K + 1).index_Qxk
    for each in (indexes.Exact(bank, view, mesh), index)
  )
  if queries is bank:
    exact, found = (without_itself(i, positions) for i in (exact, found))
  else:
    exact, found = exact[:, :_INDEX_K], found[:, :_INDEX_K]
  return {
    f'recall_of_true_{_INDEX_K}': metrics.overlap(found, exact),
    'recall_of_true_1': metrics.overlap(found[:, :1], exact[:, :1]),
    'num_queries': len(positions),
  }


def rows_to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
  """Lines of the table; cut-offs become text, as JSON has it."""
  values = [dataclasses.asdict(row) for row in rows]
  for value in values:
    for name in ('recall', 'precision'):
      by_k = value['ranking'][name]
      value['ranking'][name] = {str(k): share for k, share in by_k.items()}
  return values


def to_json(
  bank: EmbeddingSet, queries: EmbeddingSet, *, rows: Sequence[Row]
) -> dict[str, Any]:
  """Everything needed to tell what was measured."""
  return {
    'job': 'retrieval',
    'encoder': bank.stated('encoder'),
    'bank': {
      'name': bank.name,
      'num_rows': len(bank),
    },
    'queries': 'each picture of the bank among the others'
    if queries is bank
    else {
      'name': queries.name,
      'num_rows': len(queries),
    },
    'stored': {
      'dtype': bank.identity.dtype,
      'normalized': bank.identity.normalized,
      'dims': dict(bank.identity.dims),
    },
    'rows': rows_to_json(rows),
    **provenance.made_by(),
  }


def table(rows: Sequence[Row]) -> str:
  """For a terminal."""
  ks = list(rows[0].ranking.recall)
  shown_ks = ks[:3]
  head = ['vectors', *(f'recall@{k}' for k in shown_ks)]
  head += [f'precision@{ks[-1]}', 'mAP', 'mAP@R']
  lines = [head]
  for row in rows:
    ranking = row.ranking
    name = f'{row.output} {row.compared}'
    name += f' {row.transform}' if row.transform else ''
    numbers = [ranking.recall[k] for k in shown_ks]
    numbers += [ranking.precision[ks[-1]], ranking.map, ranking.map_at_r]
    lines.append([name, *(f'{number:.1%}' for number in numbers)])
  widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
  texts = [
    '  '.join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    for line in lines
  ]
  first = rows[0].ranking
  texts.append(
    f'{first.num_queries:,} queries of '
    f'{occurring.classes_text(first.num_classes)}; a random order has mAP '
    f'{first.chance:.1%}'
  )
  return '\n'.join(texts)
