"""Every example once, in order, on any number of devices; and the cache."""

import dataclasses

from etils import epath
from etils.epath import backend
import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.data import Example, Source
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import feature_cache
from simclr_jax.evaluation import features as features_lib
from simclr_jax.training import mesh as mesh_lib

SIZE, N = 4, 43
CONFIG = config_lib.replace(
  config_lib.Config(),
  data={'source': 'procedural', 'image_size': SIZE},
  eval={'batch_size': 12},
)


def make_source(n=N, fingerprint='source'):
  """Image i has the value i in every pixel, its label is i % 3."""
  return Source(
    name='numbered',
    num_examples=n,
    num_classes=3,
    encoded=False,
    read=lambda i: Example(np.full((SIZE, SIZE, 3), i, np.uint8), i % 3),
    example_id=lambda i: f'image {i}',
    fingerprint=fingerprint,
  )


def make_encoder(num_devices=8):
  return encoder_lib.make_raw_pixel_encoder(
    CONFIG, mesh=mesh_lib.make_mesh(jax.devices()[:num_devices])
  )


@pytest.fixture(scope='module')
def encoder():
  return make_encoder()


@pytest.mark.parametrize('batch_size', [12, 16, 43, 64])
def test_every_example_once_in_order(encoder, batch_size):
  """8 devices; neither 43 nor most of the batches divide over them."""
  config = config_lib.replace(CONFIG, eval={'batch_size': batch_size})
  found = features_lib.extract_features(encoder, make_source(), config)
  np.testing.assert_allclose(found.h[:, 0] * 255, np.arange(N), atol=1e-4)
  np.testing.assert_array_equal(found.labels, np.arange(N) % 3)
  assert found.h.shape == (N, SIZE * SIZE * 3)
  assert found.encoder_fingerprint == encoder.fingerprint()
  assert found.source_fingerprint == 'source'


@pytest.mark.parametrize('num_devices', [1, 3])
def test_any_number_of_devices(encoder, num_devices):
  eight = features_lib.extract_features(encoder, make_source(), CONFIG)
  fewer = features_lib.extract_features(
    make_encoder(num_devices), make_source(), CONFIG
  )
  np.testing.assert_array_equal(eight.h, fewer.h)


def test_a_lost_example_is_noticed(encoder, monkeypatch):
  batches = features_lib.pipeline.eval_batches

  def lossy(*args, **kwargs):
    for i, batch in enumerate(batches(*args, **kwargs)):
      mask = batch['mask'].copy()
      mask[2] &= i != 1
      yield {**batch, 'mask': mask}

  monkeypatch.setattr(features_lib.pipeline, 'eval_batches', lossy)
  with pytest.raises(ValueError, match=r'example 14: 0 times'):
    features_lib.extract_features(encoder, make_source(), CONFIG)


def test_an_encoder_that_moves_is_refused(tmp_path):
  encoder = dataclasses.replace(
    make_encoder(), kind='random_init', variables={'w': np.ones(2, np.float32)}
  )
  still_fn = encoder.apply_fn

  def moving_fn(variables, images):
    encoder.variables = {'w': 0.9 * encoder.variables['w']}
    return still_fn(variables, images)

  def extract(cache_dir=None):
    return features_lib.extract_features(
      encoder, make_source(), CONFIG, cache_dir=cache_dir
    )

  fresh = extract()
  encoder.apply_fn = moving_fn
  with pytest.raises(ValueError, match='encoder changed'):
    extract(tmp_path)
  assert not list(tmp_path.iterdir())
  encoder.apply_fn, encoder.variables = still_fn, {'w': np.ones(2, np.float32)}
  again = extract(tmp_path)
  np.testing.assert_array_equal(again.h, fresh.h)
  assert again.encoder_fingerprint == fresh.encoder_fingerprint


def test_features_that_are_not_finite_name_an_example(encoder, tmp_path):
  def bad_fn(variables, images):
    h = images.reshape(len(images), -1)
    h = jax.numpy.where(abs(h * 255 - 17) < 0.5, jax.numpy.nan, h)
    return {'h': h, 'z': h}

  bad = dataclasses.replace(encoder, apply_fn=bad_fn)
  with pytest.raises(ValueError, match=r'1 of 43.*image 17.*diverged'):
    features_lib.extract_features(
      bad, make_source(), CONFIG, cache_dir=tmp_path
    )
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('precision', ['default', 'highest'])
def test_the_network_multiplies_as_in_training(encoder, precision):
  found = []

  def noting_fn(variables, images):
    found.append(jax.config.jax_default_matmul_precision)
    return encoder.apply_fn(variables, images)

  config = config_lib.replace(CONFIG, train={'matmul_precision': precision})
  noting = dataclasses.replace(encoder, apply_fn=noting_fn, config=config)
  features_lib.extract_features(noting, make_source(), CONFIG)
  assert set(found) == {precision}
  same = noting.function_hash() == encoder.function_hash()
  assert same == (precision == CONFIG.train.matmul_precision)


