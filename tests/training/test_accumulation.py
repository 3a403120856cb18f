"""Micro-batches: the whole batch's loss, one part's activations.

The oracle runs every micro-batch through the network by itself, on one device
without a mesh, joins the embeddings, writes the loss down as in the paper, and
leaves the rest to `jax.grad`.
"""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import config as config_lib
from simclr_jax import objectives
from simclr_jax.objectives import simclr
from simclr_jax.objectives.objective import LossResult, Objective
from simclr_jax.training import accumulation, feeding, micro_batches
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import run as run_lib
from simclr_jax.training import step as step_lib
from simclr_jax.training.accumulation import Accumulation
from simclr_jax.training.state import TrainState
from tests.tiny_model import TinyModel

BATCH, SIZE, CLASSES, TEMPERATURE, RATE = 32, 6, 3, 0.2, 1.0
PARTS = 2


def make_variables(model):
  images = jax.ShapeDtypeStruct((2, SIZE, SIZE, 3), model.param_dtype)
  shapes = jax.eval_shape(
    lambda x: model.init(jax.random.key(1), x, train=False), images
  )
  rng = np.random.default_rng(2)
  variables = jax.tree.map(
    lambda x: (
      rng.normal(0, 0.5, x.shape).astype(x.dtype) ** (2 * (x.ndim < 2) or 1)
    ),
    shapes,
  )
  return {'batch_stats': {}, **variables}


def make_batch(dtype=np.float64):
  rng = np.random.default_rng(0)
  # Of many colours, else all embeddings would be alike.
  colors = rng.normal(0, 1, (BATCH, 2, 1, 1, 3))
  return {
    'views': (colors + 0.2 * rng.random((BATCH, 2, SIZE, SIZE, 3))).astype(
      dtype
    ),
    # -1: an image without a label.
    'label': rng.integers(-1, CLASSES, BATCH).astype(np.int32),
  }


def make_objective(**loss):
  loss = {'temperature': TEMPERATURE, **loss}
  return objectives.make_objective(
    config_lib.replace(
      config_lib.Config(), data={'source': 'digits'}, loss=loss
    )
  )


def take_step(model, objective, how, *, num_devices=8, extra=None, dtype=None):
  """(state after one step of SGD, what it reported), on the host."""
  mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
  optimizer = optax.sgd(RATE)
  step = step_lib.make_train_step(
    model,
    objective,
    optimizer=optimizer,
    schedule=optax.constant_schedule(RATE),
    seed=0,
    on_non_finite='stop',
    how=how,
  )
  variables = jax.device_put(make_variables(model), mesh_lib.replicated(mesh))
  with jax.set_mesh(mesh):
    state = TrainState(
      step=jax.device_put(np.int32(0), mesh_lib.replicated(mesh)),
      params=variables['params'],
      model_state=variables['batch_stats'],
      opt_state=optimizer.init(variables['params']),
      extra=jax.device_put(extra or {}, mesh_lib.replicated(mesh)),
    )
    batch = mesh_lib.put_batch(make_batch(dtype or np.float64), mesh)
    return jax.device_get(step(state, batch))


def oracle(model, parts):
  """(loss, z, new params, new batch statistics) by separate forwards."""
  variables, batch = make_variables(model), make_batch()

  def forwards(params):
    z = np.zeros((BATCH, 2, 5)) * params['head']['kernel'][0, 0]
    logits = jnp.zeros((BATCH, 2, CLASSES))
    stats = []
    for number in range(parts):
      rows = np.arange(number, BATCH, parts)  # Every parts-th image.
      outputs, updated = model.apply(
        {'params': params, 'batch_stats': variables['batch_stats']},
        batch['views'][rows].reshape(-1, SIZE, SIZE, 3),
        train=True,
        mutable=['batch_stats'],
      )
      z = z.at[rows].set(outputs.z.reshape(-1, 2, 5))
      logits = logits.at[rows].set(outputs.logits.reshape(-1, 2, CLASSES))
      stats.append(updated.get('batch_stats', {}))
    mean = jax.tree.map(lambda *x: sum(x) / parts, *stats)
    return z, logits, mean

  def loss_fn(params):
    z, logits, stats = forwards(params)
    z = z / jnp.sqrt((z**2).sum(-1, keepdims=True))
    flat = z.reshape(2 * BATCH, 5)
    similar = jnp.exp(flat @ flat.T / TEMPERATURE)
    similar = similar * (1 - np.eye(2 * BATCH))
    positive = jnp.exp((z[:, 0] * z[:, 1]).sum(-1) / TEMPERATURE)
    losses = -jnp.log(jnp.repeat(positive, 2) / similar.sum(1))
    labels = np.repeat(batch['label'], 2)
    chosen = jax.nn.log_softmax(logits).reshape(-1, CLASSES)[
      np.arange(2 * BATCH), labels
    ]
    # The official scale, twice the mean.
    head = -(chosen * (labels >= 0)).sum() / (labels >= 0).sum()
    return 2 * losses.mean() + head, (flat, stats)

  (loss, (z, stats)), grads = jax.jit(
    jax.value_and_grad(loss_fn, has_aux=True)
  )(variables['params'])
  params = jax.tree.map(lambda p, g: p - RATE * g, variables['params'], grads)
  return loss, z, params, stats


