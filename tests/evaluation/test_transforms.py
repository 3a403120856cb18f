from __future__ import annotations

import colorsys

import jax
import numpy as np

from simclr_jax import data as data_lib
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import transforms
from simclr_jax.training import mesh as mesh_lib
from tests import small_run


def _images(count: int = 3) -> np.ndarray:
  return (
    np.random.default_rng(0).uniform(0, 1, (count, 4, 4, 3)).astype(np.float32)
  )


def _apply(name: str, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
  return transforms.make(0.1)[name](images, np.random.default_rng(seed))


def test_gray_is_the_luma_in_all_channels():
  gray = _apply('gray', _images())
  for i, row, column in ((0, 1, 2), (2, 3, 0)):
    wanted, _, _ = colorsys.rgb_to_yiq(*_images()[i, row, column].tolist())
    # colorsys rounds the coefficients of Y to two digits.
    np.testing.assert_allclose(gray[i, row, column], wanted, atol=2e-2)
  assert np.ptp(gray, axis=-1).max() == 0


def test_rotations_turn_pixels_and_not_colours():
  images = _images()
  for quarters in (1, 2, 3):
    turned = _apply(f'rotated_{90 * quarters}', images)
    # Four turns by a quarter are none, whichever way it goes.
    for _ in range(4 - quarters):
      turned = _apply('rotated_90', turned)
    np.testing.assert_array_equal(turned, images)
  quarter = _apply('rotated_90', images)
  # Against the clock: the top right corner comes to the top left.
  np.testing.assert_array_equal(quarter[:, 0, 0], images[:, 0, -1])


def test_noise_has_its_strength_and_no_pattern():
  images = np.full((200, 8, 8, 3), 0.5, np.float32)
  noisy = _apply('noisy', images)
  assert noisy.dtype == np.float32
  assert 0.098 < np.std(noisy - images) < 0.102
  assert np.abs(np.mean(noisy, axis=0) - 0.5).max() < 0.05
  assert 0 <= noisy.min() and noisy.max() <= 1


def _features(value: float) -> features_lib.Features:
  return features_lib.Features(
    h=np.arange(10, dtype=np.float32)[:, None] + value,
    z=np.arange(10, dtype=np.float32)[:, None] - value,
    labels=np.zeros(10, np.int32),
    num_classes=3,
    name='n',
    source_fingerprint='s',
    encoder_fingerprint='e',
  )


def test_each_picture_is_there_once_in_the_variant_of_its_label():
  variants = {'a': _features(0.0), 'b': _features(0.25)}
  for layer, sign in (('h', 1), ('z', -1)):
    found = transforms.one_variant_each(variants, layer=layer, seed=0)
    assert found.num_classes == 2
    assert np.bincount(found.labels).tolist() == [5, 5]
    np.testing.assert_allclose(
      found.h[:, 0], np.arange(10) + sign * 0.25 * found.labels
    )
  again = transforms.one_variant_each(variants, layer='h', seed=0)
  other = transforms.one_variant_each(variants, layer='h', seed=1)
  h = transforms.one_variant_each(variants, layer='z', seed=0)
  np.testing.assert_array_equal(again.labels, h.labels)
  assert np.any(again.labels != other.labels)


def test_variants_of_pixels_are_the_transformed_pixels():
  config = small_run.CONFIG

  source = data_lib.make_source(config.data, 'test[:10]')
  encoder = encoder_lib.make_raw_pixel_encoder(
    config, mesh=mesh_lib.make_mesh(jax.devices()[:4])
  )
  found = transforms.extract_variants(
    encoder,
    source,
    config,
    variants=('original', 'gray', 'rotated_180', 'noisy'),
    noise_std=0.1,
    stream=0,
  )
  pixels = found['original'].h.reshape(10, 8, 8, 3)
  for name in ('gray', 'rotated_180'):
    np.testing.assert_allclose(
      found[name].h.reshape(10, 8, 8, 3), _apply(name, pixels), atol=1e-6
    )
  noise = found['noisy'].h.reshape(10, 8, 8, 3) - pixels
  assert np.abs(np.corrcoef(noise.reshape(10, -1))[0, 1:]).max() < 0.5
  assert 0.05 < noise.std() < 0.11
