"""State in pieces: the same training, less memory, the same checkpoints."""

from __future__ import annotations

import dataclasses
import re
import shutil

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import evaluation
from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import loop, state_sharding
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import run as run_lib
from tests.tiny_model import TinyModel

BATCH, SIZE, CLASSES = 32, 8, 10


@pytest.fixture(autouse=True)
def _small_arrays(monkeypatch):
  """Tiny networks have no array that is worth dividing."""
  monkeypatch.setattr(state_sharding, 'MIN_SIZE', 16)


@pytest.mark.parametrize(
  ('shape', 'axis'),
  [
    ((3, 3, 64, 128), 3),
    ((3, 3, 128, 64), 2),
    ((1, 1, 64, 64), 3),  # Of equal axes the last.
    ((3, 3, 12, 64), 3),
    ((16, 3, 60, 70), 0),  # The only one that divides.
    ((3, 3, 60, 70), None),
    ((64,), None),  # Small.
    ((8192,), 0),
    ((), None),
    ((0, 8192), None),
  ],
)
def test_largest_axis_that_divides(shape, axis):
  got = state_sharding.sharded_axis(shape, num_devices=8, min_size=128)
  assert got == axis
  assert state_sharding.sharded_axis(shape, num_devices=1, min_size=128) is None


def test_spec_by_kind(monkeypatch):
  monkeypatch.setattr(state_sharding, 'MIN_SIZE', 128)
  spec = state_sharding.spec
  assert spec((3, 3, 16, 64), kind='fsdp', num_devices=8) == P(
    None, None, None, 'data'
  )
  assert spec((3, 3, 16, 64), kind='replicated', num_devices=8) == P()
  assert spec((8,), kind='fsdp', num_devices=8) == P()


def make_config(**train):
  return config_lib.replace(
    config_lib.Config(),
    # Views from the host: test_accumulation.py has the other makers.
    data={'source': 'digits', 'image_size': SIZE, 'loader': 'opencv'},
    augment={'blur_prob': 0.0},
    loss={'temperature': 0.2},
    # The trust ratio and clipping read norms of whole arrays.
    optim={
      'base_lr': 2.0, 'warmup': '0 steps', 'weight_decay': 1e-3,
      'clip_grad_norm': 0.5, 'trust_coefficient': 0.1,
    },
    train={
      'batch_size': BATCH, 'duration': '3 steps',
      'diagnostics_every': '0 steps', **train,
    },
    checkpoint={'every': '1 steps', 'keep_latest': 3},
    monitor={'knn_every': '3 steps', 'knn_max_bank': 64},
    eval={'batch_size': 64},
    knn={'ks': (5,), 'temperatures': (0.1,)},
  )  # fmt: skip


def make_run(num_devices, dtype=jnp.float64, **train):
  run = run_lib.make_run(
    make_config(**train), mesh=mesh_lib.make_mesh(jax.devices()[:num_devices])
  )
  model = TinyModel('norm', dtype, width=16, num_classes=CLASSES)
  return dataclasses.replace(run, model=model)


def with_average(run):
  """The same with a moving average of the parameters, as targets have it."""
  objective = dataclasses.replace(
    run.objective,
    init_extra=lambda params: {'target': params, 'seen': jnp.zeros((2, 64))},
    after_update=lambda extra, params: {
      'target': jax.tree.map(
        lambda t, p: 0.9 * t + 0.1 * p, extra['target'], params
      ),
      'seen': extra['seen'] + 1,
    },
  )
  return dataclasses.replace(run, objective=objective)


def make_batches(num_steps, dtype):
  rng = np.random.default_rng(0)
  colors = rng.normal(0, 1, (num_steps, BATCH, 2, 1, 1, 3))
  noise = rng.random((num_steps, BATCH, 2, SIZE, SIZE, 3))
  return [
    {
      'views': (color + 0.2 * more).astype(dtype),
      'label': rng.integers(0, CLASSES, BATCH).astype(np.int32),
    }
    for color, more in zip(colors, noise, strict=True)
  ]


def take_steps(run, dtype=np.float64, *, step=None):
  with jax.set_mesh(run.mesh):
    state, step = run.init_state(), step or run.train_step()
    metrics = []
    for batch in make_batches(3, dtype):
      state, output = step(state, mesh_lib.put_batch(batch, run.mesh))
      metrics.append(jax.device_get(output.metrics))
  return state, metrics


