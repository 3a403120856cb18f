"""Named draws, and what is drawn for views: how often, how much, in what order.

Statistics are held to those of the official code (augment_stats.npz).
"""

import dataclasses
import hashlib

import numpy as np
import pytest
from scipy import stats

from simclr_jax import config as config_lib
from simclr_jax.data import draws
from simclr_jax.data.draws import Draws

NUM_SAMPLES = 20_000
LEAST_P = 1e-3
WORDS = np.array([0xFFFFFFFF, 0x12345678], np.uint32)
EVERYTHING = config_lib.AugmentConfig(solarize_prob=0.3)
JITTER = ['jitter', 'order', 'brightness', 'contrast', 'saturation', 'hue']


def flip_bits(first, second):
  return WORDS ^ np.array([first, second], np.uint32)


def make_words(num, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 2**32, (num, 2), np.uint32)


def draw(augment, words, *, batch_words=None, size=(40, 50), num_views=2):
  """Named columns, each [n, V, ...]."""
  if batch_words is None:
    batch_words = np.broadcast_to(WORDS, words.shape)
  packed = draws.draw_views(
    augment,
    words,
    batch_words=batch_words,
    sizes=np.broadcast_to(size, (len(words), 2)),
    num_views=num_views,
  )
  assert packed.dtype == np.float32
  assert packed.shape == (len(words), num_views, draws.NUM_COLUMNS)
  return draws.unpack(packed)


def test_same_words_and_name_same_number():
  first = Draws(WORDS, ['view0']).uniform('crop')
  assert first.shape == (1,)
  assert first == Draws(WORDS, ['view0']).uniform('crop')
  both = Draws(np.stack([WORDS] * 3), ['view1', 'view0']).uniform('crop')
  assert both.shape == (3, 2)
  assert (both[:, 1] == first).all() and (both[:, 0] != first).all()


def splitmix(state, place):
  """Element of the splitmix64 sequence, in Python integers."""
  z = (state + (place + 1) * 0x9E3779B97F4A7C15) % 2**64
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
  return z ^ (z >> 31)


def test_numbers_never_change():
  # What a run drew must be drawn again by every later version.
  tag = hashlib.sha256(b'view0/crop').digest()[:8]
  start = (0x12345678FFFFFFFF) ^ int.from_bytes(tag, 'little')
  expected = [splitmix(start, place) / 2**64 for place in range(3)]
  numbers = Draws(WORDS, ['view0']).stream('crop')(3)
  np.testing.assert_allclose(numbers[0], expected, rtol=0, atol=2**-52)
  assert numbers[0, 0] == pytest.approx(0.15824941425451433, abs=1e-15)


def test_every_part_of_the_name_and_all_bits_of_the_words_count():
  starts = {
    int(Draws(words, [scope]).start(name)[0])
    for words in (
      WORDS,
      flip_bits(1, 0),
      flip_bits(0, 1),
      flip_bits(1 << 31, 0),
      flip_bits(0, 1 << 31),
    )
    for scope in ('view0', 'view1', 'batch/view0')
    for name in ('crop', 'flip')
  }
  assert len(starts) == 5 * 3 * 2


def test_a_name_cannot_be_drawn_twice():
  some = Draws(WORDS, ['view0'])
  some.uniform('crop')
  with pytest.raises(ValueError, match='crop of view0'):
    some.stream('crop')


def test_numbers_are_uniform_and_names_independent():
  # Neighbouring words, as bad as words can be.
  words = np.stack([np.arange(5000), np.zeros(5000)], 1).astype(np.uint32)
  some = Draws(words, ['view0', 'view1'])
  a, b = some.uniform('a').T
  c = some.uniform('b', -2.0, 4.0)[:, 0]
  more = Draws(words, ['view0']).stream('a')
  np.testing.assert_array_equal(more(1)[:, 0, 0], a)
  d = more(2)[:, 0, 1]
  for values in (a, b, d):
    assert stats.kstest(values, 'uniform').pvalue > LEAST_P
  assert stats.kstest(c, stats.uniform(-2, 6).cdf).pvalue > LEAST_P
  for x, y in [(a, b), (a, c), (b, c), (a, d), (a[1:], a[:-1])]:
    assert abs(stats.spearmanr(x, y).statistic) < 0.05


def test_chance_is_a_probability():
  some = Draws(make_words(2000), ['v'])
  assert 340 < some.chance('p', 0.2).sum() < 460
  assert some.chance('one', 1.0).all()


