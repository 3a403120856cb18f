"""What the step is fed: the same views wherever they are made."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.training import feeding
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import run as run_lib

STEPS = 5


def make_run(num_devices=8, augment=None, data=None, **sections):
  config = config_lib.Config(
    data=config_lib.DataConfig(
      source='procedural',
      train_split='train[:22]',
      image_size=20,
      num_workers=2,
      **(data or {}),
    ),
    augment=config_lib.AugmentConfig(**(augment or {})),
    model=config_lib.ModelConfig(depth=18, width=0.03),
    optim=config_lib.OptimConfig(warmup='0 steps'),
    train=config_lib.TrainConfig(batch_size=8, duration=f'{STEPS} steps'),
  )
  return run_lib.make_run(
    config_lib.replace(config, **sections),
    mesh=mesh_lib.make_mesh(jax.devices()[:num_devices]),
  )


def feed(run, start_step=0):
  """Batches as NumPy arrays, with the sharding of their views."""
  with jax.set_mesh(run.mesh):
    return [
      (jax.device_get(batch), index, batch['views'].sharding)
      for batch, index in feeding.train_feed(run, start_step=start_step)
    ]


@pytest.fixture(scope='module')
def on_host():
  return feed(make_run())


def assert_same_batches(got, expected, *, atol):
  assert len(got) == len(expected)
  for (a, i, sharding), (b, j, _) in zip(got, expected, strict=True):
    np.testing.assert_array_equal(i, j)
    np.testing.assert_array_equal(a['label'], b['label'])
    assert set(a) == {'views', 'label'}
    assert a['views'].shape == (8, 2, 20, 20, 3)
    assert sharding.spec[0] == 'data'
    np.testing.assert_allclose(a['views'], b['views'], atol=atol)


@pytest.mark.parametrize('cache', ['replicated', 'sharded'])
@pytest.mark.parametrize('num_devices', [1, 8])
def test_device_views_are_those_of_the_host(on_host, cache, num_devices):
  run = make_run(
    num_devices, data={'augment_on': 'device', 'device_cache': cache}
  )
  # TensorFlow rounds the positions of bicubic taps to 1/1024.
  assert_same_batches(feed(run), on_host, atol=4e-3)


def test_hybrid_views_are_those_of_the_host_up_to_rounding():
  # Bilinear resizing stays in range: only half a level is lost.
  augment = {'resize': 'bilinear', 'jitter_prob': 0.0}
  host = feed(make_run(augment=augment))
  hybrid = feed(make_run(augment=augment, data={'augment_on': 'hybrid'}))
  assert_same_batches(hybrid, host, atol=0.5 / 255 + 1e-5)
  # And not less, or the crops were no bytes.
  assert np.abs(hybrid[0][0]['views'] - host[0][0]['views']).max() > 1e-3


def test_all_of_it_on_the_device_and_on_the_host_in_bytes(on_host):
  hybrid = feed(make_run(data={'augment_on': 'hybrid'}))
  assert [len(hybrid), hybrid[0][0]['views'].shape] == [
    STEPS,
    (8, 2, 20, 20, 3),
  ]
  for (a, i, _), (b, j, _) in zip(hybrid, on_host, strict=True):
    np.testing.assert_array_equal(i, j)
    # Jitter multiplies half a level; overshoot is cut where crops are bytes.
    assert np.abs(a['views'] - b['views']).mean() < 0.01


@pytest.mark.parametrize('where', ['hybrid', 'device'])
def test_a_restart_changes_nothing(where):
  run = make_run(data={'augment_on': where})
  whole, rest = feed(run), feed(run, start_step=3)
  for (a, i, _), (b, j, _) in zip(whole[3:], rest, strict=True):
    np.testing.assert_array_equal(i, j)
    np.testing.assert_array_equal(a['views'], b['views'])


@pytest.mark.parametrize('where', ['hybrid', 'device'])
def test_views_come_in_the_type_the_network_computes_in(where):
  narrow = feed(
    make_run(data={'augment_on': where}, model={'compute_dtype': 'bfloat16'})
  )
  wide = feed(make_run(data={'augment_on': where}))
  assert narrow[0][0]['views'].dtype == jnp.bfloat16
  for (a, _, _), (b, _, _) in zip(narrow, wide, strict=True):
    expected = b['views'].astype(jnp.bfloat16).astype(np.float32)
    # XLA may fuse the rounding and so round another last digit.
    close = np.abs(a['views'].astype(np.float32) - expected) < 1e-6
    assert close.mean() > 0.999


def test_the_epochs_last_batch_straddles_into_the_next(on_host):
  indices = np.concatenate([index for _, index, _ in on_host])
  assert sorted(indices[:22]) == list(range(22))
