"""The table of sources, split slices, digits and the procedural pictures."""

from __future__ import annotations

import types

import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import config_checks, data
from simclr_jax.data.lazy_tf import tfds
from simclr_jax.data.sources import procedural, slices


def _config(source, **fields):
  return config_lib.DataConfig(source=source, **fields)


def test_unknown_source_names_the_closest():
  with pytest.raises(ValueError, match=r"did you mean 'digits'\?.*procedural"):
    data.make_source(_config('digit'), 'train')


def test_every_source_passes_the_checks_of_the_schema():
  for source in data.SOURCES:
    fields = {
      'source': source,
      'name': 'x' if source == 'tfds' else '',
      'path': 'y' if source in config_checks.PATH_SOURCES else '',
    }
    config_lib.replace(config_lib.Config(), data=fields)


@pytest.mark.parametrize(
  ('split', 'want'),
  [
    ('train', range(0, 10)),
    ('test', range(0, 4)),
    ('train[:3]', range(0, 3)),
    ('train[3:]', range(3, 10)),
    ('train[-2:]', range(8, 10)),
    ('train[2:5]', range(2, 5)),
    ('train[:25%]', range(0, 2)),
    ('train[25%:50%]', range(2, 5)),
    ('train[:99]', range(0, 10)),
    ('train[-26%:]', range(7, 10)),
    ('train[:36%]', range(0, 4)),
  ],
)
def test_slices(split, want):
  name, chosen = slices.parse(split, {'train': 10, 'test': 4})
  assert name == split.split('[')[0]
  assert chosen == want


@pytest.mark.parametrize('size', [10, 37, 1797])
@pytest.mark.parametrize('part', ['[:3]', '[-4:]', '[3:-3]', '[:-20%]'])
def test_slices_are_those_of_tfds(part, size):
  parts = [part] + [f'[{p}%:{p + 13}%]' for p in range(7, 80, 9)]
  info = types.SimpleNamespace(num_examples=size)
  for one in parts:
    instruction = tfds.core.ReadInstruction.from_spec(f'train{one}')
    (want,) = instruction.to_absolute({'train': info})
    _, chosen = slices.parse(f'train{one}', {'train': size})
    assert chosen == range(size)[want.from_ : want.to]


@pytest.mark.parametrize(
  'split', ['trian', 'train[', 'train[:x]', 'train[5:5]', 'train+test', '']
)
def test_bad_slices(split):
  with pytest.raises(ValueError, match='unknown|empty'):
    slices.parse(split, {'train': 10, 'test': 4})


def test_digits_are_scikit_learns():
  from sklearn import datasets

  bunch = datasets.load_digits()
  stored = {
    image.tobytes(): label
    for image, label in zip(
      np.rint(bunch.images * 255 / 16).astype(np.uint8),
      bunch.target,
      strict=True,
    )
  }
  train = data.make_source(_config('digits'), 'train')
  test = data.make_source(_config('digits'), 'test')
  assert (train.num_examples, test.num_examples) == (1442, 355)
  assert train.num_classes == 10 and not train.encoded
  seen = set()
  for source in (train, test):
    for i in range(source.num_examples):
      image, label = source.read(i)
      assert image.shape == (8, 8, 3) and image.dtype == np.uint8
      assert np.array_equal(image[..., 0], image[..., 2])
      assert stored[image[..., 0].tobytes()] == label
      seen.add(source.example_id(i))
  assert len(seen) == 1797  # disjoint and complete


def test_digits_are_stratified():
  test = data.make_source(_config('digits'), 'test')
  labels = [test.read(i).label for i in range(test.num_examples)]
  counts = np.bincount(labels, minlength=10)
  assert counts.min() >= 34 and counts.max() <= 37


def test_parts_of_a_split_have_their_own_fingerprint():
  for source in ('digits', 'procedural'):
    parts = [
      data.make_source(_config(source), split)
      for split in ('train', 'train[:50]', 'train[50:100]', 'test')
    ]
    assert len({part.fingerprint for part in parts}) == 4
    again = data.make_source(_config(source), 'train[:50]')
    assert again.fingerprint == parts[1].fingerprint
    image = parts[0].read(60).image
    assert np.array_equal(parts[2].read(10).image, image)


def _procedural(split):
  source = data.make_source(_config('procedural'), split)
  examples = [source.read(i) for i in range(source.num_examples)]
  return np.stack([e.image for e in examples]), np.array(
    [e.label for e in examples]
  )


def _nearest(queries, bank):
  distance = (bank**2).sum(1) - 2 * queries @ bank.T
  return distance.argmin(1)


def _color_features(images):
  """Means and upper and lower ends of each channel; no geometry in it."""
  pixels = images.reshape(len(images), -1, 3) / 255
  return np.concatenate(
    [pixels.mean(1), *np.percentile(pixels, [5, 95], axis=1)], axis=1
  )


def test_procedural_colors_name_the_image_but_not_the_class():
  images, labels = _procedural('train[:1000]')
  # Two halves of a picture, as two crops would see them.
  left = _color_features(images[:, :, :16])
  right = _color_features(images[:, :, 16:])
  # Chance is 1 / 1000.
  assert np.mean(_nearest(left, right) == np.arange(1000)) > 0.5
  test_images, test_labels = _procedural('test[:400]')
  nearest = _nearest(_color_features(test_images), _color_features(images))
  assert np.mean(labels[nearest] == test_labels) < 1 / 8 + 0.06


def test_procedural_classes_are_geometry():
  def features(images):
    # Spectrum of the standardised grey picture: neither colour nor position.
    grey = images @ np.array([0.2989, 0.587, 0.114])
    spectrum = abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True)))
    spectrum = spectrum.reshape(len(images), -1)
    return spectrum / np.linalg.norm(spectrum, axis=1, keepdims=True)

  images, labels = _procedural('train[:1000]')
  test_images, test_labels = _procedural('test[:200]')
  nearest = _nearest(features(test_images), features(images))
  assert np.mean(labels[nearest] == test_labels) > 0.9


def test_procedural_pictures_stay():
  source = data.make_source(_config('procedural'), 'train')
  assert source.num_examples == 20_000
  assert source.num_classes == len(procedural.SHAPES) == 8
  image = source.read(5).image
  assert image.shape == (32, 32, 3) and image.dtype == np.uint8
  # Two pixels, so that a changed picture cannot pass unnoticed; a level of
  # slack for the rounding of other machines.
  assert np.allclose(image[3, 4].astype(int), [5, 81, 157], atol=1)
  assert np.allclose(image[20, 9].astype(int), [145, 139, 72], atol=1)
  assert np.array_equal(procedural.render('train', 5), image)
  assert not np.array_equal(procedural.render('test', 5), image)
