"""Few labels: stratified, nested, the same for ever."""

from __future__ import annotations

import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data import part
from simclr_jax.finetuning import labelled
from simclr_jax.finetuning.config import LabelsConfig

CLASSES = 7
rng = np.random.default_rng(0)
LABELS = rng.choice(CLASSES, 900, p=np.arange(1, CLASSES + 1) / 28)


def choose(**fields):
  return labelled.choose(LABELS, LabelsConfig(**fields), num_classes=CLASSES)


@pytest.mark.parametrize('fraction', [0.001, 0.01, 0.1, 0.5, 1.0])
def test_every_class_gives_its_share(fraction):
  rows = choose(fraction=fraction)
  assert (np.diff(rows) > 0).all()
  found = np.bincount(LABELS[rows], minlength=CLASSES)
  exact = np.bincount(LABELS, minlength=CLASSES) * fraction
  assert (abs(found - exact) <= 0.5).all() or fraction < 0.05
  assert (found >= 1).all()
  assert (found <= np.maximum(exact + 0.5, 1)).all()


def test_more_labels_hold_the_fewer_and_seeds_differ():
  nested = [choose(fraction=f) for f in (0.01, 0.05, 0.055, 0.4)]
  nested += [choose(fraction=1.0)]
  for few, more in zip(nested, nested[1:], strict=False):
    assert set(few) <= set(more)
  assert set(choose(per_class=2)) <= set(choose(per_class=9))
  assert set(choose(per_class=2)) != set(choose(per_class=2, seed=1))
  counts = np.bincount(LABELS[choose(per_class=9)])
  assert (counts == 9).all()


def test_what_has_no_label_is_never_chosen():
  some = np.where(np.arange(len(LABELS)) % 2, LABELS, -1)
  rows = labelled.choose(some, LabelsConfig(per_class=3), num_classes=CLASSES)
  assert (some[rows] >= 0).all()


def test_a_poor_class_is_named():
  with pytest.raises(ValueError, match=r'class 0 has \d+.*at most'):
    choose(per_class=100)
  # A number that no image has is no class.
  rows = labelled.choose(LABELS, LabelsConfig(per_class=1), num_classes=8)
  assert len(rows) == CLASSES


DIGITS = config_lib.DataConfig(source='digits', image_size=8)


def test_divides_a_source_by_its_labels(tmp_path):
  source = data.make_source(DIGITS, 'train')
  wanted = LabelsConfig(per_class=10, holdout_fraction=0.2, seed=4)
  found = labelled.divide(source, wanted, workdir=tmp_path)
  assert found.num_labels == 100
  assert (len(found.fit_rows), len(found.holdout_rows)) == (80, 20)
  assert not set(found.fit_rows) & set(found.holdout_rows)
  for rows, split in (
    (found.fit_rows, found.fit),
    (found.holdout_rows, found.holdout),
  ):
    for i in (0, len(rows) - 1):
      image, label = source.read(int(rows[i]))
      assert split.read(i).label == label
      np.testing.assert_array_equal(split.read(i).image, image)
      assert split.example_id(i) == source.example_id(int(rows[i]))
    counts = np.bincount([split.read(i).label for i in range(len(rows))])
    assert len(set(counts)) == 1
  # The second time the same rows, the same names.
  again = labelled.divide(source, wanted, workdir=tmp_path)
  np.testing.assert_array_equal(found.fit_rows, again.fit_rows)
  assert found.fit.fingerprint == again.fit.fingerprint != source.fingerprint
  other = labelled.divide(
    source, LabelsConfig(per_class=10, seed=5), workdir=tmp_path
  )
  assert other.fit.fingerprint != found.fit.fingerprint


def test_a_holdout_needs_labels_to_spare():
  source = data.make_source(DIGITS, 'train')
  with pytest.raises(ValueError, match='holdout_fraction = 0.2 of 10 labels'):
    labelled.divide(source, LabelsConfig(per_class=1, holdout_fraction=0.2))


def test_all_labels_are_the_source_itself():
  source = data.make_source(DIGITS, 'train')
  found = labelled.divide(source, LabelsConfig())
  assert found.fit is source and found.num_labels == source.num_examples


def test_without_labels_there_is_nothing_to_learn(tmp_path):
  np.save(tmp_path / 'train_images.npy', np.zeros((4, 8, 8, 3), np.uint8))
  arrays = config_lib.DataConfig(
    source='arrays', path=str(tmp_path), image_size=8
  )
  source = data.make_source(arrays, 'train')
  with pytest.raises(ValueError, match='has no labels'):
    labelled.divide(source, LabelsConfig())


def test_hidden_labels_are_hidden(tmp_path):
  source = data.make_source(DIGITS, 'train[:50]')
  hidden = part.hide_labels(source, np.array([3, 7]))
  found = part.read_labels(hidden, workdir=tmp_path)
  wanted = np.full(50, -1)
  wanted[[3, 7]] = [source.read(3).label, source.read(7).label]
  np.testing.assert_array_equal(found, wanted)
  np.testing.assert_array_equal(hidden.read(9).image, source.read(9).image)
  assert hidden.fingerprint != source.fingerprint


def test_cifar10_one_percent(cifar10_dir, tmp_path):
  cifar10 = config_lib.DataConfig(
    name='cifar10', data_dir=cifar10_dir, image_size=32
  )
  source = data.make_source(cifar10, 'train[:5000]', workdir=tmp_path)
  found = labelled.divide(source, LabelsConfig(fraction=0.01), workdir=tmp_path)
  labels = [found.fit.read(i).label for i in range(found.num_labels)]
  whole = np.bincount(part.read_labels(source, workdir=tmp_path))
  assert whole.sum() == 5000
  assert (abs(np.bincount(labels) - whole / 100) <= 0.5).all()
