"""Views from a config: what is drawn, how often, in which order."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats

from simclr_jax import config as config_lib
from simclr_jax.data import crops, draws, ops, views
from simclr_jax.data.lazy_tf import tf

NUM_SAMPLES = 20_000
LEAST_P = 1e-3
BATCH_WORDS = np.array([11, 12], np.uint32)
OFF = config_lib.AugmentConfig(
  crop_sampler='none',
  flip_prob=0.0,
  jitter_prob=0.0,
  gray_prob=0.0,
  blur_prob=0.0,
)
EVERYTHING = config_lib.AugmentConfig(solarize_prob=0.3)
TORCHVISION = dataclasses.replace(
  EVERYTHING,
  crop_sampler='torchvision',
  color_ops='torchvision',
  brightness_mode='additive',
  jitter_order='fixed',
  resize='bilinear',
)


def make_words(num, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 2**32, (num, 2), np.uint32)


def make_image(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def run(view_fn, image, words, batch_words=None):
  """Views [num words, V, H, W, 3], made inside tf.data."""
  if batch_words is None:
    batch_words = np.broadcast_to(BATCH_WORDS, words.shape)
  image = tf.constant(image)
  dataset = tf.data.Dataset.from_tensor_slices((words, batch_words))
  dataset = dataset.map(lambda w, b: view_fn(image, w, b), num_parallel_calls=2)
  return next(iter(dataset.batch(len(words)))).numpy()


def run_eagerly(view_fn, image, words, batch_words=BATCH_WORDS):
  """The same without a graph: quick for a few."""
  return np.stack([view_fn(image, pair, batch_words) for pair in words])


@pytest.mark.parametrize('augment', [EVERYTHING, TORCHVISION, OFF])
def test_shape_range_and_determinism(augment):
  view_fn = views.make_view_fn(augment, image_size=24, num_views=2)
  image, words = make_image(40, 31), make_words(40)
  made = run(view_fn, image, words)
  assert made.shape == (40, 2, 24, 24, 3) and made.dtype == np.float32
  assert made.min() >= 0 and made.max() <= 1
  # Neither the place in the batch nor the number of views changes a view.
  fewer = views.make_view_fn(augment, image_size=24, num_views=1)
  again = run_eagerly(fewer, image, words[::-1])
  np.testing.assert_allclose(made[::-1, :1], again, atol=1e-5)
  np.testing.assert_array_equal(again, run_eagerly(fewer, image, words[::-1]))
  if augment is not OFF:
    flat = made.reshape(80, -1)
    assert len(np.unique(flat, axis=0)) == 80


def test_signed_words_and_float_images_give_the_same_views():
  view_fn = views.make_view_fn(EVERYTHING, image_size=24, num_views=2)
  image, words = make_image(40, 31), make_words(8)
  made = run_eagerly(view_fn, image, words)
  signed = run_eagerly(
    view_fn, image, words.view(np.int32), BATCH_WORDS.view(np.int32)
  )
  np.testing.assert_array_equal(made, signed)
  as_float = run_eagerly(view_fn, image.astype(np.float32) / 255, words)
  np.testing.assert_allclose(made, as_float, atol=1e-5)


def test_size_unknown_to_the_graph():
  view_fn = views.make_view_fn(EVERYTHING, image_size=20, num_views=2)
  eval_fn = views.make_eval_fn(config_lib.EvalConfig(), image_size=40)
  signature = tf.TensorSpec([None, None, 3], tf.uint8)

  @tf.function(input_signature=[signature])
  def both(image):
    words = tf.constant([1, 2], tf.uint32)
    return view_fn(image, words, words), eval_fn(image)

  shapes = both.get_concrete_function().output_shapes
  assert [tuple(s) for s in shapes] == [(2, 20, 20, 3), (40, 40, 3)]
  for size in [(1, 1), (25, 60), (301, 7)]:
    made, _ = both(make_image(*size))
    assert np.isfinite(made).all()


def expected_view(augment, image, words, *, index, size):
  """One view written out step by step, with the names of the draws."""
  d = draws.Draws(words, f'view{index}')
  shared = draws.Draws(BATCH_WORDS, f'batch/view{index}')
  box = crops.official_box(
    tf.shape(image)[:2],
    d.seed('crop'),
    area=augment.crop_area,
    aspect=augment.crop_aspect,
  )
  view = crops.crop_and_resize(
    tf.constant(image), box, size=size, method=augment.resize
  ).numpy()
  if d.uniform('flip') < augment.flip_prob:
    view = view[:, ::-1]
  if d.uniform('jitter') < augment.jitter_prob:
    s = augment.jitter_strength
    steps = {
      'brightness': lambda x, u: x * (1 + s * augment.brightness * u),
      'contrast': lambda x, u: (
        (x - x.mean((0, 1))) * (1 + s * augment.contrast * u) + x.mean((0, 1))
      ),
      'saturation': lambda x, u: tf.image.adjust_saturation(
        x, 1 + s * augment.saturation * u
      ).numpy(),
      'hue': lambda x, u: tf.image.adjust_hue(x, s * augment.hue * u).numpy(),
    }
    orders = list(itertools.permutations(steps))
    for name in orders[int(d.uniform('order') * 24)]:
      u = 2 * float(d.uniform(name)) - 1
      view = np.clip(steps[name](view, np.float32(u)), 0, 1)
  if d.uniform('gray') < augment.gray_prob:
    view = np.repeat(view @ np.float32([[0.2989], [0.587], [0.114]]), 3, -1)
  view = np.clip(view, 0, 1)
  if d.uniform('blur') < augment.blur_prob:
    low, high = augment.blur_sigma
    source = shared if augment.blur_sigma_per == 'batch' else d
    sigma = low + (high - low) * float(source.uniform('blur_sigma'))
    view = ops.gaussian_blur(
      tf.constant(view), sigma, radius=ops.blur_radius(size)
    )
    view = np.clip(view, 0, 1)
  if d.uniform('solarize') < augment.solarize_prob:
    view = np.where(view < augment.solarize_threshold, view, 1 - view)
  return view


@pytest.mark.parametrize('sigma_per', ['image', 'batch'])
def test_steps_in_the_official_order(sigma_per):
  augment = dataclasses.replace(
    EVERYTHING,
    gray_prob=0.5,
    solarize_prob=0.5,
    jitter_strength=0.7,
    blur_sigma_per=sigma_per,
  )
  view_fn = views.make_view_fn(augment, image_size=40, num_views=2)
  image, words = make_image(47, 60), make_words(12, seed=3)
  made = run_eagerly(view_fn, image, words)
  for i, index in itertools.product(range(len(words)), range(2)):
    expected = expected_view(augment, image, words[i], index=index, size=40)
    # A pixel at the threshold may fall to either side of it by rounding.
    differs = np.abs(made[i, index] - expected) > 1e-4
    assert differs.mean() < 1e-3, (i, index)


def test_frequencies_of_flip_jitter_and_gray(golden):
  expected = golden('augment_stats')
  # Dark on the left: the largest factor, 1.8, does not reach the clip at 1.
  image = np.float32([[[0.1, 0.2, 0.3], [0.3, 0.4, 0.5]]] * 2)
  augment = dataclasses.replace(
    OFF,
    flip_prob=0.5,
    jitter_prob=0.8,
    gray_prob=0.2,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
  )
  view_fn = views.make_view_fn(augment, image_size=2, num_views=2)
  made = run(view_fn, image, make_words(NUM_SAMPLES // 2))
  made = made.reshape(NUM_SAMPLES, 2, 2, 3)
  flipped = made[:, 0, 0].sum(-1) > made[:, 0, 1].sum(-1)
  gray = np.ptp(made, axis=-1).max((1, 2)) < 1e-6
  luma = np.array([0.2989, 0.587, 0.114])
  factor = (made @ luma).sum((1, 2)) / (image @ luma).sum()
  # Grey drops 1e-4 of the luma, because the weights sum to 0.9999.
  jittered = np.abs(factor - 1) > 3e-4
  assert flipped.mean() == pytest.approx(0.5, abs=0.01)
  assert flipped.mean() == pytest.approx(expected['freq_flip'], abs=0.015)
  joint = [
    np.mean(a & b)
    for a, b in [
      (jittered, ~gray),
      (jittered, gray),
      (~jittered, ~gray),
      (~jittered, gray),
    ]
  ]
  np.testing.assert_allclose(joint, [0.64, 0.16, 0.16, 0.04], atol=0.01)
  # Two samples of 20,000 differ by more than one does from its expectation.
  np.testing.assert_allclose(
    joint, expected['freq_joint_jitter_gray'], atol=0.015
  )
  # The two views of an image share nothing.
  for values in (flipped, jittered, gray):
    first, second = values.reshape(-1, 2).T
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04


def spy_on_jitter(monkeypatch):
  """color_jitter paints its amounts and its order instead."""

  def paint(image, amounts, *, color_ops, order=None):
    del color_ops
    values = tf.stack([amounts[k] for k in list(amounts)])
    values = tf.concat([values / 4 + 0.5, tf.cast(order, tf.float32) / 4], 0)
    return tf.reshape(tf.concat([values, [0.0] * 4], 0), image.shape)

  monkeypatch.setattr(views.ops, 'color_jitter', paint)


@pytest.mark.parametrize(
  ('strength', 'mode'), [(1, 'multiplicative'), (0.5, 'additive')]
)
def test_strengths_and_orders(golden, monkeypatch, strength, mode):
  expected = golden('augment_stats')
  spy_on_jitter(monkeypatch)
  augment = dataclasses.replace(
    OFF, jitter_prob=1.0, jitter_strength=float(strength), brightness_mode=mode
  )
  view_fn = views.make_view_fn(augment, image_size=2, num_views=1)
  made = run(view_fn, make_image(2, 2), make_words(NUM_SAMPLES, seed=5))
  painted = made.reshape(NUM_SAMPLES, 12)
  amounts = painted[:, :4] * 4 - 2
  ranges = expected[f'range_strength{strength}_brightv2_brightv1_contrast']
  rows = [(0, ranges[0 if mode == 'multiplicative' else 1]), (1, ranges[2])]
  for column, row in rows:
    values = amounts[:, column]
    got = [values.min(), values.max(), values.mean(), values.std()]
    np.testing.assert_allclose(got, row, atol=0.01)
  saturation = stats.uniform(1 - 0.8 * strength, 1.6 * strength).cdf
  assert stats.kstest(amounts[:, 2], saturation).pvalue > LEAST_P
  hue = stats.uniform(-0.2 * strength, 0.4 * strength).cdf
  assert stats.kstest(amounts[:, 3], hue).pvalue > LEAST_P
  dependence = np.corrcoef(amounts.T) - np.eye(4)
  assert np.abs(dependence).max() < 0.03

  orders = np.round(painted[:, 4:8] * 4).astype(int)
  names, counts = np.unique(orders, axis=0, return_counts=True)
  np.testing.assert_array_equal(names, expected['order_perm'])
  np.testing.assert_allclose(
    counts / NUM_SAMPLES, expected['order_freq'], atol=0.01
  )
  assert stats.chisquare(counts).pvalue > LEAST_P


def test_strengths_above_one_never_invert(monkeypatch):
  spy_on_jitter(monkeypatch)
  augment = dataclasses.replace(
    OFF, jitter_prob=1.0, jitter_strength=2.0, brightness=0.8, hue=0.1
  )
  view_fn = views.make_view_fn(augment, image_size=2, num_views=1)
  made = run(view_fn, make_image(2, 2), make_words(500))
  factors = made.reshape(500, 12)[:, :3] * 4 - 2
  assert 0 <= factors.min() < 0.1


def spy_on_blur(monkeypatch):
  """gaussian_blur paints a quarter of its sigma instead."""
  monkeypatch.setattr(
    views.ops,
    'gaussian_blur',
    lambda image, sigma, *, radius: tf.zeros(image.shape) + sigma / 4,
  )


def test_blur_of_each_image(golden, monkeypatch):
  expected = golden('augment_stats')
  spy_on_blur(monkeypatch)
  augment = dataclasses.replace(OFF, blur_prob=0.5)
  view_fn = views.make_view_fn(augment, image_size=20, num_views=2)
  black = np.zeros((20, 20, 3), np.uint8)
  words = make_words(NUM_SAMPLES // 2)
  dataset = tf.data.Dataset.from_tensor_slices(words).map(
    lambda w: view_fn(tf.constant(black), w, BATCH_WORDS)[:, 0, 0, 0],
    num_parallel_calls=2,
  )
  sigma = next(iter(dataset.batch(len(words)))).numpy() * 4
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


def test_one_sigma_for_a_batch_and_view(monkeypatch):
  spy_on_blur(monkeypatch)
  augment = dataclasses.replace(OFF, blur_prob=0.5, blur_sigma_per='batch')
  view_fn = views.make_view_fn(augment, image_size=20, num_views=2)
  black = np.zeros((20, 20, 3), np.uint8)
  steps = make_words(3, seed=9)
  made = run(
    view_fn, black, make_words(120), batch_words=np.repeat(steps, 40, axis=0)
  )
  sigma = made[..., 0, 0, 0].reshape(3, 40, 2)
  blurred = (sigma > 0).mean(1)
  assert (0.2 < blurred).all() and (blurred < 0.8).all()
  found = {
    float(v) for s in range(3) for v in np.unique(sigma[s, :, 0]) if v > 0
  } | {float(v) for s in range(3) for v in np.unique(sigma[s, :, 1]) if v > 0}
  assert len(found) == 3 * 2
  for step, index in itertools.product(range(3), range(2)):
    assert len(np.unique(sigma[step, :, index])) == 2  # one sigma, and none


def operations(augment):
  """Counts of the operations in the graph of one view, branches included."""
  view_fn = views.make_view_fn(augment, image_size=20, num_views=1)

  @tf.function
  def make(image, words):
    return view_fn(image, words, words)

  graph = make.get_concrete_function(
    tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.uint32)
  ).graph.as_graph_def()
  nodes = list(graph.node)
  for function in graph.library.function:
    nodes.extend(function.node_def)
  return collections.Counter(node.op for node in nodes)


def num_draws(counts):
  return sum(
    count
    for op, count in counts.items()
    if op.startswith(('StatelessRandomUniform', 'StatelessSampleDistorted'))
  )


def test_without_augmentation_only_the_resize_is_left():
  counts = operations(OFF)
  assert not any(
    op.startswith(('Stateless', 'If', 'Case', 'Slice')) for op in counts
  )


def test_what_cannot_happen_leaves_no_operation():
  everything = operations(EVERYTHING)
  # crop, flip, jitter, order, four strengths, gray, blur, sigma, solarize.
  assert num_draws(everything) == 12
  for change, num, gone in [
    ({'crop_sampler': 'none'}, 11, 'StatelessSampleDistortedBoundingBox'),
    ({'flip_prob': 0.0}, 11, 'ReverseV2'),
    ({'jitter_prob': 0.0}, 6, 'AdjustHue'),
    ({'jitter_strength': 0.0}, 6, 'AdjustHue'),
    ({'jitter_order': 'fixed'}, 11, None),
    ({'hue': 0.0}, 11, 'AdjustHue'),
    (
      {'brightness': 0.0, 'contrast': 0.0, 'saturation': 0.0},
      8,
      'AdjustSaturation',
    ),
    ({'contrast': 0.0, 'gray_prob': 0.0}, 10, 'AdjustContrastv2'),
    ({'blur_prob': 0.0}, 10, 'DepthwiseConv2dNative'),
    ({'solarize_prob': 0.0}, 11, None),
  ]:
    counts = operations(dataclasses.replace(EVERYTHING, **change))
    assert num_draws(counts) == num, change
    assert gone is None or (everything[gone] and not counts[gone]), change


@pytest.mark.parametrize('sigma_per', ['image', 'batch'])
def test_no_two_draws_share_a_seed(monkeypatch, sigma_per):
  seeds = []
  seed = draws.Draws.seed

  def record(self, name):
    seeds.append(seed(self, name))
    return seeds[-1]

  monkeypatch.setattr(draws.Draws, 'seed', record)
  augment = dataclasses.replace(EVERYTHING, blur_sigma_per=sigma_per)
  view_fn = views.make_view_fn(augment, image_size=20, num_views=4)
  # The same words on purpose: even then a batch's draw is one of its own.
  view_fn(make_image(20, 20), BATCH_WORDS, BATCH_WORDS)
  assert len({tuple(s.numpy()) for s in seeds}) == len(seeds) == 4 * 12


def test_settings_without_effect_are_refused():
  with pytest.raises(ValueError, match='blur_prob'):
    views.make_view_fn(EVERYTHING, image_size=19, num_views=2)
  small = dataclasses.replace(OFF, crop_sampler='official', crop_area=(0, 0.1))
  with pytest.raises(ValueError, match='crop_area'):
    views.make_view_fn(small, image_size=19, num_views=2)
  with pytest.raises(ValueError, match='num_views = 0'):
    views.make_view_fn(OFF, image_size=19, num_views=0)


def test_whole_image_without_crop():
  view_fn = views.make_view_fn(OFF, image_size=16, num_views=2)
  image = make_image(16, 16)
  made = view_fn(image, BATCH_WORDS, BATCH_WORDS)
  np.testing.assert_allclose(made, np.stack([image / 255] * 2), atol=1e-6)


@pytest.mark.parametrize('name', ['300x200', '257x401', '32x32'])
def test_official_eval_crop(golden, name):
  data = golden('augment')
  eval_fn = views.make_eval_fn(config_lib.EvalConfig(), image_size=64)
  got = eval_fn(data[f'eval_src_flower_{name}'])
  np.testing.assert_allclose(got, data[f'eval64_flower_{name}'], atol=3e-4)


@pytest.mark.parametrize('name', ['cifar0', 'cifar1', 'cifar2'])
def test_official_eval_of_small_images(golden, name):
  data = golden('augment')
  source = data[f'eval_src_{name}']
  eval_fn = views.make_eval_fn(config_lib.EvalConfig(), image_size=32)
  got = eval_fn(source)
  np.testing.assert_allclose(got, data[f'eval32_nocrop_{name}'], atol=1e-6)
  box = crops.centre_box(tf.constant([32, 32]), fraction=0.875)
  cropped = crops.crop_and_resize(
    tf.constant(source), box, size=32, method='bicubic'
  )
  np.testing.assert_allclose(
    ops.clip(cropped), data[f'eval32_crop_{name}'], atol=3e-4
  )


def test_small_eval_images_keep_their_aspect():
  image = make_image(20, 30)
  eval_fn = views.make_eval_fn(config_lib.EvalConfig(), image_size=20)
  np.testing.assert_allclose(eval_fn(image), image[:, 5:25] / 255, atol=1e-6)


def test_eval_resize_method_and_range():
  image = make_image(90, 100)
  made = {}
  for method in ('bicubic', 'bilinear'):
    eval_config = config_lib.EvalConfig(resize=method, crop_fraction=1.0)
    made[method] = views.make_eval_fn(eval_config, image_size=40)(image)
    assert made[method].numpy().min() >= 0 and made[method].numpy().max() <= 1
  assert np.abs(made['bicubic'] - made['bilinear']).max() > 0.01
