"""Numbers that are true by counting are refused, or said beside the number."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data import part
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import knn, linear_probe, occurring
from simclr_jax.finetuning import judging
from simclr_jax.training import mesh as mesh_lib

PROBE = config_lib.ProbeConfig(
  epochs=30, base_lrs=(0.3,), weight_decays=(0.0,), num_bootstrap=20
)
KNN = config_lib.KnnConfig(ks=(3,), temperatures=(0.1,), num_bootstrap=20)


def _features(labels, *, num_classes=10, name='train'):
  labels = np.array(labels, np.int32)
  h = np.eye(num_classes + 1, dtype=np.float32)[labels]
  h = h + np.random.default_rng(len(labels)).normal(0, 0.1, h.shape)
  return features_lib.Features(
    h=h.astype(np.float32),
    z=h.astype(np.float32),
    labels=labels,
    num_classes=num_classes,
    name=name,
    source_fingerprint=name,
    encoder_fingerprint='encoder',
  )


def _judge(train, test):
  """Results of the probe, kNN, and a classifier of the same labels."""
  pair = (_features(train), _features(test, name='test'))
  logits = np.eye(10)[np.maximum(test, 0)]
  return (
    linear_probe.probe_features(*pair, PROBE),
    knn.knn_accuracy(*pair, KNN, mesh=mesh_lib.make_mesh()),
    judging.score(logits, np.array(test), classes=train, num_bootstrap=20),
  )


@pytest.mark.parametrize(
  'train, test, allowed',
  [
    ([0, 9] * 8, [0, 9], False),
    ([*range(5)] * 3, [*range(10)], False),
    ([*range(10)] * 3, [*range(5)], False),
    ([*range(6)] * 3, [*range(6)], True),
  ],
)
def test_top5_only_where_more_than_five_classes_occur(train, test, allowed):
  for found in _judge(train, test):
    best = getattr(found, 'headline', found)
    assert (best.top5 is not None) == allowed
    assert found.num_train_classes == len(set(train))
    assert found.num_test_classes == len(set(test))


def test_one_class_in_the_training_set_is_refused():
  pair = (_features([4] * 9), _features([4, 5], name='test'))
  with pytest.raises(occurring.NoAccuracy, match=r'of one class \(4\)'):
    linear_probe.probe_features(*pair, PROBE)
  with pytest.raises(occurring.NoAccuracy, match=r'of one class \(4\)'):
    knn.knn_accuracy(*pair, KNN, mesh=mesh_lib.make_mesh())


def test_a_test_split_of_one_class_or_of_new_ones_is_said():
  notes = occurring.find([0, 1, -1], np.array([1, 1])).notes
  assert len(notes) == 1 and 'one class (1)' in notes[0]
  notes = occurring.find([0, 1], np.array([0, 1, 7, -1, 7, 8])).notes
  assert notes[0].startswith(
    '3 of 5 test images are of 2 classes without a training example (7, 8)'
  )


def test_what_has_no_label_is_left_out_and_counted():
  train, test = [0, 1] * 4 + [-1] * 9, [0, 1, -1]
  pair = (_features(train), _features(test, name='test'))
  kept = (_features(train), _features(test, name='test'))
  kept = [
    dataclasses.replace(f, h=f.h[f.labels >= 0], labels=f.labels[f.labels >= 0])
    for f in kept
  ]
  for judge_fn, config in (
    (linear_probe.probe_features, PROBE),
    (lambda *a: knn.knn_accuracy(*a, mesh=mesh_lib.make_mesh()), KNN),
  ):
    found, alone = judge_fn(*pair, config), judge_fn(*kept, config)
    assert (found.num_train, found.num_test) == (8, 2)
    notes, rest = found.warnings[:2], found.warnings[2:]
    assert '8 of 17 images of train have a label' in notes[0]
    assert '2 of 3 images of test have a label' in notes[1]
    assert dataclasses.replace(found, warnings=rest) == alone


def _arrays(folder, labels, **changes):
  for split in ('train', 'test'):
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    images += np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    np.save(folder / f'{split}_images.npy', images)
    np.save(folder / f'{split}_labels.npy', np.array(labels))
  config = config_lib.DataConfig(source='arrays', path=str(folder))
  return [
    dataclasses.replace(data.make_source(config, split), **changes)
    for split in ('train', 'test')
  ]


@pytest.mark.parametrize('changes', [{}, {'label_fn': None}])
def test_labels_are_checked_before_anything_is_encoded(tmp_path, changes):
  pair = _arrays(tmp_path, [-1, -1, 3, -1, 0, 3], **changes)
  features_lib.check_source_labels(*pair, least=3)
  with pytest.raises(occurring.NoAccuracy, match='3 labels, at least 4'):
    features_lib.check_source_labels(*pair, least=4)
  assert not part.are_complete(pair[0])
  some = part.labelled(pair[0], part.read_labels(pair[0], workdir=tmp_path))
  assert [some.read(i).label for i in range(some.num_examples)] == [3, 0, 3]
  assert '3 of 6 with a label' in some.name
  pair = _arrays(tmp_path, [3] * 6, **changes)
  with pytest.raises(occurring.NoAccuracy, match='one class'):
    features_lib.check_source_labels(*pair)


def test_complete_records_are_not_all_read(monkeypatch):
  """Labels that stand beside images: a sample is enough, unless one lacks."""
  monkeypatch.setattr(part, '_DECISIVE', 64)
  source = data.make_source(
    config_lib.DataConfig(source='procedural'), 'train[:20000]'
  )
  read = []

  def label_at(i):
    read.append(i)
    return source.label_fn(i)

  def image_and_label(i):
    return data.Example(np.zeros((8, 8, 3), np.uint8), label_at(i))

  beside = dataclasses.replace(source, read=image_and_label, label_fn=None)
  assert part.are_complete(beside)
  assert 64 <= len(read) < 2000
  assert not part.are_complete(dataclasses.replace(beside, num_classes=9))
