"""Cropping with resizing against the official code's numbers and oracles."""

import numpy as np
import pytest

from simclr_jax.data import crops
from simclr_jax.data.lazy_tf import tf


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
