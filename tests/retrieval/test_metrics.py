"""Against scikit-learn, and against definitions written as loops."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from simclr_jax.retrieval import metrics

N, D, CLASSES = 60, 5, 4


@pytest.fixture(scope='module')
def data():
  rng = np.random.default_rng(3)
  labels = rng.integers(0, CLASSES, N)
  centres = rng.normal(size=(CLASSES, D))
  rows = (centres[labels] + rng.normal(size=(N, D))).astype(np.float32)
  return rows, labels


def by_hand(rows, labels, ks):
  """Leave-one-out, the definitions as loops over Python lists."""
  recall = {k: [] for k in ks}
  precision = {k: [] for k in ks}
  average, at_r = [], []
  for q in range(len(rows)):
    others = [i for i in range(len(rows)) if i != q]
    others.sort(key=lambda i: -float(rows[i] @ rows[q]))
    good = [labels[i] == labels[q] for i in others]
    if not any(good):
      continue
    for k in ks:
      recall[k].append(any(good[:k]))
      precision[k].append(sum(good[:k]) / k)
    average.append(
      average_precision_score(
        labels[others] == labels[q], [rows[i] @ rows[q] for i in others]
      )
    )
    number = sum(good)
    at_r.append(
      sum(sum(good[: i + 1]) / (i + 1) for i in range(number) if good[i])
      / number
    )
  return (
    {k: np.mean(v) for k, v in recall.items()},
    {k: np.mean(v) for k, v in precision.items()},
    np.mean(average),
    np.mean(at_r),
  )


@pytest.mark.parametrize('block', [2**25, 3 * N])
def test_each_among_the_others(data, block, monkeypatch):
  monkeypatch.setattr(metrics, '_BLOCK', block)
  rows, labels = data
  found = metrics.judge(
    rows,
    rows,
    bank_labels=labels,
    query_labels=labels,
    ks=(1, 3, 10),
    own_rows=np.arange(N),
  )
  recall, precision, average, at_r = by_hand(rows, labels, (1, 3, 10))
  assert found.recall == pytest.approx(recall)
  assert found.precision == pytest.approx(precision)
  assert found.map == pytest.approx(average)
  assert found.map_at_r == pytest.approx(at_r)
  assert found.num_queries == N
  assert found.chance < found.map < 1


def test_other_pictures_against_scikit_learn(data):
  rows, labels = data
  found = metrics.judge(
    rows[20:], rows[:20], bank_labels=labels[20:], query_labels=labels[:20],
    ks=(1,),
  )  # fmt: skip
  wanted = [
    average_precision_score(labels[20:] == labels[q], rows[20:] @ rows[q])
    for q in range(20)
  ]
  assert found.map == pytest.approx(np.mean(wanted))


def test_a_class_of_one_is_left_out_and_not_counted_as_failure():
  rows = np.eye(3, dtype=np.float32)
  rows[1] = rows[0]
  labels = np.array([0, 0, 1])
  found = metrics.judge(
    rows, rows, bank_labels=labels, query_labels=labels, ks=(1,),
    own_rows=np.arange(3),
  )  # fmt: skip
  assert (found.num_queries, found.map, found.recall) == (2, 1.0, {1: 1.0})
  with pytest.raises(ValueError, match='no query has another picture'):
    metrics.judge(
      rows, rows, bank_labels=np.arange(3), query_labels=np.arange(3),
      ks=(1,), own_rows=np.arange(3),
    )  # fmt: skip


def test_a_random_order_has_the_precision_of_chance():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(4000, 3)).astype(np.float32)
  labels = np.arange(4000) % 5
  found = metrics.judge(
    rows, rows[:300], bank_labels=labels, query_labels=labels[:300], ks=(100,),
    own_rows=np.arange(300),
  )  # fmt: skip
  assert found.chance == pytest.approx(799 / 3999)
  assert found.precision[100] == pytest.approx(found.chance, abs=0.01)
  assert found.map == pytest.approx(found.chance, abs=0.01)


def test_share_of_true_neighbours():
  exact = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
  found = np.array([[4, 3, 9, -1], [5, 6, 7, 8]])
  assert metrics.overlap(found, exact) == pytest.approx((0.5 + 1) / 2)


def test_no_label_is_no_class():
  rows = np.eye(4, dtype=np.float32)
  labels = np.array([0, 0, -1, -1])
  found = metrics.judge(
    rows, rows, bank_labels=labels, query_labels=labels, ks=(1,),
    own_rows=np.arange(4),
  )  # fmt: skip
  assert found.num_queries == 2