@pytest.mark.parametrize(
  'words', [np.zeros(2, np.int64), np.zeros(2, np.float32), WORDS[:1]]
)
def test_other_words_are_refused(words):
  with pytest.raises(ValueError, match='uint32'):
    Draws(words, ['view0'])


def test_views_do_not_depend_on_their_neighbours():
  words = make_words(40)
  whole = draw(EVERYTHING, words)
  for change in (slice(None, None, -1), slice(3, 4)):
    part = draw(EVERYTHING, words[change], num_views=1)
    for a, b in zip(whole, part, strict=True):
      np.testing.assert_array_equal(a[change, :1], b)
  # Every example and view is drawn for itself.
  amounts = np.stack([whole.brightness, whole.hue], -1).reshape(80, 2)
  assert len(np.unique(amounts, axis=0)) == 80


def test_frequencies_of_flip_jitter_and_gray(golden):
  expected = golden('augment_stats')
  drawn = draw(EVERYTHING, make_words(NUM_SAMPLES // 2))
  assert set(np.unique(drawn.flip)) == {0, 1}
  assert drawn.flip.mean() == pytest.approx(0.5, abs=0.01)
  assert drawn.flip.mean() == pytest.approx(expected['freq_flip'], abs=0.015)
  jitter, gray = drawn.jitter > 0, drawn.gray > 0
  joint = [
    np.mean(a & b)
    for a, b in [
      (jitter, ~gray),
      (jitter, gray),
      (~jitter, ~gray),
      (~jitter, gray),
    ]
  ]
  np.testing.assert_allclose(joint, [0.64, 0.16, 0.16, 0.04], atol=0.01)
  # Two samples of 20,000 differ by more than one does from its expectation.
  np.testing.assert_allclose(
    joint, expected['freq_joint_jitter_gray'], atol=0.015
  )
  assert drawn.solarize.mean() == pytest.approx(0.3, abs=0.01)
  # The two views of an image share nothing.
  for values in (drawn.flip, drawn.jitter, drawn.gray, drawn.solarize):
    assert abs(np.corrcoef(values.T)[0, 1]) < 0.04


@pytest.mark.parametrize(
  ('strength', 'mode'), [(1, 'multiplicative'), (0.5, 'additive')]
)
def test_strengths_and_orders(golden, strength, mode):
  expected = golden('augment_stats')
  augment = dataclasses.replace(
    EVERYTHING, jitter_strength=float(strength), brightness_mode=mode
  )
  drawn = draw(augment, make_words(NUM_SAMPLES, seed=5), num_views=1)
  ranges = expected[f'range_strength{strength}_brightv2_brightv1_contrast']
  rows = [
    (drawn.brightness, ranges[0 if mode == 'multiplicative' else 1]),
    (drawn.contrast, ranges[2]),
  ]
  for values, row in rows:
    got = [values.min(), values.max(), values.mean(), values.std()]
    np.testing.assert_allclose(got, row, atol=0.01)
  saturation = stats.uniform(1 - 0.8 * strength, 1.6 * strength).cdf
  assert stats.kstest(drawn.saturation.ravel(), saturation).pvalue > LEAST_P
  hue = stats.uniform(-0.2 * strength, 0.4 * strength).cdf
  assert stats.kstest(drawn.hue.ravel(), hue).pvalue > LEAST_P
  amounts = np.stack(
    [drawn.brightness, drawn.contrast, drawn.saturation, drawn.hue], -1
  ).reshape(-1, 4)
  dependence = np.corrcoef(amounts.T) - np.eye(4)
  assert np.abs(dependence).max() < 0.03

  orders = drawn.order.reshape(-1, 4).astype(int)
  names, counts = np.unique(orders, axis=0, return_counts=True)
  np.testing.assert_array_equal(names, expected['order_perm'])
  np.testing.assert_allclose(
    counts / NUM_SAMPLES, expected['order_freq'], atol=0.01
  )
  assert stats.chisquare(counts).pvalue > LEAST_P


def test_strengths_above_one_never_invert():
  augment = dataclasses.replace(EVERYTHING, jitter_strength=2.0, hue=0.1)
  drawn = draw(augment, make_words(500))
  for factors in (drawn.brightness, drawn.contrast, drawn.saturation):
    assert 0 <= factors.min() < 0.1
  assert -0.2 <= drawn.hue.min() < -0.15


def test_orders_of_fewer_operations():
  augment = dataclasses.replace(EVERYTHING, saturation=0.0)
  assert draws.jitter_ops(augment) == ('brightness', 'contrast', 'hue')
  orders = draw(augment, make_words(300)).order[..., :3].reshape(-1, 3)
  assert len(np.unique(orders, axis=0)) == 6
  assert (np.sort(orders, axis=1) == np.arange(3)).all()
  fixed = dataclasses.replace(EVERYTHING, jitter_order='fixed')
  orders = draw(fixed, make_words(30)).order
  assert (orders == np.arange(4)).all()


def test_blur_of_each_image(golden):
  expected = golden('augment_stats')
  sigma = draw(EVERYTHING, make_words(NUM_SAMPLES // 2)).blur_sigma
  blurred = sigma > 0
  assert blurred.mean() == pytest.approx(0.5, abs=0.01)
  # The golden fraction misses sigma below 0.18, where one tap is all.
  seen = (sigma > expected['blur_sigma'].min()).mean()
  assert seen == pytest.approx(expected['blur_applied_fraction'], abs=0.012)
  uniform = stats.uniform(0.1, 1.9).cdf
  assert stats.kstest(sigma[blurred], uniform).pvalue > LEAST_P
  visible = sigma[sigma > expected['blur_sigma'].min()]
  same = stats.ks_2samp(visible, expected['blur_sigma'])
  assert same.pvalue > LEAST_P
  both = blurred.all(1)
  assert abs(np.corrcoef(sigma[both].T)[0, 1]) < 0.05


def test_one_sigma_for_a_batch_and_view():
  augment = dataclasses.replace(EVERYTHING, blur_sigma_per='batch')
  steps = np.repeat(make_words(3, seed=9), 40, axis=0)
  sigma = draw(augment, make_words(120), batch_words=steps).blur_sigma
  sigma = sigma.reshape(3, 40, 2)
  blurred = (sigma > 0).mean(1)
  assert (0.2 < blurred).all() and (blurred < 0.8).all()
  for step in range(3):
    for view in range(2):
      values = np.unique(sigma[step, :, view])
      assert len(values) == 2 and values[0] == 0  # one sigma, and none
  assert len(np.unique(sigma)) == 1 + 3 * 2


@pytest.mark.parametrize(
  ('change', 'columns'),
  [
    ({'flip_prob': 0.0}, ['flip']),
    ({'jitter_prob': 0.0}, JITTER),
    ({'jitter_strength': 0.0}, JITTER),
    ({'hue': 0.0}, ['hue']),
    ({'gray_prob': 0.0}, ['gray']),
    ({'blur_prob': 0.0}, ['blur_sigma']),
    ({'solarize_prob': 0.0}, ['solarize']),
  ],
)
def test_what_cannot_happen_is_drawn_as_nothing(change, columns):
  drawn = draw(dataclasses.replace(EVERYTHING, **change), make_words(200))
  for name in draws.COLUMNS:
    assert getattr(drawn, name).any() == (name not in columns), name
  whole = dataclasses.replace(EVERYTHING, crop_sampler='none')
  assert (draw(whole, make_words(9)).box == [0, 0, 40, 50]).all()


@pytest.mark.parametrize('sigma_per', ['image', 'batch'])
def test_no_two_draws_share_a_start(monkeypatch, sigma_per):
  starts = []
  start = Draws.start

  def record(self, name):
    starts.append(start(self, name))
    return starts[-1]

  monkeypatch.setattr(Draws, 'start', record)
  augment = dataclasses.replace(EVERYTHING, blur_sigma_per=sigma_per)
  # The same words on purpose: even then a batch's draw is one of its own.
  draw(augment, WORDS[None], num_views=4)
  # crop, flip, jitter, order, four amounts, gray, sigma, blur, solarize.
  assert len(np.unique(starts)) == 4 * 12 == np.size(starts)


def test_settings_without_effect_are_refused():
  check = draws.check_augment
  with pytest.raises(ValueError, match='blur_prob'):
    check(EVERYTHING, image_size=19, num_views=2)
  small = dataclasses.replace(EVERYTHING, blur_prob=0.0, crop_area=(0, 0.1))
  with pytest.raises(ValueError, match='crop_area'):
    check(small, image_size=19, num_views=2)
  with pytest.raises(ValueError, match='num_views = 0'):
    check(EVERYTHING, image_size=32, num_views=0)
  check(EVERYTHING, image_size=20, num_views=1)


def test_blur_radius_of_the_official_sizes():
  taps = {s: 2 * draws.blur_radius(s) + 1 for s in (19, 20, 32, 64, 96, 224)}
  assert taps == {19: 1, 20: 3, 32: 3, 64: 7, 96: 9, 224: 23}
