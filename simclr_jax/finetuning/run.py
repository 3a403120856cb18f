"""A run that begins with an encoder; the training loop trains it like any."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import durations, models
from simclr_jax.data.source import Source
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.finetuning import derive
from simclr_jax.objectives.objective import Objective
from simclr_jax.training import checkpoint, early_stopping
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import run as run_lib
from simclr_jax.training import state as state_lib

CLASSIFIER = 'online_head'


@dataclasses.dataclass(frozen=True)
class EncoderRun(run_lib.Run):
  """A `Run` of a classifier.

  Attributes:
    begin: Encoder that it starts from; None: from scratch.
    zero_classifier: Whether the classifier starts at zero.
  """

  begin: checkpoint.LoadedEncoder | None = None
  zero_classifier: bool = True

  def init_state(self) -> state_lib.TrainState:
    """Fresh state at step 0, with the encoder in it."""
    state = super().init_state()
    loaded: Mapping[str, Any] = {}
    if self.begin is not None:
      loaded = models.flat_paths(self.begin.variables)

    def placed(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
      name = '/'.join(str(key.key) for key in path)
      array = np.zeros(leaf.shape, leaf.dtype)
      if name.split('/')[1] == CLASSIFIER:
        if not self.zero_classifier:
          return leaf
      elif self.begin is None:
        return leaf
      else:
        array = np.asarray(loaded[name])
      return jax.make_array_from_callback(
        leaf.shape, leaf.sharding, array.__getitem__
      )

    fresh = {'params': state.params, 'batch_stats': state.model_state}
    mine = jax.tree_util.tree_map_with_path(placed, fresh)
    return state._replace(
      params=mine['params'], model_state=mine['batch_stats']
    )


def make_run(
  config: config_lib.Config,
  *,
  source: Source,
  objective: Objective,
  evaluate_every: str,
  num_classes: int,
  begin: checkpoint.LoadedEncoder | None,
  mesh: Mesh,
  **parts: Any,
) -> EncoderRun:
  """Builds every part of a run; see `training.run.make_run`.

  Args:
    config: From `derive`.
    source: Training pictures.
    objective: From `objective`.
    evaluate_every: Duration between judgements on the holdout, if there is one.
    num_classes: Of the classifier.
    begin: Encoder to start from; its variables must be those of the network.
    mesh: All devices along 'data'.
    **parts: Other fields of `EncoderRun`.

  Raises:
    ValueError: If config, data, encoder and devices do not fit together.
  """
  if begin is not None:
    encoder_lib.check_fits(begin, config)
  run = run_lib.assemble(
    EncoderRun,
    config,
    mesh=mesh,
    source=source,
    objective=objective,
    num_classes=num_classes,
    detach_classifier=False,
    begin=begin,
    **parts,
  )
  if not derive.holds_out(config):
    return run
  every = durations.period_in_steps(
    evaluate_every,
    num_examples=source.num_examples,
    batch_size=config.train.batch_size,
  )
  # What the loop calls so is the period of any evaluation.
  resolved = dataclasses.replace(run.resolved, knn_every_steps=every)
  return dataclasses.replace(run, resolved=resolved)


def make_stopping(
  config: config_lib.Config, patience: int
) -> early_stopping.EarlyStopping:
  """Of a derived config."""
  if not derive.holds_out(config):
    return early_stopping.NEVER
  return early_stopping.EarlyStopping(derive.HOLDOUT_METRIC, patience)


def default_mesh(mesh: Mesh | None) -> Mesh:
  """All devices, unless others are given."""
  return mesh_lib.make_mesh() if mesh is None else mesh
