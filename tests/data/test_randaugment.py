"""RandAugment: every operation against a formula; the same in all loaders."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import config_checks
from simclr_jax.data import draws, order, pipeline, randaugment
from simclr_jax.data.source import Example, Source

SIDE = 24
MAX = randaugment.MAX_MAGNITUDE
LUMA = np.array([299, 587, 114]) / 1000


@pytest.fixture(scope='module')
def levels():
  """uint8 [24, 24, 3], smooth enough that sharpening shows, 30 to 220."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(30, 220, (SIDE // 4, SIDE // 4, 3))
  return np.kron(coarse, np.ones((4, 4, 1))).astype(np.uint8)


def run(levels, name, *, sign=1, magnitude=MAX):
  """uint8 result of one operation."""
  place = list(randaugment.OPS).index(name)
  view = levels.astype(np.float32) / 255
  made = randaugment.apply(view, np.array([[place, sign]]), magnitude=magnitude)
  assert made.dtype == np.float32
  return np.rint(made * 255).astype(np.int64)


def grey(levels):
  """Pillow's luma, rounded."""
  return np.rint(levels @ LUMA)


def blend(levels, other, amount):
  """other + factor * (levels - other), as Pillow blends, cut to bytes."""
  factor = 1 + 0.9 * amount
  made = other + factor * (levels.astype(np.float64) - other)
  return np.clip(made, 0, 255)


def pull(levels, source_x, source_y):
  """Nearest pixel at the given places; black beyond the border."""
  x, y = np.floor(source_x).astype(int), np.floor(source_y).astype(int)
  inside = (x >= 0) & (x < SIDE) & (y >= 0) & (y < SIDE)
  made = levels[np.clip(y, 0, SIDE - 1), np.clip(x, 0, SIDE - 1)]
  return np.where(inside[..., None], made, 0)


# Pixel centres.
X, Y = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)


@pytest.mark.parametrize('sign', [1, -1])
@pytest.mark.parametrize('magnitude', [9, 30])
def test_geometry_takes_the_nearest_pixel(levels, sign, magnitude):
  amount = sign * magnitude / MAX
  shear = 0.3 * amount
  shift = int(150 / 331 * SIDE * amount)
  settings = {'sign': sign, 'magnitude': magnitude}
  for name, x, y in (
    ('shear_x', X + shear * Y, Y),
    ('shear_y', X, Y + shear * X),
    ('translate_x', X + shift, Y),
    ('translate_y', X, Y + shift),
  ):
    np.testing.assert_array_equal(
      run(levels, name, **settings), pull(levels, x, y), err_msg=name
    )
  angle = np.radians(30 * amount)
  # Counter-clockwise about the centre; y points down.
  dx, dy = X - SIDE / 2, Y - SIDE / 2
  turned = pull(
    levels,
    np.cos(angle) * dx - np.sin(angle) * dy + SIDE / 2,
    np.sin(angle) * dx + np.cos(angle) * dy + SIDE / 2,
  )
  differs = (run(levels, 'rotate', **settings) != turned).any(-1)
  assert differs.mean() < 0.01  # Places that lie on an edge between two pixels.


@pytest.mark.parametrize('amount', [0.3, 1.0, -0.3, -1.0])
def test_colour_is_blended(levels, amount):
  settings = {'sign': np.sign(amount), 'magnitude': round(abs(amount) * MAX)}
  luma = grey(levels)[..., None]
  for name, other in (
    ('brightness', 0.0),
    ('color', luma),
    ('contrast', np.floor(luma.mean() + 0.5)),
  ):
    made = run(levels, name, **settings)
    assert abs(made - blend(levels, other, amount)).max() <= 1, name


def test_sharpness_is_blended_with_a_smoothed_picture(levels):
  kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
  smooth = levels.astype(np.float64)
  inner = sum(
    kernel[i, j] * levels[i : SIDE - 2 + i, j : SIDE - 2 + j]
    for i in range(3)
    for j in range(3)
  )
  smooth[1:-1, 1:-1] = inner
  made = run(levels, 'sharpness', sign=-1)
  # Both the smoothed picture and the blend are rounded.
  assert abs(made - blend(levels, smooth, -1.0)).max() <= 1.5
  assert abs(made - levels).max() > 20


