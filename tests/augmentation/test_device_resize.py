"""Boxes by matrices against the official numbers, TensorFlow and JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augmentation import resize
from simclr_jax.data import crops
from simclr_jax.data.lazy_tf import tf


def resized(pixels, boxes, **options):
  """Views [V, size, size, 3] of one image."""
  made = resize.crop_and_resize(
    jnp.asarray(pixels)[None],
    jnp.asarray(boxes, jnp.float32)[None],
    **options,
  )
  return np.moveaxis(np.asarray(made)[0], -3, -1)


def random_pixels(height, width):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_official_crops(golden):
  data = dict(golden('augment'))
  names = [
    k.removeprefix('crop_src_') for k in data if k.startswith('crop_src_')
  ]
  assert names
  for name in names:
    boxes = data[f'crop_boxes_{name}']
    for place, (*box, size) in enumerate(boxes.tolist()):
      got = resized(
        data[f'crop_src_{name}'], [box], size=int(size), method='bicubic'
      )
      expected = data[f'crop_out_{name}_{place}']
      np.testing.assert_allclose(got[0], expected, atol=3e-4)


BOXES = (
  (0, 0, 30, 41),  # all of it
  (5, 9, 11, 7),
  (29, 40, 1, 1),  # a corner
  (0, 0, 1, 41),
  (7, 3, 2, 3),
  (10, 10, 16, 16),  # nothing to resize
  (17, 20, 13, 21),
)


@pytest.mark.parametrize('method', ['bicubic', 'bilinear'])
@pytest.mark.parametrize('size', [16, 23, 50])
def test_every_box_is_that_of_tensorflow_also_flipped(method, size):
  pixels = random_pixels(30, 41)
  flip = np.arange(len(BOXES)) % 2 == 1
  got = resized(
    pixels, BOXES, size=size, method=method, flip=jnp.asarray(flip)[None]
  )
  for place, box in enumerate(BOXES):
    expected = crops.crop_and_resize(
      tf.constant(pixels), tf.constant(box), size=size, method=method
    ).numpy()
    if flip[place]:
      expected = expected[:, ::-1]
    # A sample position on the edge of two table entries may take either.
    differs = np.abs(got[place] - expected)
    assert differs.max() < 5e-3 and np.mean(differs > 1e-5) < 0.02, box


@pytest.mark.parametrize('method', ['cubic', 'linear'])
def test_weights_are_those_of_jax_image(method):
  pixels = random_pixels(30, 41)
  top, left, height, width = 3.0, 5.0, 20.0, 29.0
  size = 37
  cut = pixels[3:23, 5:34].astype(np.float32) / 255
  expected = jax.image.scale_and_translate(
    cut,
    (size, size, 3),
    (0, 1),
    jnp.array([size / height, size / width]),
    jnp.zeros(2),
    method=method,
    antialias=False,
    precision=jax.lax.Precision.HIGHEST,
  )
  got = resized(
    pixels, [(top, left, height, width)], size=size, method=f'bi{method}'
  )
  # Offsets rounded to 1/1024, times the steepest slope of neighbours.
  np.testing.assert_allclose(
    got[0], expected, atol=4e-3 if method == 'cubic' else 1e-5
  )


def test_pixels_outside_the_box_do_not_matter():
  pixels = random_pixels(20, 20)
  other = 255 - pixels
  other[4:12, 6:15] = pixels[4:12, 6:15]
  first, second = (
    resized(x, [(4, 6, 8, 9)], size=13, method='bicubic')
    for x in (pixels, other)
  )
  np.testing.assert_array_equal(first, second)
