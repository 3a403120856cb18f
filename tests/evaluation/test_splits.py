import numpy as np
import pytest

from simclr_jax.evaluation import splits


def test_subset_is_balanced_and_nested():
  labels = np.random.default_rng(0).integers(0, 7, 500)
  few = splits.subset_per_class(labels, num_per_class=3, seed=0)
  more = splits.subset_per_class(labels, num_per_class=11, seed=0)
  np.testing.assert_array_equal(np.bincount(labels[few]), [3] * 7)
  np.testing.assert_array_equal(np.bincount(labels[more]), [11] * 7)
  assert set(few) < set(more)
  assert not set(few) == set(
    splits.subset_per_class(labels, num_per_class=3, seed=1)
  )


def test_subset_refuses_a_class_with_too_few():
  with pytest.raises(ValueError, match=r'class 2 has 1.*at most 1'):
    splits.subset_per_class(np.array([0, 0, 1, 1, 2]), num_per_class=2, seed=0)


def test_a_class_that_does_not_occur_needs_no_labels():
  labels = np.array([0, 0, 2, 2])
  rows = splits.subset_per_class(labels, num_per_class=1, seed=0)
  assert labels[rows].tolist() == [0, 2]
  with pytest.raises(ValueError, match=r'1 of 2 classes .*at most 1'):
    splits.subset_per_class(labels[:3], num_per_class=2, seed=0)


@pytest.mark.parametrize('fraction', [0.1, 0.33, 0.5])
def test_holdout_is_a_stratified_partition(fraction):
  labels = np.random.default_rng(0).choice(4, 401, p=[0.5, 0.3, 0.15, 0.05])
  kept, held = splits.holdout_split(labels, fraction=fraction, seed=0)
  assert sorted([*kept, *held]) == list(range(401))
  assert len(held) == round(fraction * 401)
  shares = np.bincount(labels[held]) - fraction * np.bincount(labels)
  assert np.abs(shares).max() <= 1


def test_holdout_leaves_every_class_an_example():
  labels = np.array([0] * 50 + [1])
  kept, _ = splits.holdout_split(labels, fraction=0.9, seed=0)
  assert set(labels[kept]) == {0, 1}


def test_holdout_refuses_to_be_empty():
  with pytest.raises(ValueError, match='nothing to select'):
    splits.holdout_split(np.arange(5), fraction=0.1, seed=0)
