"""What every self-supervised method must state; the step knows nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax

PyTree = Any
# (params, images [N, H, W, C]) -> (model Outputs, new model_state); always in
# training mode, from the model_state at the start of the step. Differentiable
# in params alone; the new model_state is a constant. With train.micro_batches,
# N is a multiple of the images of the batch, each image's rows together.
ForwardFn = Callable[[PyTree, jax.Array], tuple[Any, PyTree]]


class LossResult(NamedTuple):
  """What one evaluation of an objective gives.

  Attributes:
    loss: Scalar that is differentiated, the online head's loss included.
    model_state: New batch statistics.
    extra: The objective's own new state; `{}` where it has none.
    metrics: Name -> scalar; 'loss' is the objective's alone, by default `loss`.
    z: Normalised embeddings [N, d], for the costlier diagnostics.
  """

  loss: jax.Array
  model_state: PyTree
  extra: PyTree
  metrics: Mapping[str, jax.Array]
  z: jax.Array


@dataclasses.dataclass(frozen=True)
class Objective:
  """A method as a record of functions.

  Attributes:
    name: Its key in `OBJECTIVES`.
    num_views: Views of each image in a batch.
    couples_batch: Whether an example's loss depends on the others in the batch
      (so that plain gradient accumulation would change it).
    init_extra: params -> the objective's own state (arrays only).
    loss: (forward, params, extra, batch, key) -> LossResult. `batch` holds
      'views' f32 [B, V, H, W, C] and 'label' i32 [B] (-1: none). With
      train.state_sharding='fsdp', params (and trees like them in extra) lie in
      pieces: `forward` gathers them, sums and elementwise operations work.
    after_update: (extra, params) -> extra, after the optimizer's update
      (an EMA target, for instance).
  """

  name: str
  num_views: int
  couples_batch: bool
  init_extra: Callable[[PyTree], PyTree]
  loss: Callable[
    [ForwardFn, PyTree, PyTree, Mapping[str, jax.Array], jax.Array], LossResult
  ]
  after_update: Callable[[PyTree, PyTree], PyTree]
