"""What two sets must share, and what an index is judged on."""

import functools

import jax
import numpy as np
import pytest

from simclr_jax.evaluation import occurring
from simclr_jax.evaluation.neighbours import Neighbours
from simclr_jax.retrieval import indexes, judging, views
from simclr_jax.training import mesh as mesh_lib
from tests.retrieval import fake_set

N = 30


def rows(seed):
  return np.random.default_rng(seed).normal(size=(N, 8)).astype(np.float32)


def make(folder, *, seed=0, names=('cat', 'dog'), source='a source'):
  return fake_set.write(
    folder,
    rows(seed),
    labels=np.arange(N) % 2,
    source=source,
    about={'input': {'class_names': list(names)}},
  )


def test_labels_that_mean_other_classes_are_refused(tmp_path):
  bank = make(tmp_path / 'a')
  turned = make(tmp_path / 'b', names=('dog', 'cat'), source='another')
  with pytest.raises(ValueError, match='number other classes.*cat.*dog'):
    judging.check_comparable(bank, turned)
  judging.check_comparable(bank, make(tmp_path / 'c', source='another'))
  # Of a set without names nobody can tell.
  unnamed = make(tmp_path / 'd', names=(), source='another')
  judging.check_comparable(bank, unnamed)


def test_retrieval_within_one_class_is_refused(tmp_path):
  judge = functools.partial(judging.judge, ks=(1,), max_queries=N)
  found = judge(bank := make(tmp_path / 'a'), bank)
  assert 'queries of 2 classes' in judging.table(found)
  same = fake_set.write(
    tmp_path / 'b', rows(0), labels=np.zeros(N, int), about={}
  )
  with pytest.raises(occurring.NoAccuracy, match='of one class'):
    judge(same, same)


class OnlyItself:
  """An index that finds nothing but the query."""

  def search(self, queries_QxD, k):
    index = np.full((len(queries_QxD), k), -1)
    index[:, 0] = np.arange(len(queries_QxD))
    return Neighbours(np.zeros(index.shape, np.float32), index)


def test_an_index_is_not_praised_for_finding_the_query(tmp_path):
  bank = make(tmp_path / 'a')
  view = views.View('h', 'cosine')
  mesh = mesh_lib.make_mesh(jax.local_devices())

  def judge(index, queries):
    return judging.judge_index(bank, queries, view, index, max_queries=N)

  found = judge(OnlyItself(), bank)
  assert found['recall_of_true_1'] == found['recall_of_true_10'] == 0
  exact = indexes.Exact(bank, view, mesh)
  for queries in (bank, make(tmp_path / 'b', seed=1, source='another')):
    found = judge(exact, queries)
    assert found['recall_of_true_1'] == found['recall_of_true_10'] == 1
