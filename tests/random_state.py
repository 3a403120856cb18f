"""Checkpoints of random bits in every array, of the types that occur."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from simclr_jax.config import CheckpointConfig
from simclr_jax.training import checkpoint

SYNC = CheckpointConfig(asynchronous=False)


class State(NamedTuple):
  step: Any
  params: Any
  model_state: Any
  opt_state: Any
  extra: Any


def make_mesh(num_devices: int) -> jax.sharding.Mesh:
  return jax.make_mesh(
    (num_devices,),
    ('data',),
    axis_types=(AxisType.Explicit,),
    devices=jax.devices()[:num_devices],
  )


def make_state(step: int, *, seed: int = 0, num_devices: int = 8) -> State:
  """Random bits in every array, of the containers and types that occur."""
  rng = np.random.default_rng((seed, step))
  params = {
    'backbone': {
      'conv': {'kernel': rng.standard_normal((3, 3, 8, 16)).astype('f')},
      'bn': {'scale': rng.standard_normal(16).astype('f')},
    },
    'head': {'kernel': rng.standard_normal((64, 64)).astype('f')},
  }
  mask = {'backbone': True, 'head': False}
  optimizer = optax.chain(
    optax.add_decayed_weights(1e-4, mask=mask),  # EmptyState
    optax.masked(optax.scale_by_trust_ratio(), mask),  # MaskedState
    optax.masked(optax.trace(0.9), mask),  # MaskedNode in place of leaves
    optax.scale_by_adam(),  # integer count
  )
  opt_state = jax.tree.map(
    lambda x: (
      rng.standard_normal(x.shape).astype(x.dtype)
      if x.dtype == jnp.float32
      else np.asarray(step, x.dtype)
    ),
    optimizer.init(params),
  )
  state = State(
    step=np.int32(step),
    params=params,
    model_state={
      'bn': {'mean': np.float32([np.nan, np.inf, -0.0, 1e-45])},
      'words': rng.integers(0, 2**32, 16384, dtype=np.uint32),
      'half': jnp.asarray(rng.standard_normal(7), jnp.bfloat16),
      'flags': np.array([True, False]),
    },
    opt_state=opt_state,
    extra={},
  )
  return jax.device_put(state, NamedSharding(make_mesh(num_devices), P()))


def abstract(state: State, num_devices: int = 8) -> State:
  sharding = NamedSharding(make_mesh(num_devices), P())
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
  )


def save(
  checkpointer: checkpoint.Checkpointer,
  step: int,
  *,
  state: State | None = None,
  **metrics: float,
) -> State:
  state = make_state(step) if state is None else state
  checkpointer.save(
    step,
    state,
    encoder={'params': state.params, 'batch_stats': state.model_state},
    passport={'step': step, 'metrics': metrics},
    metrics=metrics,
  )
  return state


def assert_same_bits(got: Any, want: Any) -> None:
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()
