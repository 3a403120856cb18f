"""Blur by matrices against the official numbers and a sum of shifts."""

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augmentation import blur


def blurred(images, sigma, *, radius):
  planes = jnp.moveaxis(jnp.asarray(images), -1, -3)
  return np.asarray(
    blur.gaussian_blur(planes, jnp.asarray(sigma), radius=radius)
  )


@pytest.mark.parametrize('name', ('cifar0', 'cifar1', 'cifar2', 'china96'))
def test_official_blur(golden, name):
  data = golden('augment')
  # The official size goes in as 22 taps for china96 and comes out as 23.
  size = 22 if name == 'china96' else 3
  sigmas = ('0.1', '0.5', '1', '2')
  got = blurred(
    np.stack([data[f'img_{name}']] * 4),
    np.array([float(s) for s in sigmas], np.float32),
    radius=size // 2,
  )
  for row, sigma in enumerate(sigmas):
    expected = data[f'blur_k{size}_s{sigma}_{name}']
    np.testing.assert_allclose(got[row], expected, atol=1e-5)


def test_blur_is_a_separable_sum_of_shifts():
  image = np.random.default_rng(0).random((13, 17, 3)).astype(np.float32)
  sigma, radius = 1.7, 4
  taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  taps /= taps.sum()
  padded = np.pad(
    image.astype(np.float64), [(radius, radius), (radius, radius), (0, 0)]
  )
  expected = sum(
    a * b * padded[i : i + 13, j : j + 17]
    for i, a in enumerate(taps)
    for j, b in enumerate(taps)
  )
  got = blurred(image, np.float32(sigma), radius=radius)
  np.testing.assert_allclose(got, expected, atol=1e-6)


def test_sigma_zero_changes_no_bit():
  images = np.random.default_rng(1).random((2, 24, 24, 3)).astype(np.float32)
  got = blurred(images, np.float32([0.0, 1.0]), radius=2)
  np.testing.assert_array_equal(got[0], images[0])
  assert np.abs(got[1] - images[1]).max() > 0.1