def assert_close(got, want, tolerance):
  """Leaf by leaf, relative to the largest number of each."""
  want = dict(jax.tree_util.tree_leaves_with_path(want))
  got = dict(jax.tree_util.tree_leaves_with_path(got))
  assert got.keys() == want.keys()
  for path, value in want.items():
    scale = max(np.abs(value).max(), 1e-3)
    np.testing.assert_allclose(
      got[path], value, atol=tolerance * scale, rtol=0, err_msg=str(path)
    )


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize(
  ('kind', 'implementation', 'unroll'),
  [
    ('norm', 'plain', True),
    ('norm', 'chunked', False),
    ('folded', 'ring', True),
  ],
)
def test_one_loss_over_separate_forwards(kind, implementation, unroll):
  model = TinyModel(kind)
  loss, z, params, stats = oracle(model, PARTS)
  how = Accumulation(PARTS, unroll=unroll)
  objective = make_objective(implementation=implementation)
  state, output = take_step(model, objective, how)
  np.testing.assert_allclose(output.metrics['total_loss'], loss, rtol=1e-9)
  np.testing.assert_allclose(output.z, z, atol=1e-9)
  # Flax takes the constants of its batch norm as float32.
  assert_close(state.params, params, 1e-8)
  assert_close(state.model_state, stats, 1e-8)
  assert len(jax.tree.leaves(stats)) >= 2
  if implementation != 'plain':
    return
  # Micro-batches normalise otherwise, so this is not the dense step.
  dense, _ = take_step(model, objective, accumulation.ALL_AT_ONCE)
  head = state.params['head']['kernel'] - dense.params['head']['kernel']
  assert np.abs(head).max() > 1e-6


@functools.cache
def dense_step():
  """Without batch norm, all at once, in float64."""
  how = accumulation.ALL_AT_ONCE
  return take_step(TinyModel('no_norm'), make_objective(), how)


def test_without_batch_norm_it_is_the_dense_step():
  model, objective = TinyModel('no_norm'), make_objective()
  want, said = dense_step()
  got, output = take_step(model, objective, Accumulation(4, unroll=True))
  assert_close(got.params, want.params, 1e-13)
  assert_close(output.metrics, said.metrics, 1e-13)
  np.testing.assert_allclose(output.z, said.z, atol=1e-13)


def test_the_same_in_float32():
  model, objective = TinyModel('no_norm', jnp.float32), make_objective()
  with jax.enable_x64(False):
    step = functools.partial(take_step, model, objective, dtype=np.float32)
    want, said = step(accumulation.ALL_AT_ONCE)
    got, output = step(Accumulation(4))
  assert got.params['head']['kernel'].dtype == np.float32
  assert_close(got.params, want.params, 1e-5)
  assert_close(output.metrics, said.metrics, 1e-5)


def test_plain_accumulation_is_another_loss_and_refused():
  model, objective = TinyModel('no_norm'), make_objective()
  want, said = dense_step()
  how = Accumulation(PARTS, exact=False, unroll=True)
  got, output = take_step(model, objective, how)
  difference = got.params['head']['kernel'] - want.params['head']['kernel']
  assert np.abs(difference).max() > 1e-4
  # Half of the negatives are missing: log 2 on the official scale, twice that.
  gap = said.metrics['contrast_loss'] - output.metrics['contrast_loss']
  np.testing.assert_allclose(gap, 2 * np.log(2), rtol=0.1)
  train = config_lib.TrainConfig(accumulation='plain')
  with pytest.raises(ValueError, match="'simclr' depends on the other"):
    run_lib.check_accumulation(train, objective)
  with pytest.raises(ValueError, match="config.train.accumulation = 'plain'"):
    config_lib.replace(
      config_lib.Config(),
      data={'source': 'digits'},
      train={'accumulation': 'plain'},
    )


