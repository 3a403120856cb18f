"""Colour on planes against the official numbers, TensorFlow and the wheel."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augmentation import color, jitter
from simclr_jax.data import color_matrices, draws, ops

IMAGES = ('cifar0', 'cifar1', 'cifar2', 'china96')
OFFICIAL = {
  'brightness_v2': color.multiply_brightness,
  'brightness_v1': color.add_brightness,
  'contrast': color.channel_contrast,
  'saturation': color.hsv_saturation,
  'hue': color.hue,
}
KINDS = ('official', 'torchvision', 'affine')
NAMES = ('brightness', 'contrast', 'saturation', 'hue')


@pytest.fixture(scope='module')
def golden_augment(golden):
  return dict(golden('augment'))


def cases(golden_augment, prefix):
  """(amount, image name, output) of every golden array of an operation."""
  for key, value in golden_augment.items():
    if key.startswith(f'{prefix}_'):
      amount, name = key.removeprefix(f'{prefix}_').split('_')
      yield amount, name, value


def planes_of(images):
  return color.to_planes(jnp.moveaxis(jnp.asarray(images), -1, -3))


def to_image(planes):
  return np.stack([np.asarray(x) for x in planes], axis=-1)


def random_image(*shape):
  rng = np.random.default_rng(0)
  image = rng.random((*shape, 3)).astype(np.float32)
  image[..., ::5, :, :] = image[..., ::5, :, :1]  # grey rows
  image[..., 0, :3, :] = [[0, 0, 0], [1, 1, 1], [1, 0, 0]]
  return image


def drawn(order, amounts, *, active=True):
  """ViewDraws of [n] images from an [n, 4] order."""
  order = np.asarray(order, np.float32)
  packed = np.zeros((len(order), draws.NUM_COLUMNS), np.float32)
  view = draws.unpack(packed)
  view.order[:] = order
  view.jitter[:] = active
  for name, amount in amounts.items():
    getattr(view, name)[:] = amount
  return draws.unpack(jnp.asarray(packed))


@pytest.mark.parametrize('prefix', OFFICIAL)
def test_official_op(golden_augment, prefix):
  seen = 0
  for amount, name, expected in cases(golden_augment, prefix):
    planes = planes_of(golden_augment[f'img_{name}'])
    got = to_image(OFFICIAL[prefix](planes, jnp.float32(float(amount))))
    np.testing.assert_allclose(got, expected, atol=1e-5, err_msg=amount)
    if prefix in ('saturation', 'hue'):
      one = jnp.float32(float(amount))
      both = color.saturation_or_hue(
        planes, jnp.asarray(prefix == 'saturation'), saturation=one, hue=one
      )
      np.testing.assert_allclose(to_image(both), expected, atol=1e-5)
    seen += 1
  assert seen >= 2 * len(IMAGES)


@pytest.mark.parametrize('name', IMAGES)
def test_official_grayscale(golden_augment, name):
  got = color.grayscale(planes_of(golden_augment[f'img_{name}']))
  expected = golden_augment[f'grayscale_{name}']
  np.testing.assert_allclose(to_image(got), expected, atol=1e-5)


@pytest.mark.parametrize('version', ['simclrv1', 'simclrv2'])
def test_official_jitter_chain(golden_augment, version):
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
  color_ops = jitter.make_color_ops('official', mode)
  seen = set()
  for order, name, expected in cases(golden_augment, f'chain_{version}'):
    planes = planes_of(golden_augment[f'img_{name}'][None])
    draw = drawn([[int(c) for c in order]], amounts)
    got = jitter.jitter_in_drawn_order(
      planes, draw, names=NAMES, color_ops=color_ops
    )
    np.testing.assert_allclose(to_image(got)[0], expected, atol=1e-5)
    if order == '0123':
      fixed = jitter.jitter_in_fixed_order(
        planes, draw, names=NAMES, color_ops=color_ops
      )
      np.testing.assert_allclose(to_image(fixed)[0], expected, atol=1e-5)
    seen.add((order, name))
  assert len(seen) == 4 * len(IMAGES)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', NAMES)
def test_ops_are_those_of_tensorflow(kind, name):
  # Beyond [0, 1], as bicubic resizing leaves it, grey and black included.
  image = 1.3 * random_image(11, 13) - 0.15
  amounts = (-0.4, 0.0, 0.13) if name == 'hue' else (0.0, 0.3, 1.0, 1.8)
  for amount in amounts:
    host = ops.make_color_ops(kind, 'multiplicative')[name](
      image, np.float32(amount)
    )
    device = jitter.make_color_ops(kind, 'multiplicative')[name](
      planes_of(image), jnp.float32(amount)
    )
    np.testing.assert_allclose(to_image(device), host, atol=3e-6)


@pytest.mark.parametrize('delta', [-0.5, -0.13, 0.2])
def test_hue_turns_the_color_wheel(delta):
  image = random_image(7, 9)
  expected = np.empty(image.shape)
  for position in np.ndindex(image.shape[:2]):
    h, s, v = colorsys.rgb_to_hsv(*image[position].astype(float))
    expected[position] = colorsys.hsv_to_rgb((h + delta) % 1, s, v)
  got = to_image(color.hue(planes_of(image), jnp.float32(delta)))
  np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize('factor', [0.0, 0.4, 1.0, 2.5])
def test_saturation_by_definition(factor):
  image = random_image(7, 9)
  expected = np.empty(image.shape)
  for position in np.ndindex(image.shape[:2]):
    h, s, v = colorsys.rgb_to_hsv(*image[position].astype(float))
    expected[position] = colorsys.hsv_to_rgb(h, min(s * factor, 1), v)
  got = to_image(color.hsv_saturation(planes_of(image), jnp.float32(factor)))
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_affine_hue_is_a_turn_in_the_same_direction_that_keeps_luma():
  np.testing.assert_allclose(
    color_matrices.hue_matrix(0.0), np.eye(3), atol=1e-6
  )
  twice = color_matrices.hue_matrix(0.07) @ color_matrices.hue_matrix(0.05)
  np.testing.assert_allclose(twice, color_matrices.hue_matrix(0.12), atol=1e-6)
  luma = np.array([0.299, 0.587, 0.114])
  np.testing.assert_allclose(
    luma @ color_matrices.hue_matrix(0.2), luma, atol=1e-6
  )
  for hue in np.linspace(0, 1, 12, endpoint=False):
    pixel = np.array(colorsys.hsv_to_rgb(hue, 0.3, 0.6))
    turned = color_matrices.hue_matrix(0.1) @ pixel
    moved = (colorsys.rgb_to_hsv(*turned)[0] - hue + 0.5) % 1 - 0.5
    assert 0.06 < moved < 0.15, hue
  image = random_image(3, 4)
  expected = image @ color_matrices.hue_matrix(-0.17).T
  for got in (
    to_image(color.yiq_hue(planes_of(image), jnp.float32(-0.17))),
    ops.yiq_hue(image, -0.17),
  ):
    np.testing.assert_allclose(got, expected, atol=2e-6)


def expected_jitter(image, draw, names, kind):
  """One image, operation after operation, with TensorFlow's operations."""
  color_ops = ops.make_color_ops(kind, 'multiplicative')
  if not draw.jitter:
    return image
  for place in range(len(names)):
    name = names[int(draw.order[place])]
    image = color_ops[name](image, np.float32(getattr(draw, name)))
    image = np.clip(image, 0, 1)
  return image


