"""Encoders in inference mode, unchanged, and the same on any mesh."""

import dataclasses
import functools

from flax import linen as nn
import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib

CONFIG = config_lib.replace(
  config_lib.Config(),
  data={'source': 'procedural', 'image_size': 8},
  model={'depth': 18, 'width': 0.0625, 'head_dim': 6},
)


def make_loaded(num_classes=3, seed=0):
  """A checkpoint whose statistics are not those it was initialised with."""
  model = models.make_model(CONFIG.model, image_size=8, num_classes=num_classes)
  shapes = models.abstract_variables(model, image_size=8)
  rng = np.random.default_rng(seed)
  # Scales and variances about 1, everything else small.
  variables = jax.tree_util.tree_map_with_path(
    lambda path, x: (
      rng.uniform(0.5, 1.5, x.shape)
      if path[-1].key in ('scale', 'var')
      else rng.normal(0, 0.1, x.shape)
    ).astype(np.float32),
    shapes,
  )
  return checkpoint.LoadedEncoder(
    variables=variables,
    passport={
      'schema_version': 1,
      'step': 7,
      'objective': 'simclr',
      'config': config_lib.to_dict(CONFIG),
      'data': {},
      'metrics': {},
    },
    step=7,
    path='workdir/checkpoints/7',
    fingerprint=checkpoint.fingerprint(variables),
  )


@pytest.fixture(scope='module')
def loaded():
  return make_loaded()


@pytest.fixture(scope='module')
def encoder(loaded):
  return encoder_lib.make_encoder(loaded, mesh=mesh_lib.make_mesh())


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  return rng.uniform(size=(16, 8, 8, 3)).astype(np.float32)


def test_encodes_with_saved_statistics(encoder, loaded, images):
  encoded = encoder.encode(images)
  model = models.make_model(CONFIG.model, image_size=8, num_classes=3)
  expected = jax.jit(functools.partial(model.apply, train=False))(
    loaded.variables, images
  )
  np.testing.assert_allclose(encoded['h'], expected.h, rtol=2e-4, atol=1e-5)
  np.testing.assert_allclose(encoded['z'], expected.z, rtol=2e-4, atol=1e-5)
  assert encoded['h'].sharding.is_equivalent_to(
    mesh_lib.batch_sharding(encoder.mesh), 2
  )
  # An image is encoded alone: batch statistics would make this differ.
  shifted = np.concatenate([images[:8], 0.5 * images[8:]])
  again = np.asarray(encoder.encode(shifted)['h'])
  np.testing.assert_allclose(again[:8], np.asarray(encoded['h'])[:8], rtol=1e-5)


def test_keeps_the_checkpoints_fingerprint(encoder, loaded, images):
  encoder.encode(images)
  assert encoder.fingerprint() == loaded.fingerprint
  with encoder_lib.frozen(encoder) as fingerprint:
    assert fingerprint == loaded.fingerprint


@pytest.mark.parametrize('collection', ['params', 'batch_stats'])
def test_refuses_a_change_of_the_encoder(loaded, collection):
  encoder = encoder_lib.make_encoder(loaded, mesh=mesh_lib.make_mesh())
  with pytest.raises(ValueError, match='encoder changed'):
    with encoder_lib.frozen(encoder):
      changed = dict(encoder.variables)
      # The smallest change there is, of one number.
      changed[collection] = jax.tree.map(np.array, changed[collection])
      leaf = jax.tree.leaves(changed[collection])[0].reshape(-1)
      leaf[0] = np.nextafter(leaf[0], np.float32(9))
      encoder.variables = changed


def test_refuses_variables_of_another_network(loaded):
  passport = dict(loaded.passport)
  passport['config'] = config_lib.to_dict(
    config_lib.replace(CONFIG, model={'head_dim': 5, 'head_layers': 2})
  )
  with pytest.raises(ValueError, match='does not fit(.|\n)*unexpected'):
    encoder_lib.make_encoder(
      dataclasses.replace(loaded, passport=passport), mesh=mesh_lib.make_mesh()
    )


def test_random_encoder_is_a_function_of_its_seed(monkeypatch):
  # Two layers instead of a network: compiling one takes most of the time.
  model = nn.Sequential([nn.Conv(2, (1, 1)), nn.BatchNorm(True)])
  monkeypatch.setattr(encoder_lib, '_model_and_shapes', lambda _: (model, {}))
  monkeypatch.setattr(
    models,
    'init_variables',
    lambda model, key, image_size: model.init(key, np.ones((1, 8, 8, 3))),
  )
  mesh = mesh_lib.make_mesh()
  prints = [
    encoder_lib.make_random_encoder(CONFIG, mesh=mesh, seed=s).fingerprint()
    for s in (0, 0, 1)
  ]
  assert prints[0] == prints[1] != prints[2]


def test_raw_pixels_are_the_images(images):
  encoder = encoder_lib.make_raw_pixel_encoder(
    CONFIG, mesh=mesh_lib.make_mesh()
  )
  encoded = encoder.encode(images)
  np.testing.assert_array_equal(encoded['h'], images.reshape(16, -1))
  with encoder_lib.frozen(encoder):
    pass


def test_equal_variables_of_different_networks_do_not_share_a_cache(encoder):
  other = config_lib.replace(CONFIG, model={'padding': 'torch'})
  changed = dataclasses.replace(encoder, config=other)
  assert changed.fingerprint() == encoder.fingerprint()
  assert changed.function_hash() != encoder.function_hash()
