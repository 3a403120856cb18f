"""Boxes against the official code's numbers and a NumPy torchvision oracle."""

import numpy as np
import pytest
from scipy import stats

from simclr_jax.data import boxes
from simclr_jax.data.lazy_tf import tf

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
NUM_SAMPLES = 20_000
# Two samples of 20,000 differ by more than 0.0195 with probability 0.001.
LEAST_P = 1e-3


def make_uniforms(shape, seed=0):
  """Independent numbers from NumPy's own generator."""
  rng = np.random.default_rng(seed)
  return lambda count: rng.random((*shape, count))


def sample_boxes(sampler, size, *, area=AREA, aspect=ASPECT, seed=0):
  """Boxes int [NUM_SAMPLES, 4] of images of a (height, width)."""
  made = sampler(
    np.broadcast_to(size, (NUM_SAMPLES, 2)),
    make_uniforms((NUM_SAMPLES,), seed),
    area=area,
    aspect=aspect,
  )
  assert made.dtype == np.int32
  return made


def box_statistics(boxes, size):
  """What a crop sampler can get wrong, each as [n]."""
  y, x, h, w = np.asarray(boxes, np.float64).T
  height, width = size
  return {
    'area': h * w / (height * width),
    'aspect': w / h,
    'top': y,
    'left': x,
    'bottom': height - y - h,
    'right': width - x - w,
  }


def assert_same_distribution(got, expected, size):
  expected = box_statistics(expected, size)
  for name, values in box_statistics(got, size).items():
    result = stats.ks_2samp(values, expected[name], method='asymp')
    assert result.pvalue > LEAST_P, (size, name, result)


def sizes_of(golden_stats):
  keys = [k for k in golden_stats.files if k.endswith('_boxes')]
  sizes = [k.removeprefix('crop_').removesuffix('_boxes') for k in keys]
  return [tuple(int(n) for n in s.split('x')) for s in sizes]


def test_official_sampler_statistics(golden):
  expected = golden('augment_stats')
  sizes = sizes_of(expected)
  assert len(sizes) == 7
  for height, width in sizes:
    made = sample_boxes(boxes.official_boxes, (height, width))
    key = f'crop_{height}x{width}'
    assert_same_distribution(made, expected[f'{key}_boxes'], (height, width))
    whole = np.mean((made == [0, 0, height, width]).all(1))
    assert whole == pytest.approx(expected[f'{key}_summary'][8], abs=3e-3)


def test_official_sampler_cannot_go_below_a_tenth():
  size = (224, 224)
  made = sample_boxes(boxes.official_boxes, size, area=(0.02, 0.5))
  area = box_statistics(made, size)['area']
  assert 0.0995 < area.min() < 0.105
  assert 0.49 < area.max() <= 0.501


def test_official_sampler_tries_a_hundred_times():
  # Ten tries would hardly show in the statistics above.
  taken = []

  def uniforms(count):
    taken.append(count)
    return np.zeros((1, count))

  # 20 x 400 never fits.
  box = boxes.official_boxes(
    np.array([[20, 400]]), uniforms, area=AREA, aspect=ASPECT
  )
  assert sum(taken) == 4 * 100
  assert box.tolist() == [[0, 0, 20, 400]]


