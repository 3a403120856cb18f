"""One training step: sharded, jit-compiled, donated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec as P
import optax

from simclr_jax import losses
from simclr_jax.objectives.objective import ForwardFn, Objective
from simclr_jax.training import accumulation, non_finite
from simclr_jax.training.accumulation import Accumulation
from simclr_jax.training.state import PyTree, TrainState, stream_key


class StepOutput(NamedTuple):
  """What a step reports.

  Attributes:
    metrics: Name -> scalar, of the batch before the update; 'state_norm' alone
      is that of the parameters and batch statistics after it. 'loss' is the
      objective's, 'total_loss' what was differentiated: with the online head's.
    z: Normalised embeddings [N, d], sharded on N.
  """

  metrics: dict[str, jax.Array]
  z: jax.Array


Batch = Mapping[str, jax.Array]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, StepOutput]]


def make_train_step(
  model: Any,
  objective: Objective,
  *,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  seed: int,
  on_non_finite: str,
  how: Accumulation = accumulation.ALL_AT_ONCE,
  gather_fn: Callable[[PyTree], PyTree] = lambda params: params,
) -> StepFn:
  """The step as a function of (state, batch); the caller's state is donated.

  Loss, gradients and batch statistics are those of the global batch, whatever
  the mesh: the batch is sharded over 'data'.

  Args:
    model: As `models.make_model` gives it.
    objective: Which forwards, which loss.
    optimizer: Of the parameters.
    schedule: For the metrics; the optimizer has its own.
    seed: Of the objective's random keys.
    on_non_finite: With 'skip', a step that is not finite is undone, see
      `non_finite.undo`.
    how: In which parts a batch goes through the network.
    gather_fn: params -> whole params on every device, where the state holds
      pieces (training/state_sharding.py); gradients go back the same way.
  """

  def apply(
    params: PyTree, model_state: PyTree, images: jax.Array
  ) -> tuple[Any, PyTree]:
    outputs, updated = model.apply(
      {'params': params, 'batch_stats': model_state},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    return outputs, updated['batch_stats']

  def make_forward(model_state: PyTree, num_images: int) -> ForwardFn:
    if how.exact and how.micro_batches > 1:
      return accumulation.exact_forward(
        apply,
        model_state,
        num_images=num_images,
        how=how,
        gather_fn=gather_fn,
      )

    def forward(params: PyTree, images: jax.Array) -> tuple[Any, PyTree]:
      outputs, updated = apply(gather_fn(params), model_state, images)
      # As in accumulation, statistics carry no gradient.
      return outputs, jax.lax.stop_gradient(updated)

    return forward

  def train_step(
    state: TrainState, batch: Mapping[str, jax.Array]
  ) -> tuple[TrainState, StepOutput]:
    key = stream_key(seed, 'objective', state.step)

    loss_fn = functools.partial(
      objective.loss, make_forward(state.model_state, batch['label'].shape[0])
    )
    result, grads = accumulation.loss_and_grad(
      loss_fn,
      state.params,
      extra=state.extra,
      batch=batch,
      key=key,
      how=how,
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
      'loss': result.loss,
      **result.metrics,
      'total_loss': result.loss,
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
