"""One training step: sharded, jit-compiled, donated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec as P
import optax

from simclr_jax import losses
from simclr_jax.objectives.objective import LossResult, Objective
from simclr_jax.training import non_finite
from simclr_jax.training.state import PyTree, TrainState, stream_key


class StepOutput(NamedTuple):
  """What a step reports.

  Attributes:
    metrics: Name -> scalar, of the batch before the update; 'state_norm' alone
      is that of the parameters and batch statistics after it.
    z: Normalised embeddings [N, d], sharded on N.
  """

  metrics: dict[str, jax.Array]
  z: jax.Array


StepFn = Callable[
  [TrainState, Mapping[str, jax.Array]], tuple[TrainState, StepOutput]
]


def make_train_step(
  model: Any,
  objective: Objective,
  *,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  seed: int,
  on_non_finite: str,
) -> StepFn:
  """The step as a function of (state, batch); the caller's state is donated.

  Loss, gradients and batch statistics are those of the global batch, whatever
  the mesh: the batch is sharded over 'data', the parameters are replicated.
  With `on_non_finite` 'skip', a step that is not finite is undone, see
  `non_finite.undo`.
  """

  def train_step(
    state: TrainState, batch: Mapping[str, jax.Array]
  ) -> tuple[TrainState, StepOutput]:
    key = stream_key(seed, 'objective', state.step)

    def forward(params: PyTree, images: jax.Array) -> tuple[Any, PyTree]:
      variables = {'params': params, 'batch_stats': state.model_state}
      outputs, updated = model.apply(
        variables, images, train=True, mutable=['batch_stats']
      )
      return outputs, updated['batch_stats']

    def loss_fn(params: PyTree) -> tuple[jax.Array, LossResult]:
      result = objective.loss(forward, params, state.extra, batch, key)
      return result.loss, result

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, result), grads = grad_fn(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
      'loss': loss,
      **result.metrics,
      'learning_rate': schedule(state.step),
      'grad_norm': optax.tree.norm(grads),
      'param_norm': optax.tree.norm(state.params),
      # Of what this step leaves: not finite means that nobody may save it.
      'state_norm': optax.tree.norm((params, result.model_state)),
    }
    new_state = TrainState(
      step=state.step + 1,
      params=params,
      model_state=result.model_state,
      opt_state=opt_state,
      extra=objective.after_update(result.extra, params),
    )
    if on_non_finite == 'skip':
      new_state, metrics = non_finite.undo(state, new_state, metrics)
    return new_state, StepOutput(metrics, result.z)

  return jax.jit(train_step, donate_argnums=0)


def make_diagnose(
  temperature: float,
) -> Callable[[jax.Array], dict[str, jax.Array]]:
  """Costlier metrics of the embeddings z [N, d] that a step returned.

  A program of its own, so that steps without it pay nothing.
  """

  @jax.jit
  def diagnose(z: jax.Array) -> dict[str, jax.Array]:
    return losses.diagnose(z, jax.reshard(z, P()), temperature=temperature)

  return diagnose
