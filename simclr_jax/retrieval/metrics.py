"""How good a ranking is: recall@k, precision@k, mean average precision.

A picture of the bank is relevant to a query if its class is the query's. Ties
are broken by the lower row, as everywhere in the house.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from simclr_jax.evaluation.neighbours import Bank

# Similarities held at a time: 2**25 f32 are 128 MiB.
_BLOCK = 2**25


@dataclasses.dataclass(frozen=True)
class Ranking:
  """Means over queries that have something relevant in the bank.

  Attributes:
    recall: k -> share of queries with a relevant picture among the first k
      (as in metric learning: Jegou et al. 2011; not the share of all relevant
      pictures, of which there are thousands).
    precision: k -> share of relevant pictures among the first k.
    map: Mean over queries of average precision over the whole bank.
    map_at_r: The same over the first R, R the number of relevant pictures
      (Musgrave et al. 2020, 'A metric learning reality check').
    chance: Share of relevant pictures in the bank: what `precision` and about
      what `map` would be for a random order.
    num_queries: That were counted.
    num_classes: Of these queries.
  """

  recall: dict[int, float]
  precision: dict[int, float]
  map: float
  map_at_r: float
  chance: float
  num_queries: int
  num_classes: int


def judge(
  bank_nxD: Bank,
  queries_QxD: np.ndarray,
  *,
  bank_labels: np.ndarray,
  query_labels: np.ndarray,
  ks: tuple[int, ...],
  own_rows: np.ndarray | None = None,
) -> Ranking:
  """Ranks the whole bank for every query, by inner product.

  Args:
    bank_nxD: Rows as they are compared.
    queries_QxD: f32, likewise.
    bank_labels: int64 [n]; below 0 is no label, and relevant to nothing.
    query_labels: int64 [Q]; those without a label are not counted.
    ks: Cut-offs.
    own_rows: int64 [Q], the query's own row in the bank, which is left out;
      None where the queries are other pictures.

  Raises:
    ValueError: If no query has a relevant picture.
  """
  size = len(bank_nxD)
  per_query: list[np.ndarray] = []
  step = max(_BLOCK // size, 1)
  # The bank passes once for each block of queries.
  for start in range(0, len(queries_QxD), step):
    part = slice(start, start + step)
    scores = _scores(bank_nxD, queries_QxD[part])
    relevant = bank_labels[None, :] == query_labels[part, None]
    relevant &= query_labels[part, None] >= 0  # no label is no class
    if own_rows is not None:
      rows = np.arange(len(scores))
      scores[rows, own_rows[part]] = -np.inf  # last, and
      relevant[rows, own_rows[part]] = False  # counted for nothing
    order = np.argsort(-scores, axis=1, kind='stable')
    hits = np.take_along_axis(relevant, order, axis=1)
    per_query += [_of_query(row, ks) for row in hits]
  found = np.stack(per_query)
  has_relevant = found[:, -1] > 0
  counted = found[has_relevant]
  if not len(counted):
    raise ValueError('no query has another picture of its class in the bank')
  means = counted.mean(0)
  others = size - (own_rows is not None)
  return Ranking(
    recall=dict(zip(ks, means[: len(ks)].tolist(), strict=True)),
    precision=dict(zip(ks, means[len(ks) : 2 * len(ks)].tolist(), strict=True)),
    map=float(means[-3]),
    map_at_r=float(means[-2]),
    chance=float(means[-1] / others),
    num_queries=len(counted),
    num_classes=len(np.unique(query_labels[has_relevant])),
  )


def _scores(bank_nxD: Bank, queries_qxD: np.ndarray) -> np.ndarray:
  scores = np.empty((len(queries_qxD), len(bank_nxD)), np.float32)
  for start in range(0, len(bank_nxD), 8192):
    rows = bank_nxD[start : start + 8192]
    scores[:, start : start + len(rows)] = queries_qxD @ rows.T
  return scores


def _of_query(hits_n: np.ndarray, ks: tuple[int, ...]) -> np.ndarray:
  """[recall@k..., precision@k..., AP, AP@R, R] of one ranking.

  AP is the mean over relevant pictures of the precision at their ranks.
  """
  ranks = np.flatnonzero(hits_n) + 1.0
  number = len(ranks)
  precisions = np.arange(1, number + 1) / ranks
  recall = [float(number > 0 and ranks[0] <= k) for k in ks]
  precision = [np.sum(ranks <= k) / k for k in ks]
  average = precisions.mean() if number else 0.0
  at_r = precisions[ranks <= number].sum() / number if number else 0.0
  return np.array([*recall, *precision, average, at_r, number])


def overlap(found_Qxk: np.ndarray, exact_Qxk: np.ndarray) -> float:
  """Recall of an approximate index: share of the true k that it found."""
  same = [
    len(np.intersect1d(a[a >= 0], b)) / len(b)
    for a, b in zip(found_Qxk, exact_Qxk, strict=True)
  ]
  return float(np.mean(same))
