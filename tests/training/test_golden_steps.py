"""Five training steps of the official code, from its name-seeded weights."""

import dataclasses
import importlib.util

import jax
import numpy as np
import optax
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.data.source import Example, Source
from simclr_jax.importers import official_names
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import optimizer as optimizer_lib
from simclr_jax.training import run as run_lib
from simclr_jax.training.state import TrainState

SHAPES = {'image_size': 32, 'num_classes': 10}


def load_official_weights(golden_dir):
  spec = importlib.util.spec_from_file_location(
    'official_weights', golden_dir / 'official_weights.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  manifest = module.load_manifest(golden_dir / 'manifests/steps_r18_mild.json')
  return module.make_weights(manifest)


def make_config():
  return config_lib.replace(
    config_lib.Config(),
    data={'source': 'digits', 'image_size': 32},
    model={'depth': 18, 'head_layers': 2},
    loss={'temperature': 0.5},
    optim={'weight_decay': 1e-4, 'schedule': 'constant', 'warmup': '0 steps'},
    train={'batch_size': 64, 'duration': '10 steps'},
  )


def take_steps(golden_dir, views, labels, lr, *, dtype, num_steps):
  """Runs our own step from the official weights; yields what it reports."""
  config = make_config()
  mesh = mesh_lib.make_mesh(jax.devices()[:1])
  source = Source(
    'golden', 64, 10, False, lambda i: Example(b'', 0), str, 'golden'
  )
  run = run_lib.make_run(config, mesh=mesh, source=source)
  schedule = optax.constant_schedule(lr)
  run = dataclasses.replace(
    run,
    model=models.make_model(config.model, param_dtype=dtype, **SHAPES),
    schedule=schedule,
    optimizer=optimizer_lib.make_optimizer(config.optim, schedule),
  )
  variables = official_names.from_official(
    load_official_weights(golden_dir), config.model, **SHAPES
  )
  variables = jax.tree.map(lambda x: np.asarray(x, dtype), variables)
  batch = {
    # Official: channels 0..2 view 1, 3..5 view 2.
    'views': views.reshape(64, 32, 32, 2, 3)
    .transpose(0, 3, 1, 2, 4)
    .astype(dtype),
    'label': labels,
  }
  with jax.set_mesh(mesh):

    def put(tree):
      return jax.device_put(tree, mesh_lib.replicated(mesh))

    params = put(variables['params'])
    state = TrainState(
      step=put(np.int32(0)),
      params=params,
      model_state=put(variables['batch_stats']),
      opt_state=put(jax.jit(run.optimizer.init)(params)),
      extra={},
    )
    train_step, trace = run.train_step(), []
    for _ in range(num_steps):
      head = jax.device_get(state.params['online_head'])
      state, output = train_step(state, mesh_lib.put_batch(batch, mesh))
      trace.append((jax.device_get(output.metrics), head))
      trace[-1][0]['state'] = jax.device_get(
        {'params': state.params, 'batch_stats': state.model_state}
      )
  return trace, config


def check(trace, config, golden, weights, prefix, rtol):
  want = {
    k: golden[f'{prefix}/{k}']
    for k in (
      'total_loss',
      'contrast_loss',
      'supervised_loss',
      'contrast_acc',
      'contrast_entropy',
      'supervised_acc',
      'weight_decay',
    )
  }
  for step, (metrics, head) in enumerate(trace):
    decay = 0.5 * 1e-4 * float((head['kernel'].astype(np.float64) ** 2).sum())
    got = {
      'contrast_loss': metrics['loss'],
      'supervised_loss': metrics['online_loss'],
      'contrast_acc': metrics['contrast_acc'],
      'contrast_entropy': metrics['contrast_entropy'],
      'supervised_acc': metrics['online_top1'],
      'weight_decay': decay,
      'total_loss': metrics['total_loss'] + decay,
    }
    for name, value in got.items():
      np.testing.assert_allclose(
        value,
        want[name][step],
        rtol=rtol['loss'],
        # An accuracy moves in whole rows.
        atol=rtol['rows'] / 64 if name.endswith('acc') else 1e-9,
        err_msg=f'{name} at step {step}',
      )
  names = [str(n) for n in golden['var_names']]
  start = {n: weights[n].astype(np.float64) for n in names}
  for step, (metrics, _) in enumerate(trace):
    arrays = official_names.to_official(
      metrics['state'], config.model, **SHAPES
    )
    norms = np.array([np.linalg.norm(arrays[n]) for n in names])
    deltas = np.array([np.linalg.norm(arrays[n] - start[n]) for n in names])
    np.testing.assert_allclose(
      norms, golden[f'{prefix}/var_norms_after'][step], rtol=rtol['norm']
    )
    reference = golden[f'{prefix}/delta_norms_after'][step]
    error = np.abs(deltas - reference) / np.maximum(reference, 1e-12)
    assert np.median(error) < rtol['delta_median']
    assert error.max() < rtol['delta_worst']


@pytest.fixture(scope='module')
def inputs(golden):
  views = golden('steps_r18_views')
  # The official rate is a float32; 0.1 itself would show in float64.
  lr = float(golden('steps_r18_mild')['lr'])
  return views['views'], views['labels'], lr


def test_float32_follows_the_official_steps(golden, golden_dir, inputs):
  trace, config = take_steps(golden_dir, *inputs, dtype=np.float32, num_steps=5)
  check(
    trace,
    config,
    golden('steps_r18_mild'),
    load_official_weights(golden_dir),
    'f64',
    {
      'loss': 1e-4,
      'rows': 2,
      'norm': 2e-3,
      'delta_median': 5e-4,
      'delta_worst': 2e-2,
    },
  )


def test_float64_follows_the_official_steps(golden, golden_dir, inputs):
  with jax.enable_x64(True):
    trace, config = take_steps(
      golden_dir, *inputs, dtype=np.float64, num_steps=2
    )
  check(
    trace,
    config,
    golden('steps_r18_mild'),
    load_official_weights(golden_dir),
    'f64',
    {
      'loss': 1e-9,
      'rows': 0,
      'norm': 5e-9,
      'delta_median': 1e-8,
      'delta_worst': 1e-6,
    },
  )
