"""Crops against the official code's numbers and a NumPy torchvision oracle."""

import numpy as np
import pytest
from scipy import stats

from simclr_jax.data import crops
from simclr_jax.data.lazy_tf import tf

AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
NUM_SAMPLES = 20_000
# Two samples of 20,000 differ by more than 0.0195 with probability 0.001.
LEAST_P = 1e-3


def sample_boxes(sampler, sizes, *, area=AREA, aspect=ASPECT, seed=0):
  """Boxes int [NUM_SAMPLES, 4] for each (height, width) of `sizes`."""
  words = np.random.default_rng(seed).integers(
    -(2**31), 2**31, (NUM_SAMPLES, len(sizes), 2), np.int64
  )

  def draw(seeds):
    return tf.stack(
      [
        sampler(tf.constant(size), seeds[i], area=area, aspect=aspect)
        for i, size in enumerate(sizes)
      ]
    )

  dataset = tf.data.Dataset.from_tensor_slices(words.astype(np.int32))
  dataset = dataset.map(draw, num_parallel_calls=2).batch(NUM_SAMPLES)
  boxes = next(iter(dataset)).numpy()
  return dict(zip(sizes, boxes.transpose(1, 0, 2), strict=True))


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
  samples = sample_boxes(crops.official_box, sizes)
  for (height, width), boxes in samples.items():
    key = f'crop_{height}x{width}'
    assert_same_distribution(boxes, expected[f'{key}_boxes'], (height, width))
    whole = np.mean((boxes == [0, 0, height, width]).all(1))
    assert whole == pytest.approx(expected[f'{key}_summary'][8], abs=3e-3)


def test_official_sampler_cannot_go_below_a_tenth():
  size = (224, 224)
  boxes = sample_boxes(crops.official_box, [size], area=(0.02, 0.5))[size]
  area = box_statistics(boxes, size)['area']
  assert 0.0995 < area.min() < 0.105
  assert 0.49 < area.max() <= 0.501


def test_official_sampler_tries_a_hundred_times():
  # Ten tries would hardly show in the statistics above.
  @tf.function
  def draw(seed):
    return crops.official_box(
      tf.constant([9, 9]), seed, area=AREA, aspect=ASPECT
    )

  graph = draw.get_concrete_function(tf.TensorSpec([2], tf.int32)).graph
  (node,) = [n for n in graph.as_graph_def().node if 'max_attempts' in n.attr]
  assert node.attr['max_attempts'].i == 100


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
  samples = sample_boxes(crops.torchvision_box, sizes)
  for size, boxes in samples.items():
    expected = torchvision_oracle(size, rng, area=AREA, aspect=ASPECT)
    assert_same_distribution(boxes, expected, size)


@pytest.mark.parametrize(
  ('size', 'expected'),
  [((20, 400), [0, 186, 20, 27]), ((401, 21), [186, 0, 28, 21])],
)
def test_torchvision_falls_back_to_a_centred_box(size, expected):
  for seed in range(20):
    box = crops.torchvision_box(
      tf.constant(size), [seed, 1], area=AREA, aspect=ASPECT
    )
    assert box.numpy().tolist() == expected


def test_torchvision_area_uniform_and_aspect_log_uniform():
  # Half the image at most: the first try always fits, nothing is rejected.
  size, area = (3000, 3000), (0.2, 0.5)
  samples = sample_boxes(crops.torchvision_box, [size], area=area)[size]
  got = box_statistics(samples, size)
  uniform = stats.uniform(0.2, 0.3).cdf
  assert stats.kstest(got['area'], uniform).pvalue > LEAST_P
  low, high = np.log(ASPECT)
  log_uniform = stats.uniform(low, high - low).cdf
  assert stats.kstest(np.log(got['aspect']), log_uniform).pvalue > LEAST_P
  position = samples[:, 0] / (size[0] - samples[:, 2])
  assert stats.kstest(position, 'uniform').pvalue > LEAST_P


@pytest.mark.parametrize('sampler', [crops.official_box, crops.torchvision_box])
@pytest.mark.parametrize('size', [(1, 1), (1, 9), (5, 2), (20, 400)])
def test_boxes_lie_within_tiny_images(sampler, size):
  for seed in range(20):
    box = sampler(tf.constant(size), [seed, 1], area=AREA, aspect=ASPECT)
    y, x, h, w = box.numpy()
    assert h >= 1 and w >= 1
    assert 0 <= y <= size[0] - h and 0 <= x <= size[1] - w


def test_centre_box_table(golden):
  table = golden('augment')['crop_table']
  square = table[table[:, 2] == table[:, 3]]
  assert len(square) == 180
  for height, width, _, _, *box in square:
    h, w, y, x = box
    got = crops.centre_box(tf.constant([height, width]), fraction=0.875)
    assert got.numpy().tolist() == [y, x, h, w], (height, width)


@pytest.mark.parametrize('source', ['flower', 'cifar0'])
@pytest.mark.parametrize('as_float', [False, True])
def test_bicubic_crops(golden, source, as_float):
  data = golden('augment')
  image = data[f'crop_src_{source}']
  if as_float:
    image = image.astype(np.float32) / 255
  for i, (*box, out) in enumerate(data[f'crop_boxes_{source}']):
    got = crops.crop_and_resize(
      tf.constant(image), tf.constant(box), size=int(out), method='bicubic'
    )
    expected = data[f'crop_out_{source}_{i}']
    np.testing.assert_allclose(got, expected, atol=3e-4)


def hat_matrix(out, size):
  """Bilinear weights [out, size] at half-pixel centres, edges repeated."""
  centres = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
  distance = np.abs(centres[:, None] - np.arange(size)[None])
  return np.maximum(0, 1 - distance)


@pytest.mark.parametrize('out', [5, 24])
def test_bilinear_is_a_product_of_hats_without_antialias(out):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (30, 41, 3), np.uint8)
  y, x, h, w = box = [3, 2, 17, 31]
  crop = image[y : y + h, x : x + w] / 255
  expected = np.einsum(
    'ai,bj,ijc->abc', hat_matrix(out, h), hat_matrix(out, w), crop
  )
  got = crops.crop_and_resize(
    tf.constant(image), tf.constant(box), size=out, method='bilinear'
  )
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_an_image_of_the_right_size_passes_unchanged():
  image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  for method in ('bicubic', 'bilinear'):
    got = crops.crop_and_resize(
      tf.constant(image), None, size=16, method=method
    )
    np.testing.assert_allclose(got, image / 255, atol=1e-7)


def test_integers_of_unknown_range_are_refused():
  with pytest.raises(ValueError, match='int32'):
    crops.crop_and_resize(
      tf.zeros([4, 4, 3], tf.int32), None, size=4, method='bicubic'
    )


def test_flip_exchanges_left_and_right():
  image = np.random.default_rng(0).random((4, 5, 3)).astype(np.float32)
  np.testing.assert_array_equal(crops.flip(tf.constant(image)), image[:, ::-1])