def make_supervised():
  """An objective whose examples know nothing of each other."""

  def loss_fn(forward, params, extra, batch, key):
    outputs, state = forward(params, simclr.merge_views(batch['views']))
    target = simclr.label_views(batch['label']).astype(outputs.z.dtype)
    loss = jnp.mean((outputs.z.sum(-1) - target) ** 2)
    loss += 0.5 * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
    extra = {'seen': extra['seen'] + batch['label'].shape[0]}
    metrics = {'noise': jax.random.normal(key)}
    return LossResult(loss, state, extra, metrics, outputs.z)

  return Objective(
    name='supervised',
    num_views=2,
    couples_batch=False,
    init_extra=lambda params: {'seen': np.float64(0)},
    loss=loss_fn,
    after_update=lambda extra, params: extra,
  )


def test_plain_accumulation_where_examples_are_independent():
  model, objective = TinyModel('no_norm'), make_supervised()
  run_lib.check_accumulation(
    config_lib.TrainConfig(accumulation='plain'), objective
  )
  extra = objective.init_extra({})
  step = functools.partial(
    take_step, model, objective, extra={'seen': np.float64(0)}
  )
  assert extra == {'seen': 0}
  want, said = step(accumulation.ALL_AT_ONCE)
  for unroll in (True, False):
    got, output = step(Accumulation(4, exact=False, unroll=unroll))
    assert_close(got.params, want.params, 1e-13)
    np.testing.assert_allclose(output.metrics['loss'], said.metrics['loss'])
    np.testing.assert_allclose(output.z, said.z, atol=1e-13)
    # Each part finds the state that the one before left, and its own key.
    assert got.extra['seen'] == want.extra['seen'] == BATCH
    assert output.metrics['noise'] != said.metrics['noise']


def test_an_objective_may_run_the_network_again():
  """With other parameters, and with the gradient of both."""

  def loss_fn(forward, params, extra, batch, key):
    first, state = forward(params, batch['views'][:, 0])
    other = jax.tree.map(lambda p, t: 0.5 * p + t, params, extra['target'])
    second, _ = forward(other, batch['views'][:, 1])
    loss = jnp.sum(first.z * second.z)
    loss += jnp.sum(jnp.mean(first.h, 0) * jnp.mean(second.h, 0))
    return LossResult(loss, state, extra, {}, first.z)

  objective = Objective('twice', 2, True, lambda p: {}, loss_fn, lambda e, p: e)
  model = TinyModel('no_norm')
  extra = {'target': make_variables(model)['params']}
  step = functools.partial(take_step, model, objective, extra=extra)
  want, said = step(accumulation.ALL_AT_ONCE)
  got, output = step(Accumulation(PARTS))
  assert_close(got.params, want.params, 1e-13)
  np.testing.assert_allclose(output.metrics['loss'], said.metrics['loss'])


def test_whoever_makes_the_views():
  """Host, hybrid and device feed one program, which takes them in parts."""
  losses = {}
  step = state = None
  for augment_on in ('host', 'hybrid', 'device'):
    config = config_lib.replace(
      config_lib.Config(),
      data={
        'source': 'digits', 'image_size': 8, 'loader': 'opencv',
        'augment_on': augment_on,
      },
      augment={'blur_prob': 0.0, 'jitter_prob': 0.0, 'gray_prob': 0.0},
      optim={'warmup': '0 steps'},
      train={'batch_size': BATCH, 'duration': '2 steps', 'micro_batches': 2},
    )  # fmt: skip
    with jax.enable_x64(False):
      run = run_lib.make_run(config, mesh=mesh_lib.make_mesh(jax.devices()[:2]))
      model = TinyModel('norm', jnp.float32, num_classes=10)
      run = dataclasses.replace(run, model=model)
      with jax.set_mesh(run.mesh):
        step = step or run.train_step()
        state = state or jax.device_get(run.init_state())
        batch, _ = next(feeding.train_feed(run, start_step=0))
        here = jax.device_put(state, mesh_lib.replicated(run.mesh))
        _, output = step(here, batch)
    losses[augment_on] = float(output.metrics['contrast_loss'])
  assert losses['device'] == pytest.approx(losses['host'], rel=1e-4)
  # Its crops are rounded to uint8.
  assert losses['hybrid'] == pytest.approx(losses['host'], rel=1e-2)
  assert len(set(losses.values())) > 1


