"""The same global batch gives the same step on 1, 2, 4 and 8 devices."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.data.source import Example, Source
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import run as run_lib
from tests.tiny_model import with_tiny_model

BATCH, SIZE, CLASSES = 16, 16, 5
# Larger than every parameter, so that size tells images from gradients.
LARGE_SIZE = 48


def make_config(image_size=SIZE, **sections):
  sections = {
    'data': {'source': 'digits', 'image_size': image_size},
    'model': {'depth': 18, 'width': 0.0625, 'head_layers': 2, 'head_dim': 16},
    'train': {'batch_size': BATCH, 'duration': '10 steps'},
    'optim': {'warmup': '2 steps', 'weight_decay': 1e-4},
    **sections,
  }
  return config_lib.replace(config_lib.Config(), **sections)


def make_source(num_examples=64):
  """Stands where a data set would; the tests feed batches themselves."""
  return Source(
    name='none',
    num_examples=num_examples,
    num_classes=CLASSES,
    encoded=False,
    read=lambda i: Example(np.zeros((8, 8, 3), np.uint8), i % CLASSES),
    example_id=str,
    fingerprint='none',
  )


def make_run(num_devices, config=None):
  return run_lib.make_run(
    config or make_config(),
    mesh=mesh_lib.make_mesh(jax.devices()[:num_devices]),
    source=make_source(),
  )


def make_batches(num_batches, image_size=SIZE, dtype=np.float64):
  rng = np.random.default_rng(0)
  shape = (BATCH, 2, image_size, image_size, 3)
  return [
    {
      'views': rng.random(shape).astype(dtype),
      'label': rng.integers(0, CLASSES, BATCH).astype(np.int32),
    }
    for _ in range(num_batches)
  ]


def take_steps(num_devices, network, optimizer, num_steps=3):
  """Steps in float64, where nothing but a different sum can hide."""
  with jax.enable_x64(True):
    run = make_run(num_devices, CONFIGS[optimizer])
    if network == 'resnet':
      model = models.make_model(
        run.config.model,
        image_size=SIZE,
        num_classes=CLASSES,
        param_dtype=np.float64,
      )
      run = dataclasses.replace(run, model=model)
    else:
      run = with_tiny_model(run, network, param_dtype=np.float64)
    with jax.set_mesh(run.mesh):
      state, train_step, outputs = run.init_state(), run.train_step(), []
      for batch in make_batches(num_steps):
        old = state
        state, output = train_step(state, mesh_lib.put_batch(batch, run.mesh))
        outputs.append(jax.device_get(output))
        # Donated: else the peak memory would hold two states.
        assert all(x.is_deleted() for x in jax.tree.leaves(old.params))
      return jax.device_get(state), outputs


# LARS does not see the scale of a gradient; plain SGD does.
CONFIGS = {
  'lars': make_config(),
  'sgd': make_config(
    optim={'name': 'sgd', 'base_lr': 0.5, 'warmup': '0 steps'}
  ),
}


@pytest.mark.parametrize(
  ('num_devices', 'network', 'optimizer', 'num_arrays'),
  [
    (2, 'folded', 'sgd', 20),
    (4, 'norm', 'lars', 9),
    (8, 'resnet', 'sgd', 100),
  ],
)
def test_same_state_on_any_number_of_devices(
  num_devices, network, optimizer, num_arrays
):
  want_state, want = take_steps(1, network, optimizer)
  state, got = take_steps(num_devices, network, optimizer)
  for a, b in zip(got, want, strict=True):
    assert a.metrics.keys() == b.metrics.keys()
    for key in a.metrics:
      # Constants of the batch norm and the schedule are float32.
      np.testing.assert_allclose(
        a.metrics[key], b.metrics[key], rtol=1e-7, atol=1e-10, err_msg=key
      )
    np.testing.assert_allclose(a.z, b.z, atol=1e-8)
  flat_want = dict(jax.tree_util.tree_leaves_with_path(want_state))
  moved = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    reference = flat_want[path]
    assert leaf.dtype == reference.dtype
    moved += leaf.dtype == np.float64
    scale = max(np.abs(reference).max(), 1e-6)
    np.testing.assert_allclose(
      leaf, reference, atol=1e-7 * scale, err_msg=jax.tree_util.keystr(path)
    )
  assert moved > num_arrays


def test_first_step_counts_and_starts_at_rate_zero():
  state, outputs = take_steps(1, 'norm', 'lars')
  assert state.step == 3
  rates = [float(o.metrics['learning_rate']) for o in outputs]
  assert rates[0] == 0 and rates[1] > 0


def compiled_text(run, views_shape):
  with jax.set_mesh(run.mesh):
    sharding = mesh_lib.batch_sharding(run.mesh)
    batch = {
      'views': jax.ShapeDtypeStruct(views_shape, np.float32, sharding=sharding),
      'label': jax.ShapeDtypeStruct((BATCH,), np.int32, sharding=sharding),
    }
    lowered = run.train_step().lower(run.abstract_state(), batch)
    return lowered.compile().as_text()


_COLLECTIVE = re.compile(
  r'= (\(?[^=]*?\)?) (all-gather|all-to-all|collective-permute|all-reduce'
  r'|reduce-scatter|collective-broadcast)(?:-start)?\('
)


def largest_collective(text):
  """Elements of the largest array that any collective gives."""
  largest = 0
  for types, _ in _COLLECTIVE.findall(text):
    for dims in re.findall(r'\w+\[([0-9,]*)\]', types):
      sizes = [int(d) for d in dims.split(',') if d]
      largest = max(largest, int(np.prod(sizes)))
  return largest


def largest_parameter(run):
  return max(x.size for x in jax.tree.leaves(run.abstract_state().params))


def test_no_collective_of_image_size():
  run = make_run(8, make_config(LARGE_SIZE))
  shape = (BATCH, 2, LARGE_SIZE, LARGE_SIZE, 3)
  local_images = int(np.prod(shape)) // 8
  # So that half of a device's images would show, too.
  assert largest_parameter(run) < local_images // 2
  found = largest_collective(compiled_text(run, shape))
  # Gradients and embeddings [2B, d] cross devices, nothing larger.
  assert 0 < found <= max(largest_parameter(run), 2 * BATCH * 16)


def test_the_image_collective_test_can_fail(monkeypatch):
  """Stacking view 1 over view 2, as in the official code, moves images."""
  from simclr_jax.objectives import simclr

  def concatenate_views(views):
    stacked = jax.sharding.reshard(
      views.transpose(1, 0, 2, 3, 4), jax.P(None, 'data')
    )
    merged = jax.sharding.reshard(stacked, jax.P()).reshape(
      -1, *views.shape[2:]
    )
    return jax.sharding.reshard(merged, jax.P('data'))

  monkeypatch.setattr(simclr, 'merge_views', concatenate_views)
  run = with_tiny_model(make_run(8, make_config(LARGE_SIZE)))
  shape = (BATCH, 2, LARGE_SIZE, LARGE_SIZE, 3)
  found = largest_collective(compiled_text(run, shape))
  assert found >= int(np.prod(shape)) // 8


def test_forgotten_gather_is_a_trace_error(monkeypatch):
  """With local keys only, tracing fails instead of contrasting too few."""
  from simclr_jax.objectives import simclr

  real = simclr.losses.nt_xent
  monkeypatch.setattr(
    simclr.losses, 'nt_xent', lambda z, keys, **kw: real(z, z, **kw)
  )
  run = with_tiny_model(make_run(2))
  with pytest.raises(Exception, match='(?i)shard'):
    compiled_text(run, (BATCH, 2, SIZE, SIZE, 3))
