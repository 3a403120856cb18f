"""OpenCV's operations: the official numbers, and TensorFlow's for the rest."""

import numpy as np
import pytest

pytest.importorskip('cv2')

from simclr_jax import config as config_lib
from simclr_jax.data import (
  crops,
  draws,
  opencv_ops,
  opencv_views,
  ops,
  order,
  views,
)
from simclr_jax.data.lazy_tf import tf

IMAGES = ('cifar0', 'cifar1', 'cifar2', 'china96')
OFFICIAL = {
  'brightness_v2': opencv_ops.multiply_brightness,
  'brightness_v1': opencv_ops.add_brightness,
  'contrast': opencv_ops.channel_contrast,
  'saturation': opencv_ops.hsv_saturation,
  'hue': opencv_ops.hue,
}


@pytest.fixture(scope='module')
def augment(golden):
  return dict(golden('augment'))


@pytest.fixture
def image():
  """Overshoots [0, 1], with pixels that are all below black, grey and flat."""
  rng = np.random.default_rng(0)
  image = rng.uniform(-0.2, 1.2, (13, 17, 3)).astype(np.float32)
  image[0, :5] = -np.abs(image[0, :5])
  image[1, :5] = image[1, :5, :1]
  image[2, :5] = 0
  return image


def photo(height, width):
  """Smooth colours, uint8."""
  rng = np.random.default_rng(1)
  small = rng.integers(0, 256, (6, 7, 3), np.uint8)
  blocks = np.ones((height // 6 + 1, width // 7 + 1, 1), np.uint8)
  return np.kron(small, blocks)[:height, :width]


def cases(augment, prefix):
  """(amount, image name, output) of every golden array of an operation."""
  for key, value in augment.items():
    if key.startswith(f'{prefix}_'):
      amount, name = key.removeprefix(f'{prefix}_').split('_')
      yield amount, name, value


@pytest.mark.parametrize('prefix', OFFICIAL)
def test_official_op(augment, prefix):
  seen = 0
  for amount, name, expected in cases(augment, prefix):
    got = OFFICIAL[prefix](augment[f'img_{name}'].copy(), float(amount))
    np.testing.assert_allclose(got, expected, atol=1e-5, err_msg=amount)
    seen += 1
  assert seen >= 2 * len(IMAGES)


@pytest.mark.parametrize('name', IMAGES)
def test_official_grayscale(augment, name):
  got = opencv_ops.grayscale(augment[f'img_{name}'].copy())
  np.testing.assert_allclose(got, augment[f'grayscale_{name}'], atol=1e-5)


@pytest.mark.parametrize('version', ['simclrv1', 'simclrv2'])
def test_official_jitter_chain(augment, version):
  mode, brightness = {
    'simclrv1': ('additive', 0.25),
    'simclrv2': ('multiplicative', 1.3),
  }[version]
  amounts = {
    'brightness': brightness,
    'contrast': 0.6,
    'saturation': 1.5,
    'hue': -0.1,
  }
  color_ops = opencv_ops.make_color_ops('official', mode)
  seen = 0
  for sequence, name, expected in cases(augment, f'chain_{version}'):
    got = opencv_ops.color_jitter(
      augment[f'img_{name}'].copy(),
      amounts,
      color_ops=color_ops,
      order=[int(c) for c in sequence],
    )
    np.testing.assert_allclose(got, expected, atol=1e-5, err_msg=sequence)
    seen += 1
  assert seen == 4 * len(IMAGES)


@pytest.mark.parametrize('sigma', ['0.1', '0.5', '1', '2'])
@pytest.mark.parametrize('name', IMAGES)
def test_official_blur(augment, name, sigma):
  size = 22 if name == 'china96' else 3
  got = opencv_ops.gaussian_blur(
    augment[f'img_{name}'].copy(), float(sigma), radius=size // 2
  )
  expected = augment[f'blur_k{size}_s{sigma}_{name}']
  np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize('source', ['flower', 'cifar0'])
def test_official_crops(augment, source):
  image = augment[f'crop_src_{source}']
  for i, (*box, out) in enumerate(augment[f'crop_boxes_{source}']):
    arguments = {'size': int(out), 'method': 'bicubic'}
    expected = augment[f'crop_out_{source}_{i}']
    got = opencv_ops.crop_and_resize(image, box, **arguments) / 255
    # The table of 1/1024 is kept: nearer than the 3e-4 it is good for.
    np.testing.assert_allclose(got, expected, atol=1e-6)
    flipped = opencv_ops.crop_and_resize(image, box, flip=True, **arguments)
    np.testing.assert_allclose(flipped[:, ::-1] / 255, expected, atol=1e-6)


@pytest.mark.parametrize('method', ['bicubic', 'bilinear'])
@pytest.mark.parametrize(
  'shape,box,out',
  [
    ((1, 1), (0, 0, 1, 1), 5),
    ((9, 4), (2, 1, 3, 2), 8),
    ((40, 90), (3, 5, 31, 77), 16),  # much smaller: most pixels are not seen
    ((300, 420), (11, 17, 280, 350), 224),  # by sparse products
    ((60, 50), (1, 2, 41, 37), 224),
  ],
)
def test_crops_are_tensorflows(method, shape, box, out):
  image = photo(*shape)
  arguments = {'size': out, 'method': method}
  expected = crops.crop_and_resize(
    tf.constant(image), tf.constant(box), **arguments
  )
  got = opencv_ops.crop_and_resize(image, np.array(box), **arguments)
  np.testing.assert_allclose(got / 255, expected, atol=2e-6)


@pytest.mark.parametrize('kind', ['official', 'torchvision', 'affine'])
@pytest.mark.parametrize(
  'name', ['brightness', 'contrast', 'saturation', 'hue']
)
@pytest.mark.parametrize('amount', [-0.4, 0.0, 0.3, 1.0, 1.7])
def test_color_ops_are_tensorflows_beyond_the_range_too(
  image, kind, name, amount
):
  if name == 'hue':
    amount /= 2
  elif amount < 0 and name != 'brightness':
    return
  mode = 'multiplicative'
  expected = ops.make_color_ops(kind, mode)[name](
    tf.constant(image), np.float32(amount)
  )
  got = opencv_ops.make_color_ops(kind, mode)[name](image.copy(), amount)
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_bytes_are_rounded_to_even_and_limited():
  image = np.array([[[-3.0, 0.5, 1.5], [2.4, 254.5, 300.0]]], np.float32)
  out = np.zeros(image.shape, np.uint8)
  opencv_ops.to_bytes(image, out)
  assert out.tolist() == [[[0, 0, 2], [2, 254, 255]]]


def test_solarize_inverts_from_the_threshold_on():
  image = np.array([[[0.0, 0.49, 0.5], [0.51, 0.8, 1.0]]], np.float32)
  expected = [[[0.0, 0.49, 0.5], [0.49, 0.2, 0.0]]]
  np.testing.assert_allclose(
    opencv_ops.solarize(image, 0.5), expected, atol=1e-7
  )


def test_pixels_of_unknown_range_are_refused():
  with pytest.raises(ValueError, match='int32'):
    opencv_ops.crop_and_resize(
      np.zeros((4, 4, 3), np.int32), None, size=4, method='bicubic'
    )


VARIANTS = {
  'official': {},
  'torchvision': {
    'color_ops': 'torchvision',
    'crop_sampler': 'torchvision',
    'solarize_prob': 0.3,
  },
  'affine': {'color_ops': 'affine'},
  'version 1': {'brightness_mode': 'additive', 'jitter_order': 'fixed'},
  'whole images': {'crop_sampler': 'none', 'resize': 'bilinear'},
  'two operations': {'contrast': 0.0, 'hue': 0.0, 'blur_sigma_per': 'batch'},
}


@pytest.mark.parametrize('variant', VARIANTS)
def test_views_and_crops_are_tensorflows_for_the_same_draws(variant):
  augment = config_lib.AugmentConfig(**VARIANTS[variant])
  size, count, shape = {'image_size': 40, 'num_views': 2}, 48, (70, 61)
  image = photo(*shape)
  drawn = draws.draw_views(
    augment,
    order.example_words(1, 0, index=np.arange(count)),
    batch_words=order.batch_words(1, np.zeros(count, np.int64)),
    sizes=np.tile(shape, (count, 1)),
    num_views=2,
  )
  view_fn = tf.function(views.make_view_fn(augment, **size), autograph=False)
  crop_fn = tf.function(views.make_crop_fn(augment, **size), autograph=False)
  fill_views = opencv_views.make_view_fn(augment, **size)
  fill_crops = opencv_views.make_crop_fn(augment, **size)
  got = np.empty((2, 40, 40, 3), np.float32)
  crop = np.empty((2, 40, 40, 3), np.uint8)
  for row in drawn:
    fill_views(image, row, got)
    np.testing.assert_allclose(got, view_fn(image, row), atol=1e-5)
    fill_crops(image, row, crop)
    expected = crop_fn(image, row).numpy()
    # What lies at a half to float32's precision may round either way.
    different = crop != expected
    assert np.mean(different) < 0.01
    assert np.all(np.abs(crop.astype(int) - expected)[different] == 1)


@pytest.mark.parametrize('resize', ['bicubic', 'bilinear'])
def test_evaluation_images_are_tensorflows(resize):
  config = config_lib.EvalConfig(resize=resize)
  image, box = photo(70, 61), np.array([4, 3, 51, 52], np.int32)
  got = np.empty((40, 40, 3), np.float32)
  opencv_views.make_eval_fn(config, image_size=40)(image, box, got)
  expected = views.make_eval_fn(config, image_size=40)(image, box)
  np.testing.assert_allclose(got, expected, atol=2e-6)
