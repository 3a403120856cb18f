"""Everything that a training run is, as arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from simclr_jax import models
from simclr_jax.objectives.objective import Objective
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import state_sharding

PyTree = Any


class TrainState(NamedTuple):
  """State between two steps; always checkpointed whole.

  Attributes:
    step: Number of finished steps, i32 scalar.
    params: Trainable parameters.
    model_state: Batch statistics.
    opt_state: Of the optax transformation.
    extra: The objective's own; `{}` for SimCLR.
  """

  step: jax.Array
  params: PyTree
  model_state: PyTree
  opt_state: PyTree
  extra: PyTree


def _init_fn(
  model: Any,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  image_size: int,
) -> Any:
  def init(key: jax.Array) -> TrainState:
    variables = models.init_variables(model, key, image_size=image_size)
    params = variables['params']
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      model_state=variables['batch_stats'],
      opt_state=optimizer.init(params),
      extra=objective.init_extra(params),
    )

  return init


def init_state(
  model: Any,
  objective: Objective,
  *,
  optimizer: optax.GradientTransformation,
  image_size: int,
  seed: int,
  mesh: Mesh,
  sharding: str = 'replicated',
) -> TrainState:
  """Fresh state, born where it stays (see `abstract_state`)."""
  init = _init_fn(model, objective, optimizer, image_size)
  shapes = jax.eval_shape(init, jax.random.key(0))
  born = jax.jit(init, out_shardings=_shardings(shapes, sharding, mesh))
  return born(stream_key(seed, 'init', 0))


def abstract_state(
  model: Any,
  objective: Objective,
  *,
  optimizer: optax.GradientTransformation,
  image_size: int,
  mesh: Mesh,
  sharding: str = 'replicated',
) -> TrainState:
  """Shapes, types and shardings of the state, for a strict restore.

  Args:
    model: As in `init_state`.
    objective: As in `init_state`.
    optimizer: As in `init_state`.
    image_size: Side of the views.
    mesh: Devices of the run.
    sharding: config.train.state_sharding: whether parameters and optimizer
      state lie whole on every device or in pieces. Everything else is whole.
  """
  init = _init_fn(model, objective, optimizer, image_size)
  shapes = jax.eval_shape(init, jax.random.key(0))
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    _shardings(shapes, sharding, mesh),
  )


def _shardings(shapes: TrainState, kind: str, mesh: Mesh) -> TrainState:
  whole = mesh_lib.replicated(mesh)
  return jax.tree.map(lambda _: whole, shapes)._replace(
    params=state_sharding.shardings(shapes.params, kind=kind, mesh=mesh),
    opt_state=state_sharding.shardings(shapes.opt_state, kind=kind, mesh=mesh),
    extra=state_sharding.extra_shardings(
      shapes.extra, shapes.params, kind=kind, mesh=mesh
    ),
  )


# Every use of randomness has a number of its own; never renumber: a resumed run
# would draw other values.
_STREAMS = {'init': 0, 'objective': 1}


def stream_key(seed: int, stream: str, step: int | jax.Array) -> jax.Array:
  """Random key of a named stream at a step; derived, so never checkpointed."""
  key = jax.random.fold_in(jax.random.key(seed), _STREAMS[stream])
  return jax.random.fold_in(key, step)
