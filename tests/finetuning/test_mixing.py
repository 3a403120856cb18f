"""mixup and CutMix against their formulas, on any number of devices."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from simclr_jax.finetuning import mixing, objective
from simclr_jax.finetuning.config import AugmentChanges
from simclr_jax.training import mesh as mesh_lib

BATCH, SIDE, CLASSES = 8, 12, 5
MIXUP = AugmentChanges(mixup_alpha=0.4)
CUTMIX = AugmentChanges(cutmix_alpha=1.0)
PARTNER = np.array([1, 0, 3, 2, 5, 4, 7, 6])


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  return rng.random((BATCH, SIDE, SIDE + 2, 3)).astype(np.float32)


@functools.cache
def compiled(augment):
  return jax.jit(lambda x, key: mixing.mix(x, key, augment=augment))


def mix(images, seed, augment, *, num_devices=1):
  mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
  with jax.set_mesh(mesh):
    batch = mesh_lib.put_batch({'images': images}, mesh)['images']
    made = compiled(augment)(batch, jax.random.key(seed))
  return np.asarray(made.images), float(made.share)


def test_mixup_is_the_weighted_mean_of_two_pictures(images):
  shares = []
  for seed in range(4):
    made, share = mix(images, seed, MIXUP)
    wanted = (1 - share) * images + share * images[PARTNER]
    np.testing.assert_allclose(made, wanted, atol=1e-6)
    shares.append(share)
  assert len(set(shares)) == 4 and 0 <= min(shares) <= max(shares) <= 1


def test_cutmix_covers_a_box_whose_area_is_the_share(images):
  seen = set()
  for seed in range(12):
    made, share = mix(images, seed, CUTMIX)
    own = (made == images).all(-1)
    other = (made == images[PARTNER]).all(-1)
    assert (own ^ other).all()  # Every pixel is one of the two, unchanged.
    assert (other == other[0]).all()  # The same box in all.
    assert other[0].mean() == pytest.approx(share, abs=1e-6)
    rows, columns = (np.flatnonzero(other[0].any(axis)) for axis in (1, 0))
    if len(rows):
      box = other[0][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
      assert box.all() and box.sum() == other[0].sum()
    seen.add(round(share, 4))
  assert len(seen) > 6


def test_shares_are_beta_and_boxes_reach_every_place():
  def draw(key):
    first, second = jax.random.split(key)
    return (
      mixing.mixup_map(first, 0.3, size=(1, 1)),
      mixing.cutmix_map(second, 1.0, size=(32, 32)),
    )

  keys = jax.random.split(jax.random.key(0), 4000)
  of_mixup, maps = map(np.asarray, jax.jit(jax.vmap(draw))(keys))
  # Variance of Beta(a, a): 1 / (4 (2 a + 1)).
  assert of_mixup.mean() == pytest.approx(0.5, abs=0.02)
  assert of_mixup.var() == pytest.approx(1 / (4 * 1.6), rel=0.05)
  covered = maps.mean(0)
  assert covered.min() > 0.05  # Corners too.
  assert abs(covered - covered.T).max() < 0.05
  # A box of side sqrt(r) about a uniform centre keeps sqrt(r) - r / 4 of each
  # axis: 1/2 - 1/5 + 1/48 of the area over a uniform r, less half-pixels.
  assert 0.27 < maps.mean() < 0.3208


def test_both_take_turns_in_the_share_of_batches_that_is_mixed(images):
  both = AugmentChanges(mixup_alpha=0.4, cutmix_alpha=1.0, mix_prob=0.5)
  kinds = {'none': 0, 'box': 0, 'mean': 0}
  for seed in range(60):
    made, share = mix(images, seed, both)
    whole = ((made == images) | (made == images[PARTNER])).all()
    kinds['none' if share == 0 else 'box' if whole else 'mean'] += 1
    if share == 0:
      np.testing.assert_array_equal(made, images)
  # A box may have no area: then nothing is mixed.
  assert 20 < kinds['none'] < 45 and min(kinds.values()) > 4
  assert not mixing.is_on(AugmentChanges(mixup_alpha=0.4, mix_prob=0.0))
  assert not mixing.is_on(AugmentChanges())


def test_the_devices_change_nothing(images):
  one, share = mix(images, 3, CUTMIX)
  four, same = mix(images, 3, CUTMIX, num_devices=4)
  np.testing.assert_allclose(one, four, atol=1e-7)
  assert share == pytest.approx(same) and share > 0


def test_an_odd_share_of_a_device_is_refused(images):
  with pytest.raises(ValueError, match='each device holds 1 pictures'):
    mix(images, 0, MIXUP, num_devices=8)


def test_labels_are_mixed_like_the_pictures():
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(BATCH, CLASSES)).astype(np.float32)
  labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
  share, smoothing = np.float32(0.3), 0.1
  hot = np.eye(CLASSES)[labels]
  targets = (1 - share) * hot + share * hot[PARTNER]
  targets = (1 - smoothing) * targets + smoothing / CLASSES
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  loss, metrics = objective.label_loss(
    logits, labels, share=share, smoothing=smoothing
  )
  assert float(loss) == pytest.approx(
    -(targets * log_p).sum(1).mean(), rel=1e-5
  )
  assert float(metrics['train_top1']) == (logits.argmax(1) == labels).mean()