def assert_close(got, want, tolerance):
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(want))
  flat = dict(jax.tree_util.tree_leaves_with_path(jax.device_get(got)))
  assert len(flat) == len(leaves)
  for path, value in leaves:
    scale = max(np.abs(value).max(), 1e-3)
    np.testing.assert_allclose(
      flat[path], value, rtol=0, atol=tolerance * scale, err_msg=str(path)
    )


def check_layout(state):
  """Born in pieces, and left in pieces by a step; averages with them."""
  for tree in (state.params, state.extra['target']):
    assert tree['conv1']['kernel'].sharding.spec == P(None, None, None, 'data')
    assert tree['head']['kernel'].sharding.spec[0] == 'data'
    assert not any(tree['head']['bias'].sharding.spec)
  assert state.extra['seen'].sharding.is_fully_replicated
  assert state.model_state['bn1']['mean'].sharding.is_fully_replicated
  leaves = jax.tree.leaves(state.opt_state)
  assert sum(any(x.sharding.spec) for x in leaves) == 6


def test_the_same_three_steps():
  """In micro-batches here; all at once in float32, below."""
  with jax.enable_x64(True):
    want, said = take_steps(with_average(make_run(8, micro_batches=2)))
    run = with_average(make_run(8, micro_batches=2, state_sharding='fsdp'))
    got, metrics = take_steps(run)
    assert_close(got, want, 1e-9)
    assert_close(metrics, said, 1e-9)
    moved = said[-1]['param_norm'] - said[0]['param_norm']
    assert np.abs(moved) > 1e-4
    check_layout(run.abstract_state())
    check_layout(got)


class Compiled:
  """A step that is compiled once, and what it makes of three batches."""

  def __init__(self, run):
    self.run = run
    sharding = mesh_lib.batch_sharding(run.mesh)
    batch = {
      name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
      for name, x in make_batches(1, np.float32)[0].items()
    }
    with jax.set_mesh(run.mesh):
      lowered = run.train_step().lower(run.abstract_state(), batch)
    self.program = lowered.compile()
    self.state, self.metrics = take_steps(run, np.float32, step=self.program)