def test_levels_are_mapped(levels):
  np.testing.assert_array_equal(run(levels, 'identity'), levels)
  np.testing.assert_array_equal(
    run(levels, 'posterize', magnitude=15), levels & 0b11111100
  )
  np.testing.assert_array_equal(
    run(levels, 'posterize', sign=-1), levels & 0b11110000
  )
  # 255 * (1 - 9/30) = 178.5
  wanted = np.where(levels > 178.5, 255 - levels.astype(int), levels)
  np.testing.assert_array_equal(
    run(levels, 'solarize', magnitude=9, sign=-1), wanted
  )
  low, high = levels.min((0, 1)), levels.max((0, 1))
  stretched = (levels - low.astype(float)) * 255 / (high - low.astype(float))
  assert abs(run(levels, 'autocontrast') - stretched).max() <= 1


def test_equalize_spreads_the_levels(levels):
  made = run(levels, 'equalize')
  for channel in range(3):
    before, after = levels[..., channel].ravel(), made[..., channel].ravel()
    histogram = np.bincount(before, minlength=256)
    step = (histogram.sum() - histogram[np.flatnonzero(histogram)[-1]]) // 255
    table = (step // 2 + np.cumsum(histogram) - histogram) // step
    np.testing.assert_array_equal(after, np.minimum(table, 255)[before])


def test_magnitude_zero_changes_no_pixel_but_in_what_has_no_strength(levels):
  for name in randaugment.OPS:
    if name not in ('autocontrast', 'equalize', 'solarize'):
      np.testing.assert_array_equal(run(levels, name, magnitude=0), levels)
  # From white on: 255 alone.
  np.testing.assert_array_equal(run(levels, 'solarize', magnitude=0), levels)


def test_layers_follow_each_other(levels):
  names = list(randaugment.OPS)
  both = np.array([[names.index('posterize'), 1], [names.index('rotate'), -1]])
  made = randaugment.apply(levels.astype(np.float32) / 255, both, magnitude=MAX)
  first = run(levels, 'posterize').astype(np.uint8)
  second = run(first, 'rotate', sign=-1)
  np.testing.assert_array_equal(np.rint(made * 255).astype(np.int64), second)


def test_draws_are_uniform_and_leave_the_other_columns_alone():
  plain = config_lib.AugmentConfig()
  augment = dataclasses.replace(plain, randaugment_layers=2)
  words = order.example_words(0, 0, index=np.arange(20_000))
  common = {
    'batch_words': words,
    'sizes': np.full((len(words), 2), 32),
    'num_views': 1,
  }
  packed = draws.draw_views(augment, words, **common)
  np.testing.assert_array_equal(
    packed[..., : draws.NUM_COLUMNS], draws.draw_views(plain, words, **common)
  )
  choices = draws.randaugment_choices(packed)[:, 0]
  assert choices.shape == (len(words), 2, 2)
  expected = len(words) / len(randaugment.OPS)
  for layer in range(2):
    counts = np.bincount(choices[:, layer, 0].astype(int))
    assert len(counts) == len(randaugment.OPS)
    assert abs(counts - expected).max() < 5 * np.sqrt(expected)
    assert abs((choices[:, layer, 1] == 1).mean() - 0.5) < 0.02
  same = choices[:, 0, 0] == choices[:, 1, 0]
  assert abs(same.mean() - 1 / len(randaugment.OPS)) < 0.01


def test_the_checks_know_the_largest_magnitude():
  assert config_checks.MAX_RANDAUGMENT_MAGNITUDE == randaugment.MAX_MAGNITUDE


def _batches(loader, levels, *, start_step=0):
  source = Source(
    name='blocks',
    num_examples=12,
    num_classes=0,
    encoded=False,
    read=lambda i: Example(np.roll(levels, i, axis=1), -1),
    example_id=str,
    fingerprint='blocks',
  )
  return pipeline.train_batches(
    source,
    data=config_lib.DataConfig(
      source='digits', image_size=SIDE, loader=loader, num_workers=0
    ),
    augment=config_lib.AugmentConfig(
      crop_sampler='none',
      jitter_prob=0.0,
      gray_prob=0.0,
      blur_prob=0.0,
      randaugment_layers=2,
    ),
    batch_size=6,
    seed=3,
    num_views=1,
    start_step=start_step,
    num_steps=3 - start_step,
  )


def test_loaders_agree_and_any_step_can_be_the_first(levels):
  first = [b['views'] for b in _batches('opencv', levels)]
  (last,) = [b['views'] for b in _batches('opencv', levels, start_step=2)]
  np.testing.assert_array_equal(first[2], last)
  assert len({view.tobytes() for view in first[0]}) > 3
  for ours, theirs in zip(first, _batches('tf', levels), strict=True):
    np.testing.assert_allclose(ours, theirs['views'], atol=1e-6)