@pytest.mark.parametrize(
  ('names', 'kind'),
  [(NAMES, kind) for kind in KINDS]
  + [
    (names, 'official')
    for count in (1, 2, 3)
    for names in itertools.combinations(NAMES, count)
  ],
)
def test_every_order_of_every_set_of_operations(names, kind):
  orders = np.array(list(itertools.permutations(range(len(names)))))
  padded = np.zeros((len(orders) + 1, 4))
  padded[:-1, : len(names)] = orders
  n = len(padded)
  rng = np.random.default_rng(3)
  amounts = {
    name: rng.uniform(-0.3, 0.3, n)
    if name == 'hue'
    else rng.uniform(0.2, 1.8, n)
    for name in NAMES
  }
  active = np.arange(n) < n - 1  # the last is left alone, overshoot and all
  images = (1.2 * random_image(n, 5, 6) - 0.1).astype(np.float32)
  draw = drawn(padded, amounts, active=active)
  made = jax.jit(
    lambda planes, draw: jitter.jitter_in_drawn_order(
      planes,
      draw,
      names=names,
      color_ops=jitter.make_color_ops(kind, 'multiplicative'),
    )
  )(planes_of(images), draw)
  for i in range(n):
    one = draws.ViewDraws(*(np.asarray(x)[i] for x in draw))
    expected = expected_jitter(images[i], one, names, kind)
    np.testing.assert_allclose(
      to_image(made)[i], expected, atol=1e-5, err_msg=str(padded[i])
    )