def test_official_sampler_takes_the_first_try_that_fits():
  def uniforms(count):
    # Aspect 1 throughout; heights from too small (below a tenth) upwards.
    tries = np.zeros((count // 4, 4))
    tries[:, 0] = 3 / 7
    tries[:, 1] = np.linspace(0, 0.999, len(tries))
    return tries.reshape(1, count)

  box = boxes.official_boxes(
    np.array([[100, 100]]), uniforms, area=(0.01, 1.0), aspect=ASPECT
  )
  # Heights are 10 + floor(91 u) for u = 0, 0.111, 0.222, 0.333: 10, 20, 30, 40.
  assert box.tolist() == [[0, 0, 40, 40]]


@pytest.mark.parametrize('size', [(9, 9), (33, 20), (500, 375)])
def test_official_sampler_is_tensorflows(size):
  rng = np.random.default_rng(3)
  seeds = rng.integers(0, 2**31, (4000, 2)).astype(np.int32)

  def draw(seed):
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
      [*size, 3],
      bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
      seed=seed,
      min_object_covered=0.1,
      aspect_ratio_range=(0.5, 3.0),
      area_range=(0.3, 0.9),
      max_attempts=100,
    )
    return tf.concat([begin[:2], extent[:2]], 0)

  dataset = tf.data.Dataset.from_tensor_slices(seeds).map(draw).batch(4000)
  expected = next(iter(dataset)).numpy()
  made = sample_boxes(
    boxes.official_boxes, size, area=(0.3, 0.9), aspect=(0.5, 3.0)
  )
  assert_same_distribution(made, expected, size)


def torchvision_oracle(size, rng, *, area, aspect):
  """RandomResizedCrop.get_params for NUM_SAMPLES images, in float64."""
  height, width = size
  share = rng.uniform(*area, (NUM_SAMPLES, 10))
  ratio = np.exp(rng.uniform(*np.log(aspect), (NUM_SAMPLES, 10)))
  w = np.round(np.sqrt(share * height * width * ratio))
  h = np.round(np.sqrt(share * height * width / ratio))
  fits = (0 < w) & (w <= width) & (0 < h) & (h <= height)
  crop_h, crop_w = height, width
  if width / height < min(aspect):
    crop_h = round(width / min(aspect))
  elif width / height > max(aspect):
    crop_w = round(height * max(aspect))
  top, left = (height - crop_h) // 2, (width - crop_w) // 2
  boxes = np.tile([top, left, crop_h, crop_w], (NUM_SAMPLES, 1))
  found = fits.any(1)
  first = np.arange(NUM_SAMPLES), fits.argmax(1)
  h, w = h[first][found].astype(int), w[first][found].astype(int)
  y = rng.integers(0, height - h + 1)
  x = rng.integers(0, width - w + 1)
  boxes[found] = np.stack([y, x, h, w], axis=1)
  return boxes


def test_torchvision_sampler_statistics():
  rng = np.random.default_rng(1)
  # 60 x 400 falls back often, 3 x 3 rounds hard.
  sizes = [(32, 32), (375, 500), (60, 400), (3, 3)]
  for size in sizes:
    made = sample_boxes(boxes.torchvision_boxes, size)
    expected = torchvision_oracle(size, rng, area=AREA, aspect=ASPECT)
    assert_same_distribution(made, expected, size)


@pytest.mark.parametrize(
  ('size', 'expected'),
  [((20, 400), [0, 186, 20, 27]), ((401, 21), [186, 0, 28, 21])],
)
def test_torchvision_falls_back_to_a_centred_box(size, expected):
  made = boxes.torchvision_boxes(
    np.array([size] * 20), make_uniforms((20,)), area=AREA, aspect=ASPECT
  )
  assert (made == expected).all()


def test_torchvision_area_uniform_and_aspect_log_uniform():
  # Half the image at most: the first try always fits, nothing is rejected.
  size, area = (3000, 3000), (0.2, 0.5)
  samples = sample_boxes(boxes.torchvision_boxes, size, area=area)
  got = box_statistics(samples, size)
  uniform = stats.uniform(0.2, 0.3).cdf
  assert stats.kstest(got['area'], uniform).pvalue > LEAST_P
  low, high = np.log(ASPECT)
  log_uniform = stats.uniform(low, high - low).cdf
  assert stats.kstest(np.log(got['aspect']), log_uniform).pvalue > LEAST_P
  position = samples[:, 0] / (size[0] - samples[:, 2])
  assert stats.kstest(position, 'uniform').pvalue > LEAST_P


@pytest.mark.parametrize(
  'sampler', [boxes.official_boxes, boxes.torchvision_boxes]
)
@pytest.mark.parametrize('size', [(1, 1), (1, 9), (5, 2), (20, 400)])
def test_boxes_lie_within_tiny_images(sampler, size):
  made = sampler(
    np.array([[size]] * 50), make_uniforms((50, 1)), area=AREA, aspect=ASPECT
  )
  y, x, h, w = made[:, 0].T
  assert (h >= 1).all() and (w >= 1).all()
  assert (y >= 0).all() and (y <= size[0] - h).all()
  assert (x >= 0).all() and (x <= size[1] - w).all()


def test_centre_box_table(golden):
  table = golden('augment')['crop_table']
  square = table[table[:, 2] == table[:, 3]]
  assert len(square) == 180
  for height, width, _, _, *box in square:
    h, w, y, x = box
    got = boxes.centre_boxes(np.array([height, width]), fraction=0.875)
    assert got.tolist() == [y, x, h, w], (height, width)


def test_eval_boxes_up_to_32_px_are_whole_squares():
  sizes = np.array([[32, 32], [20, 30]])
  small = boxes.eval_boxes(sizes, crop_fraction=0.875, image_size=32)
  assert small.tolist() == [[0, 0, 32, 32], [0, 5, 20, 20]]
  large = boxes.eval_boxes(sizes, crop_fraction=0.875, image_size=33)
  assert large.tolist() == [[2, 2, 28, 28], [1, 6, 18, 18]]