def test_the_cache_needs_no_file_that_seeks(tmp_path, monkeypatch):
  """TensorFlow's files, which serve gs://, cannot seek while writing."""
  entry = epath.Path(tmp_path) / 'new' / 'entry.npz'
  monkeypatch.setattr(
    type(entry), '_backend', property(lambda self: backend.tf_backend)
  )
  source = make_source(4)
  arrays = {'h': np.eye(4, dtype=np.float32), 'labels': np.arange(4)}
  feature_cache.write_entry(entry, arrays)
  found = feature_cache.read_entry(entry, source)
  assert found.keys() == arrays.keys()
  np.testing.assert_array_equal(found['h'], arrays['h'])
  assert [path.name for path in entry.parent.iterdir()] == ['entry.npz']


def test_a_cache_that_cannot_be_written_costs_no_features(
  encoder, tmp_path, caplog
):
  (tmp_path / 'file').write_text('')
  found = features_lib.extract_features(
    encoder, make_source(), CONFIG, cache_dir=tmp_path / 'file' / 'features'
  )
  assert len(found.h) == N
  assert any('could not be kept' in r.getMessage() for r in caplog.records)


def test_raw_pixels_are_held_and_stored_once(encoder, tmp_path):
  for _ in range(2):
    found = features_lib.extract_features(
      encoder, make_source(), CONFIG, cache_dir=tmp_path
    )
    assert found.z is found.h
  (entry,) = tmp_path.iterdir()
  assert sorted(np.load(entry).files) == ['h', 'labels']


def test_the_cache_saves_the_work(encoder, tmp_path):
  num_calls = []

  def counting_fn(variables, images):
    num_calls.append(len(images))
    return encoder.apply_fn(variables, images)

  counted = dataclasses.replace(encoder, apply_fn=counting_fn)
  first = features_lib.extract_features(
    counted, make_source(), CONFIG, cache_dir=tmp_path / 'features'
  )
  work = len(num_calls)
  again = features_lib.extract_features(
    counted, make_source(), CONFIG, cache_dir=tmp_path / 'features'
  )
  assert len(num_calls) == work > 0
  np.testing.assert_array_equal(first.h, again.h)
  np.testing.assert_array_equal(first.labels, again.labels)
  assert len(list((tmp_path / 'features').iterdir())) == 1


def test_what_changes_features_changes_the_entry(encoder):
  source = make_source()

  def name(source=source, **sections):
    config = config_lib.replace(CONFIG, **sections)
    return feature_cache.entry_name(encoder, source, config)

  names = {
    name(),
    name(source=make_source(fingerprint='other')),
    name(eval={'crop_fraction': 0.5}),
    name(eval={'resize': 'bilinear'}),
    name(data={'image_size': 5}),
  }
  assert len(names) == 5
  assert name(eval={'batch_size': 3}) == name()


@pytest.mark.parametrize('damage', ['truncated', 'flipped', 'text', 'rows'])
def test_a_damaged_entry_is_computed_again(encoder, tmp_path, damage, caplog):
  source = make_source()
  first = features_lib.extract_features(
    encoder, source, CONFIG, cache_dir=tmp_path
  )
  (entry,) = tmp_path.iterdir()
  content = bytearray(entry.read_bytes())
  if damage == 'truncated':
    content = content[: len(content) // 2]
  elif damage == 'flipped':
    content[len(content) // 3] ^= 1
  elif damage == 'text':
    content = b'not a zip'
  entry.write_bytes(content)
  if damage == 'rows':
    np.savez(entry, h=first.h[1:], z=first.z[1:], labels=first.labels[1:])
  again = features_lib.extract_features(
    encoder, source, CONFIG, cache_dir=tmp_path
  )
  np.testing.assert_array_equal(first.h, again.h)
  assert any('cannot be used' in r.getMessage() for r in caplog.records)
  caplog.clear()
  features_lib.extract_features(encoder, source, CONFIG, cache_dir=tmp_path)
  assert not any('cannot be used' in r.getMessage() for r in caplog.records)