def test_rows_come_back_in_their_order():
  mesh = mesh_lib.make_mesh()
  rows = np.arange(64.0).reshape(64, 1)
  with jax.set_mesh(mesh):
    here = mesh_lib.put_batch({'x': rows}, mesh)['x']

    @jax.jit
    def parts(x):
      pieces = micro_batches.split(x, 4, group=2)
      taken = [micro_batches.take(pieces, number) for number in range(4)]
      return taken, micro_batches.join(jnp.stack(taken), group=2)

    taken, joined = parts(here)
    np.testing.assert_array_equal(joined, rows)
    assert joined.sharding.is_equivalent_to(here.sharding, 2)
    for number, part in enumerate(taken):
      want = [2 * i + v for i in range(number, 32, 4) for v in range(2)]
      np.testing.assert_array_equal(part[:, 0], want)
    text = parts.lower(here).compile().as_text()
    assert not re.findall(r'all-|collective-|reduce-scatter', text)
    with pytest.raises(ValueError, match='64 rows on 8 devices do not divide'):
      micro_batches.split(here, 3, group=1)


def test_gradients_are_summed_in_float32():
  """In bfloat16, 1 + 1/512 is 1, however often it is added."""
  images = jnp.full((64, 1), 1 / 512, jnp.float32).at[0].set(1)

  def apply_fn(params, state, images):
    return images * params['w'], state

  forward = accumulation.exact_forward(
    apply_fn,
    {},
    num_images=64,
    how=Accumulation(64),
    gather_fn=lambda params: params,
  )
  params = {'w': jnp.zeros((), jnp.bfloat16)}
  grads = jax.grad(lambda p: forward(p, images)[0].sum())(params)
  assert grads['w'] == jnp.bfloat16(1 + 63 / 512)


def compile_step(how, *, num_devices, batch_size=256, size=24):
  """The step of a network whose activations are larger than all else."""
  mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
  model = TinyModel('norm', jnp.float32)
  optimizer = optax.sgd(RATE)
  step = step_lib.make_train_step(
    model,
    make_objective(implementation='plain'),
    optimizer=optimizer,
    schedule=optax.constant_schedule(RATE),
    seed=0,
    on_non_finite='stop',
    how=how,
  )
  variables = make_variables(model)

  def shapes(tree, sharding):
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )

  state = TrainState(
    step=np.int32(0),
    params=variables['params'],
    model_state=variables['batch_stats'],
    opt_state=optimizer.init(variables['params']),
    extra={},
  )
  batch = {
    'views': np.zeros((batch_size, 2, size, size, 3), np.float32),
    'label': np.zeros(batch_size, np.int32),
  }
  with jax.set_mesh(mesh):
    lowered = step.lower(
      shapes(state, mesh_lib.replicated(mesh)),
      shapes(batch, mesh_lib.batch_sharding(mesh)),
    )
    return lowered.compile()


def test_activations_of_one_part_at_a_time():
  """On CPUs (unrolled) and in the loop that accelerators run."""
  with jax.enable_x64(False):
    dense, unrolled, in_loop = (
      compile_step(how, num_devices=1).memory_analysis().temp_size_in_bytes
      for how in (
        accumulation.ALL_AT_ONCE,
        Accumulation(4, unroll=True),
        Accumulation(4),
      )
    )
  assert unrolled < 0.4 * dense
  assert in_loop < 0.4 * dense


def test_no_image_crosses_devices():
  with jax.enable_x64(False):
    compiled = compile_step(Accumulation(2, unroll=True), num_devices=8)
  collectives = re.findall(
    r'= (\(?[^=]*?\)?) (?:all-gather|all-to-all|collective-permute|all-reduce'
    r'|reduce-scatter)(?:-start)?\(',
    compiled.as_text(),
  )
  largest = max(
    int(np.prod([int(d) for d in dims.split(',') if d]))
    for types in collectives
    for dims in re.findall(r'\w+\[([0-9,]*)\]', types)
  )
  # All embeddings; one view of 24 px has 1728 numbers, a device has 64.
  assert largest == 512 * 5
