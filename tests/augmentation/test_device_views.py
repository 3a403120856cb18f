"""The devices' views are the host's, whatever the devices."""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.augmentation import make_device_views
from simclr_jax.data import draws, order, views
from simclr_jax.data.lazy_tf import tf
from simclr_jax.training import mesh as mesh_lib

EVERYTHING = config_lib.AugmentConfig(solarize_prob=0.3)
OFF = config_lib.AugmentConfig(
  crop_sampler='none',
  flip_prob=0.0,
  jitter_prob=0.0,
  gray_prob=0.0,
  blur_prob=0.0,
)
CANVAS = 40


def make_images(n, *, seed=0):
  """Smooth and noisy patches, black and white ones among them."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (n, 5, 5, 3)).repeat(8, 1).repeat(8, 2)
  noise = rng.integers(-40, 41, (n, CANVAS, CANVAS, 3))
  images = np.clip(coarse + noise, 0, 255).astype(np.uint8)
  images[0], images[1] = 0, 255
  return images


def draw(augment, sizes, *, seed=7):
  """float32 [n, 2, 17]."""
  n = len(sizes)
  step = order.batch_words(seed, 0)
  return draws.draw_views(
    augment,
    order.example_words(seed, 0, index=np.arange(n)),
    batch_words=np.broadcast_to(step, (n, 2)),
    sizes=sizes,
    num_views=2,
  )


def make_on_host(augment, images, sizes, packed, *, size):
  """(views, crops) of TensorFlow, [n, 2, size, size, 3] each."""
  options = {'image_size': size, 'num_views': 2}
  view_fn = tf.function(
    views.make_view_fn(augment, **options), reduce_retracing=True
  )
  crop_fn = tf.function(
    views.make_crop_fn(augment, **options), reduce_retracing=True
  )
  made = []
  for image, (height, width), row in zip(images, sizes, packed, strict=True):
    picture = tf.constant(image[:height, :width])
    made.append([view_fn(picture, row).numpy(), crop_fn(picture, row).numpy()])
  return tuple(np.stack(x) for x in zip(*made, strict=True))


def make_on_device(augment, pixels, packed, *, size, augment_on):
  made = make_device_views(augment, image_size=size, augment_on=augment_on)
  return np.asarray(jax.jit(made)(pixels, packed))


def assert_same_views(device, host):
  # Rounding differs by 1e-6 at most. What rounding can turn over: a sample
  # position between two entries of TensorFlow's table of weights (an offset
  # of 1/1024 pixel), and a pixel at the threshold of solarize.
  differs = np.abs(device - host)
  assert np.mean(differs > 1e-5) < 1e-3
  assert device.dtype == np.float32
  assert device.min() >= 0 and device.max() <= 1


CONFIGS = {
  'official': EVERYTHING,
  'torchvision': dataclasses.replace(
    EVERYTHING, color_ops='torchvision', crop_sampler='torchvision'
  ),
  'affine': dataclasses.replace(EVERYTHING, color_ops='affine'),
  'bilinear': dataclasses.replace(EVERYTHING, resize='bilinear'),
  'v1': dataclasses.replace(
    EVERYTHING, brightness_mode='additive', blur_sigma_per='batch'
  ),
  'fixed': dataclasses.replace(EVERYTHING, jitter_order='fixed'),
  'no hue': dataclasses.replace(EVERYTHING, hue=0.0),
  'contrast alone': dataclasses.replace(
    EVERYTHING, brightness=0.0, saturation=0.0, hue=0.0
  ),
  'crops': dataclasses.replace(
    EVERYTHING, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0
  ),
  'off': OFF,
}


@pytest.mark.parametrize('name', CONFIGS)
def test_same_views_as_the_host(name):
  augment = CONFIGS[name]
  n, size = 24, 24
  images = make_images(n)
  rng = np.random.default_rng(1)
  sizes = rng.integers(CANVAS // 2, CANVAS + 1, (n, 2))
  packed = draw(augment, sizes)
  host, crops = make_on_host(augment, images, sizes, packed, size=size)
  device = make_on_device(
    augment, images, packed, size=size, augment_on='device'
  )
  assert_same_views(device, host)

  hybrid = make_on_device(
    augment, crops, packed, size=size, augment_on='hybrid'
  )
  # The host's own operations from the rounded crop on: the same image, flipped,
  # coloured and blurred, with a box that is all of it.
  rest = dataclasses.replace(augment, crop_sampler='none')
  for view in range(2):
    expected, _ = make_on_host(
      rest,
      crops[:, view],
      np.full((n, 2), size),
      packed[:, [view, view]],
      size=size,
    )
    assert_same_views(hybrid[:, view], expected[:, 0])
  # And the hybrid views are near the others: the rounding of the crop, and the
  # overshoot that the first operation sees.
  assert np.mean(np.abs(hybrid - host)) < 0.01


def test_views_do_not_depend_on_the_devices_and_none_talks_to_another():
  n, size = 16, 20
  images = make_images(n)
  packed = draw(EVERYTHING, np.full((n, 2), CANVAS))
  made = {}
  for count in (1, 8):
    mesh = mesh_lib.make_mesh(jax.devices()[:count])
    with jax.set_mesh(mesh):
      batch = mesh_lib.put_batch({'pixels': images, 'draws': packed}, mesh)
      fn = jax.jit(
        make_device_views(EVERYTHING, image_size=size, augment_on='device')
      )
      made[count] = fn(batch['pixels'], batch['draws'])
      assert made[count].sharding.spec[0] == 'data'
      crops = np.zeros((n, 2, size, size, 3), np.uint8)
      crops = mesh_lib.put_batch({'crops': crops}, mesh)['crops']
      hybrid = jax.jit(
        make_device_views(EVERYTHING, image_size=size, augment_on='hybrid')
      )
      for compiled in (
        fn.lower(batch['pixels'], batch['draws']).compile(),
        hybrid.lower(crops, batch['draws']).compile(),
      ):
        assert not collectives(compiled.as_text())
  np.testing.assert_allclose(made[1], made[8], atol=2e-6)


def collectives(text):
  return re.findall(
    r'\b(all-\w+|reduce-scatter|collective-\w+)(?:-start)?\(', text
  )


def primitives(augment, augment_on='device'):
  """Counts of the operations of the traced program, inner ones included."""
  size = 20
  made = make_device_views(augment, image_size=size, augment_on=augment_on)
  shape = (2, 24, 24, 3) if augment_on == 'device' else (2, 2, size, size, 3)
  program = jax.make_jaxpr(made)(
    jnp.zeros(shape, jnp.uint8), jnp.zeros((2, 2, 17))
  )
  counts = collections.Counter()

  def visit(jaxpr):
    for equation in jaxpr.eqns:
      counts[equation.primitive.name] += 1
      for value in equation.params.values():
        if hasattr(value, 'jaxpr'):
          visit(value.jaxpr)

  visit(program.jaxpr)
  return counts


def test_what_cannot_happen_leaves_no_operation():
  everything = primitives(EVERYTHING)
  assert everything['dot_general'] == 4 and everything['exp']
  # Two conversions to HSV, three contrasts of three channels.
  assert everything['floor'] == 2 + 2
  assert everything['optimization_barrier'] == 2
  off = primitives(OFF)
  assert off['dot_general'] == 2 and not off['exp']
  assert off['floor'] == 2 and not off['optimization_barrier']
  for change, name, count in [
    ({'hue': 0.0}, 'floor', 2),
    ({'saturation': 0.0}, 'optimization_barrier', 1),
    ({'jitter_prob': 0.0}, 'optimization_barrier', 0),
    ({'jitter_strength': 0.0}, 'argmax', 0),
    ({'jitter_order': 'fixed'}, 'argmax', 0),
    ({'blur_prob': 0.0}, 'dot_general', 2),
    ({'color_ops': 'affine'}, 'floor', 2),
    ({'resize': 'bilinear'}, 'floor', 2),
  ]:
    counts = primitives(dataclasses.replace(EVERYTHING, **change))
    assert everything[name] != count and counts[name] == count, change
  for augment, num_reversals in [
    (EVERYTHING, 1),
    (dataclasses.replace(EVERYTHING, flip_prob=0.0), 0),
  ]:
    hybrid = primitives(augment, 'hybrid')
    assert hybrid['rev'] == num_reversals and hybrid['dot_general'] == 2
  gray = primitives(dataclasses.replace(OFF, gray_prob=0.5))
  assert gray['select_n'] == off['select_n'] + 3
  solarized = primitives(dataclasses.replace(OFF, solarize_prob=0.5))
  assert solarized['ge'] == off['ge'] + 1


def test_settings_without_effect_are_refused():
  with pytest.raises(ValueError, match='blur_prob'):
    make_device_views(EVERYTHING, image_size=19, augment_on='device')
  with pytest.raises(ValueError, match='augment_on'):
    make_device_views(EVERYTHING, image_size=32, augment_on='host')
