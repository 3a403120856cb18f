"""The compiled step: what is donated, what stays float32, who waits."""

from __future__ import annotations

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.data.source import Example, Source
from simclr_jax.training import loop
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import reporter as reporter_lib
from simclr_jax.training import run as run_lib
from tests.tiny_model import with_tiny_model

BATCH, SIZE = 16, 16


def make_run(num_devices: int, **model) -> run_lib.Run:
  config = config_lib.replace(
    config_lib.Config(),
    data={'source': 'digits', 'image_size': SIZE},
    model={
      'depth': 18, 'width': 0.0625, 'head_layers': 2, 'head_dim': 8, **model
    },
    train={'batch_size': BATCH, 'duration': '6 steps'},
    optim={'warmup': '0 steps'},
    loss={'implementation': 'plain'},
  )  # fmt: skip
  source = Source(
    name='none',
    num_examples=64,
    num_classes=5,
    encoded=False,
    read=lambda i: Example(np.zeros((8, 8, 3), np.uint8), i % 5),
    example_id=str,
    fingerprint='none',
  )
  mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
  return run_lib.make_run(config, mesh=mesh, source=source)


def abstract_batch(run):
  sharding = mesh_lib.batch_sharding(run.mesh)
  return {
    'views': jax.ShapeDtypeStruct(
      (BATCH, 2, SIZE, SIZE, 3), jnp.float32, sharding=sharding
    ),
    'label': jax.ShapeDtypeStruct((BATCH,), jnp.int32, sharding=sharding),
  }


def test_every_array_of_the_state_is_donated():
  """Else the peak memory holds two states; read from the compiled program."""
  run = make_run(2)
  state = run.abstract_state()
  with jax.set_mesh(run.mesh):
    compiled = run.train_step().lower(state, abstract_batch(run)).compile()
  (aliases,) = re.findall(
    r'input_output_alias=\{(.*?) \}', compiled.as_text().splitlines()[0]
  )
  aliased = set(re.findall(r'\((\d+), \{\}, may-alias\)', aliases))
  assert len(aliased) == len(jax.tree.leaves(state))
  num_bytes = sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state)
  )
  assert compiled.memory_analysis().alias_size_in_bytes == num_bytes


@pytest.fixture(scope='module')
def equations():
  """All equations of a step with bfloat16 activations."""
  run = make_run(1, compute_dtype='bfloat16', depth=50, stem='imagenet')
  with jax.set_mesh(run.mesh):
    traced = jax.make_jaxpr(run.train_step())(
      run.abstract_state(), abstract_batch(run)
    )
  for leaf in jax.tree.leaves(traced.out_avals):
    assert leaf.dtype != jnp.bfloat16  # State, metrics, z.
  return list(_equations(traced.jaxpr))


def _equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from _equations(inner)


def named(equations, *names):
  return [e for e in equations if e.primitive.name in names]


def test_convolutions_are_bfloat16(equations):
  found = named(equations, 'conv_general_dilated')
  assert len(found) > 100
  for equation in found:
    assert {v.aval.dtype for v in equation.invars} == {np.dtype('bfloat16')}


def test_sums_over_positions_and_examples_are_float32(equations):
  """Statistics, gradients of gamma and beta, loss and norms."""
  found = named(equations, 'reduce_sum')
  assert len(found) > 100
  for equation in found:
    assert equation.invars[0].aval.dtype != jnp.bfloat16, equation
  # Covariances and the weight gradients taken with them: bfloat16 in, float32
  # out; everything else that is a matrix product is the head's or the loss's.
  for equation in named(equations, 'dot_general'):
    assert equation.outvars[0].aval.dtype == jnp.float32
  assert not [
    e
    for e in named(equations, 'exp', 'log', 'rsqrt', 'sqrt')
    if e.invars[0].aval.dtype == jnp.bfloat16
  ]


def test_a_step_is_dispatched_before_the_last_one_is_fetched(
  tmp_path, monkeypatch
):
  """Fetching waits for the devices: it must find the next step under way."""
  config = config_lib.replace(
    config_lib.Config(),
    data={'source': 'digits', 'image_size': 8},
    augment={'blur_prob': 0.0},
    train={'batch_size': 16, 'duration': '6 steps', 'log_every': '1 steps'},
    optim={'warmup': '0 steps'},
  )
  run = with_tiny_model(run_lib.make_run(config))
  events: list[tuple[str, int]] = []
  report, make_step = reporter_lib.Reporter._report, run_lib.Run.train_step

  def recorded_report(self, pending):
    events.append(('fetched', pending.step))
    report(self, pending)

  def recorded_step(self):
    step_fn, count = make_step(self), itertools.count(1)

    def train_step(state, batch):
      events.append(('dispatched', next(count)))
      return step_fn(state, batch)

    return train_step

  monkeypatch.setattr(reporter_lib.Reporter, '_report', recorded_report)
  monkeypatch.setattr(run_lib.Run, 'train_step', recorded_step)
  loop.pretrain(run, str(tmp_path))
  for step in range(1, 6):
    assert events.index(('dispatched', step + 1)) < events.index(
      ('fetched', step)
    )
