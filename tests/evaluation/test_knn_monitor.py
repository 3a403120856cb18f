import dataclasses

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data, evaluation
from simclr_jax.data import part
from simclr_jax.evaluation import knn_monitor
from simclr_jax.models import model as model_lib
from simclr_jax.training import mesh as mesh_lib

CONFIG = config_lib.replace(
  config_lib.Config(),
  data={
    'source': 'procedural',
    'train_split': 'train[:64]',
    'test_split': 'test[:24]',
    'image_size': 8,
  },
  eval={'batch_size': 24},
  monitor={'knn_max_bank': 40},
  knn={'ks': (1, 50)},
)


class _Pixels:
  """Scaled pixels, with the interface of a model."""

  def apply(self, variables, images, *, train):
    assert not train
    h = variables['w'] * images.reshape(len(images), -1)
    return model_lib.Outputs(h, h[:, :2], None, (h,))


def test_judges_like_brute_force_on_a_fixed_part_of_the_bank():
  monitor = evaluation.KnnMonitor(CONFIG)
  variables = {'w': jax.numpy.float32(2.0)}
  found = monitor.evaluate(_Pixels(), variables, mesh=mesh_lib.make_mesh())
  assert found == monitor.evaluate(
    _Pixels(), variables, mesh=mesh_lib.make_mesh()
  )
  assert list(found) == ['knn_top1']
  assert found['knn_top1'] * 24 == pytest.approx(round(found['knn_top1'] * 24))


def test_the_part_is_fixed_balanced_by_chance_and_named():
  train = data.make_source(CONFIG.data, 'train[:64]')
  part = knn_monitor.random_part(train, 40)
  names = [part.example_id(i) for i in range(40)]
  assert len(set(names)) == 40
  again = knn_monitor.random_part(train, 40)
  assert names == [again.example_id(i) for i in range(40)]
  assert names != [train.example_id(i) for i in range(40)]
  for i in (0, 39):
    j = int(names[i].split()[-1])
    np.testing.assert_array_equal(part.read(i).image, train.read(j).image)
    assert part.read(i).label == train.read(j).label
  assert part.fingerprint != train.fingerprint
  assert knn_monitor.random_part(train, 64) is train


def test_says_before_training_what_is_missing(monkeypatch):
  config = config_lib.replace(CONFIG, data={'test_split': ''})
  with pytest.raises(ValueError, match='test_split'):
    evaluation.KnnMonitor(config)
  make_source = data.make_source
  monkeypatch.setattr(
    data,
    'make_source',
    lambda *args, **kwargs: dataclasses.replace(
      make_source(*args, **kwargs), num_classes=0
    ),
  )
  with pytest.raises(ValueError, match='no labels'):
    evaluation.KnnMonitor(CONFIG)


@pytest.mark.parametrize(
  'sections, num_hosts, message',
  [
    ({'knn': {'ks': (41,)}}, 1, 'knn.ks.* 41 .*bank of 40'),
    ({}, 5, r'eval.batch_size = 24 .*5 hosts'),
  ],
)
def test_says_before_training_what_would_fail_later(
  monkeypatch, sections, num_hosts, message
):
  monkeypatch.setattr(jax, 'process_count', lambda: num_hosts)
  with pytest.raises(ValueError, match=message):
    evaluation.KnnMonitor(config_lib.replace(CONFIG, **sections))


@pytest.mark.parametrize('known', [True, False])
def test_takes_what_has_a_label_and_says_before_training_if_too_few(
  known, caplog
):
  whole = data.make_source(CONFIG.data, 'train[:64]')
  train = part.hide_labels(whole, np.arange(0, 64, 3))
  if not known:  # As where labels stand in the records.
    train = dataclasses.replace(train, label_fn=None)
  few = config_lib.replace(CONFIG, knn={'ks': (23,)})
  with pytest.raises(ValueError, match='bank of 22|labels, at least 23'):
    evaluation.KnnMonitor(few, train=train)
  config = config_lib.replace(CONFIG, knn={'ks': (3,)})
  monitor = evaluation.KnnMonitor(config, train=train)
  variables = {'w': jax.numpy.float32(2.0)}
  with caplog.at_level('INFO'):
    monitor.evaluate(_Pixels(), variables, mesh=mesh_lib.make_mesh())
  assert known or ' of 40 images ' in caplog.text
  assert 'in the bank, 8 classes in the test split' in caplog.text
