"""Image operations against the official code's numbers and NumPy oracles."""

import colorsys

import numpy as np
import pytest

from simclr_jax.data import ops
from simclr_jax.data.lazy_tf import tf

IMAGES = ('cifar0', 'cifar1', 'cifar2', 'china96')
LUMA = np.array([0.2989, 0.587, 0.114])
OFFICIAL = {
  'brightness_v2': ops.multiply_brightness,
  'brightness_v1': ops.add_brightness,
  'contrast': ops.channel_contrast,
  'saturation': ops.hsv_saturation,
  'hue': ops.hue,
}
BLUR_SIGMAS = ('0.1', '0.5', '1', '2')


@pytest.fixture(scope='module')
def augment(golden):
  return dict(golden('augment'))


@pytest.fixture
def image():
  """Random colours, 13 x 17, within [0, 1]."""
  rng = np.random.default_rng(0)
  return rng.random((13, 17, 3)).astype(np.float32)


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
    got = OFFICIAL[prefix](augment[f'img_{name}'], np.float32(amount))
    np.testing.assert_allclose(got, expected, atol=1e-5, err_msg=amount)
    seen += 1
  assert seen >= 2 * len(IMAGES)


@pytest.mark.parametrize('name', IMAGES)
def test_official_grayscale(augment, name):
  got = ops.grayscale(tf.constant(augment[f'img_{name}']))
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
  color_ops = ops.make_color_ops('official', mode)

  @tf.function
  def jitter(image, order):
    return ops.color_jitter(image, amounts, color_ops=color_ops, order=order)

  seen = set()
  for order, name, expected in cases(augment, f'chain_{version}'):
    image = tf.constant(augment[f'img_{name}'])
    got = jitter(image, tf.constant([int(c) for c in order]))
    np.testing.assert_allclose(got, expected, atol=1e-5, err_msg=order)
    if order == '0123':
      fixed = ops.color_jitter(image, amounts, color_ops=color_ops)
      np.testing.assert_allclose(fixed, expected, atol=1e-5)
    seen.add((order, name))
  assert len(seen) == 4 * len(IMAGES)


@pytest.mark.parametrize('sigma', BLUR_SIGMAS)
@pytest.mark.parametrize('name', IMAGES)
def test_official_blur(augment, name, sigma):
  # The official size goes in as 22 taps for china96 and comes out as 23.
  size = 22 if name == 'china96' else 3
  got = ops.gaussian_blur(
    tf.constant(augment[f'img_{name}']), float(sigma), radius=size // 2
  )
  expected = augment[f'blur_k{size}_s{sigma}_{name}']
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_blur_is_a_separable_sum_of_shifts(image):
  sigma, radius = 1.7, 4
  taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  taps /= taps.sum()
  height, width, _ = image.shape
  padded = np.pad(
    image.astype(np.float64), [(radius, radius), (radius, radius), (0, 0)]
  )
  expected = sum(
    a * b * padded[i : i + height, j : j + width]
    for i, a in enumerate(taps)
    for j, b in enumerate(taps)
  )
  got = ops.gaussian_blur(tf.constant(image), sigma, radius=radius)
  np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize('factor', [0.0, 0.3, 1.0, 1.8])
def test_torchvision_contrast(image, factor):
  gray = (image.astype(np.float64) @ LUMA).mean()
  expected = np.clip(factor * image + (1 - factor) * gray, 0, 1)
  got = ops.clip(ops.gray_contrast(tf.constant(image), np.float32(factor)))
  np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize('factor', [0.0, 0.3, 1.0, 1.8])
def test_torchvision_saturation(image, factor):
  gray = (image.astype(np.float64) @ LUMA)[..., None]
  expected = np.clip(factor * image + (1 - factor) * gray, 0, 1)
  got = ops.clip(ops.gray_saturation(tf.constant(image), np.float32(factor)))
  np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize('delta', [-0.5, -0.13, 0.2])
def test_hue_turns_the_color_wheel(image, delta):
  expected = np.empty(image.shape)
  for position in np.ndindex(image.shape[:2]):
    h, s, v = colorsys.rgb_to_hsv(*image[position].astype(float))
    expected[position] = colorsys.hsv_to_rgb((h + delta) % 1, s, v)
  got = ops.hue(tf.constant(image), np.float32(delta))
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_torchvision_chain_of_color_ops(image):
  amounts = {'brightness': 1.4, 'contrast': 0.5, 'saturation': 1.7}
  expected = np.clip(image.astype(np.float64) * 1.4, 0, 1)
  expected = 0.5 * expected + 0.5 * (expected @ LUMA).mean()
  expected = 1.7 * expected - 0.7 * (expected @ LUMA)[..., None]
  got = ops.color_jitter(
    tf.constant(image),
    amounts,
    color_ops=ops.make_color_ops('torchvision', 'multiplicative'),
  )
  np.testing.assert_allclose(got, np.clip(expected, 0, 1), atol=1e-6)


def test_solarize_inverts_from_the_threshold_on():
  image = tf.constant([[[0.0, 0.49, 0.5], [0.51, 0.8, 1.0]]])
  expected = [[[0.0, 0.49, 0.5], [0.49, 0.2, 0.0]]]
  np.testing.assert_allclose(ops.solarize(image, 0.5), expected, atol=1e-7)
  low = ops.solarize(image, 0.25)
  np.testing.assert_allclose(low[0, 0], [0.0, 0.51, 0.5], atol=1e-7)
  at = ops.solarize(image, 0.8)
  np.testing.assert_allclose(at[0, 1], [0.51, 0.2, 0.0], atol=1e-7)