@pytest.fixture(scope='module')
def compiled():
  """(whole, in pieces), in float32; the latter skips what is not finite."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(state_sharding, 'MIN_SIZE', 16)
    pieces = {'state_sharding': 'fsdp', 'on_non_finite': 'skip'}
    return [
      Compiled(make_run(8, jnp.float32, **train)) for train in ({}, pieces)
    ]


def test_the_same_in_float32(compiled):
  whole, pieces = compiled
  assert_close(pieces.state, whole.state, 2e-5)
  said = [
    {k: v for k, v in m.items() if k != 'skipped'} for m in pieces.metrics
  ]
  assert_close(said, whole.metrics, 2e-5)


def test_pieces_of_a_step_that_is_not_finite_are_undone(compiled):
  """On every device alike, and the next step is taken from there."""
  _, pieces = compiled
  run = pieces.run
  batch = make_batches(1, np.float32)[0]
  broken = {**batch, 'views': np.full_like(batch['views'], np.nan)}
  with jax.set_mesh(run.mesh):
    before = run.init_state()
    kept = jax.device_get(before)
    state, output = pieces.program(before, mesh_lib.put_batch(broken, run.mesh))
    assert output.metrics['skipped'] == 1
    assert state.step == 1
    for name in ('params', 'model_state'):
      assert_close(getattr(state, name), getattr(kept, name), 0)
    assert any(state.params['conv1']['kernel'].sharding.spec)
    state, output = pieces.program(state, mesh_lib.put_batch(batch, run.mesh))
  assert output.metrics['skipped'] == 0 and state.step == 2
  moved = state.params['conv1']['kernel'] - kept.params['conv1']['kernel']
  assert np.abs(moved).max() > 1e-4


def gathered_shapes(compiled):
  return re.findall(r'= \(?\w+\[([0-9,]*)\]\S* all-gather', compiled.as_text())


def test_pieces_are_gathered_and_memory_is_that_of_pieces(compiled):
  whole, pieces = compiled
  kernel = '3,3,3,16'
  assert kernel not in gathered_shapes(whole.program)
  assert kernel in gathered_shapes(pieces.program)
  held = state_sharding.bytes_per_device(pieces.run.abstract_state())
  whole_state = whole.run.abstract_state()
  assert held < 0.5 * state_sharding.bytes_per_device(whole_state)
  batch_bytes = BATCH // 8 * (2 * SIZE * SIZE * 3 * 4 + 4)
  memory = pieces.program.memory_analysis()
  assert memory.argument_size_in_bytes == held + batch_bytes
  # Donated: the new pieces take the place of the old ones.
  assert memory.alias_size_in_bytes == held


def test_rounding_before_the_gather_changes_nothing():
  rounded = {'a': jnp.bfloat16, 'b': None}
  mesh = mesh_lib.make_mesh()
  rng = np.random.default_rng(0)
  params = {
    name: rng.normal(0, 1, (4, 64)).astype(np.float32) for name in rounded
  }
  pieces = jax.device_put(
    params, state_sharding.shardings(params, kind='fsdp', mesh=mesh)
  )

  def loss_fn(params, gather_fn):
    params = gather_fn(params)
    return jnp.sum(params['a'].astype(jnp.bfloat16).astype(jnp.float32) ** 2)

  with jax.set_mesh(mesh):
    grads = [
      jax.jit(lambda p, g=gather_fn: jax.grad(loss_fn)(p, g))(pieces)
      for gather_fn in (
        state_sharding.gather,
        lambda p: state_sharding.gather(p, rounded),
      )
    ]
    full = jax.jit(lambda p: state_sharding.gather(p, rounded))(pieces)
  assert full['a'].dtype == jnp.bfloat16 and full['b'].dtype == np.float32
  np.testing.assert_array_equal(grads[0]['a'], grads[1]['a'])
  assert grads[1]['a'].dtype == np.float32
  assert grads[1]['a'].sharding.spec == pieces['a'].sharding.spec


def final_arrays(workdir, step):
  return checkpoint_lib.load_state_arrays(workdir / 'checkpoints', step=step)


def test_a_run_in_pieces_from_start_to_another_layout(tmp_path):
  """Trains, judges, saves; continues whole, on fewer devices, and back."""
  run = make_run(8, jnp.float32, state_sharding='fsdp', micro_batches=2)
  train, test = tmp_path / 'pieces', tmp_path / 'whole'
  monitor = evaluation.KnnMonitor(run.config, train=run.source)

  def evaluate(run, state, *unused):
    variables = {'params': state.params, 'batch_stats': state.model_state}
    return monitor.evaluate(run.model, variables, mesh=run.mesh)

  outcome = loop.pretrain(run, str(train), evaluate_fn=evaluate)
  assert any(outcome.state.params['conv1']['kernel'].sharding.spec)
  want = final_arrays(train, 3)
  loaded = checkpoint_lib.load_encoder(train)
  assert 0 < loaded.passport['metrics']['knn_top1'] <= 1
  np.testing.assert_array_equal(
    loaded.variables['params']['conv1']['kernel'],
    outcome.state.params['conv1']['kernel'],
  )
  # Restored bit for bit, whole on 4 devices and in pieces on 2.
  shutil.copytree(train, test)
  for devices, kind in ((4, 'replicated'), (2, 'fsdp')):
    other = make_run(devices, jnp.float32, state_sharding=kind)
    checkpointer = checkpoint_lib.Checkpointer(
      test / 'checkpoints', other.config.checkpoint
    )
    restored = checkpointer.restore_latest(other.abstract_state())
    checkpointer.close()
    assert checkpoint_lib.fingerprint(restored.state._asdict()) == (
      checkpoint_lib.fingerprint(want)
    )
    kernel = restored.state.params['conv1']['kernel']
    assert any(kernel.sharding.spec) == (kind == 'fsdp')
  # The last step again, from the checkpoint before it.
  shutil.rmtree(test / 'checkpoints' / '3')
  whole = make_run(4, jnp.float32, micro_batches=2)
  loop.pretrain(whole, str(test), evaluate_fn=evaluate)
  assert_close(final_arrays(test, 3), want, 1e-4)
