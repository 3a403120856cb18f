"""From a config to the parts of a run, before the first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh
import optax

from simclr_jax import config as config_lib
from simclr_jax import data, models, objectives, resolve
from simclr_jax.data import part
from simclr_jax.data.source import Source
from simclr_jax.training import accumulation as accumulation_lib
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import optimizer as optimizer_lib
from simclr_jax.training import schedule as schedule_lib
from simclr_jax.training import state as state_lib
from simclr_jax.training import state_sharding
from simclr_jax.training import step as step_lib

R = TypeVar('R', bound='Run')
_FINETUNED = 'holdout_top1'


@dataclasses.dataclass(frozen=True)
class Run:
  """The parts of one pretraining run.

  Attributes:
    config: As given, checked.
    resolved: What follows from it for this data set and mesh.
    mesh: All devices along 'data'.
    source: Training images.
    model, objective, schedule, optimizer: Built from the config.
    about: What a run is that no config says all of, such as fine-tuning: a
      section of the passport, compared on resuming. Fields called 'path' are
      recorded and not compared.
    loss_rows: (name, text) of the recipe in the place of those of NT-Xent.
    beginning: What the state at step 0 is, in words.
    extend_batch_fn: Adds arrays to a batch on the devices, such as a teacher's
      predictions.
  """

  config: config_lib.Config
  resolved: resolve.Resolved
  mesh: Mesh
  source: Source
  model: Any
  objective: objectives.Objective
  schedule: optax.Schedule
  optimizer: optax.GradientTransformation
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  loss_rows: tuple[tuple[str, str], ...] | None = None
  beginning: str = 'fresh initialisation'
  extend_batch_fn: mesh_lib.FinishFn | None = None

  def abstract_state(self) -> state_lib.TrainState:
    """Shapes, types and shardings of the state."""
    return state_lib.abstract_state(
      self.model,
      self.objective,
      optimizer=self.optimizer,
      image_size=self.config.data.image_size,
      mesh=self.mesh,
      sharding=self.config.train.state_sharding,
    )

  def init_state(self) -> state_lib.TrainState:
    """Fresh state at step 0."""
    return state_lib.init_state(
      self.model,
      self.objective,
      optimizer=self.optimizer,
      image_size=self.config.data.image_size,
      seed=self.config.seed,
      mesh=self.mesh,
      sharding=self.config.train.state_sharding,
    )

  def accumulation(self) -> accumulation_lib.Accumulation:
    """In which parts a batch goes through the network."""
    train = self.config.train
    return accumulation_lib.Accumulation(
      micro_batches=train.micro_batches,
      exact=train.accumulation == 'exact',
      unroll=self.mesh.devices.flat[0].platform == 'cpu',
    )

  def train_step(self) -> step_lib.StepFn:
    """The jit-compiled step."""
    return step_lib.make_train_step(
      self.model,
      self.objective,
      optimizer=self.optimizer,
      schedule=self.schedule,
      seed=self.config.seed,
      on_non_finite=self.config.train.on_non_finite,
      how=self.accumulation(),
      gather_fn=self.gather_fn(),
    )

  def gather_fn(self) -> Callable[[state_lib.PyTree], state_lib.PyTree]:
    """From the parameters of the state to those that the network takes."""
    if self.config.train.state_sharding == 'replicated':
      return lambda params: params
    rounded = models.rounded_types(
      self.model, image_size=self.config.data.image_size
    )
    return functools.partial(state_sharding.gather, rounded=rounded)


def make_run(
  config: config_lib.Config,
  *,
  mesh: Mesh | None = None,
  workdir: str | None = None,
  source: Source | None = None,
) -> Run:
  """Builds every part of a run.

  Args:
    config: Of the run.
    mesh: Default: all devices.
    workdir: Where a folder scan is cached and unreadable files are listed.
    source: Training images; default: those that `config.data` names.

  Raises:
    ValueError: If config, data set and devices do not fit together.
  """
  config_lib.validate(config)
  if (
    config.checkpoint.keep_best and config.checkpoint.best_metric == _FINETUNED
  ):
    raise ValueError(
      f'config.checkpoint.best_metric = {_FINETUNED!r} is measured in '
      "fine-tuning alone; pretraining has 'knn_top1', 'online_top1' and 'loss'"
    )
  mesh = mesh_lib.make_mesh() if mesh is None else mesh
  objective = objectives.make_objective(config)
  check_accumulation(config.train, objective)
  if source is None:
    source = data.make_source(
      config.data, config.data.train_split, workdir=workdir
    )
    data.check_held_out(config.data)
  return assemble(
    Run,
    config,
    mesh=mesh,
    source=source,
    objective=objective,
    num_classes=source.num_classes,
    # Of one class every classifier is right.
    classify=config.monitor.online_head and part.tells_classes(source),
  )


def assemble(
  kind: type[R],
  config: config_lib.Config,
  *,
  mesh: Mesh,
  source: Source,
  objective: objectives.Objective,
  num_classes: int,
  classify: bool = True,
  detach_classifier: bool = True,
  **parts: Any,
) -> R:
  """A run whose network, schedule and optimizer are those of its config.

  Args:
    kind: `Run`, or a class derived from it.
    config: Of the run, checked.
    mesh: All devices along 'data'.
    source: Training images.
    objective: What is trained for.
    num_classes: Of the data set; 0 if it has no labels.
    classify: Whether the network has a classifier, if there are classes.
    detach_classifier: Whether its gradient stops before the encoder.
    **parts: Further fields of `kind`.

  Raises:
    ValueError: If config, data set and devices do not fit together.
  """
  resolved = resolve.resolve(
    config,
    num_examples=source.num_examples,
    num_classes=num_classes,
    num_devices=mesh.size,
    num_hosts=jax.process_count(),
    num_views=objective.num_views,
    embedding_dim=models.embedding_dim(config.model),
  )
  schedule = schedule_lib.make_schedule(config.optim, resolved)
  return kind(
    config=config,
    resolved=resolved,
    mesh=mesh,
    source=source,
    model=models.make_model(
      config.model,
      image_size=config.data.image_size,
      num_classes=num_classes if classify else 0,
      detach_classifier=detach_classifier,
    ),
    objective=objective,
    schedule=schedule,
    optimizer=optimizer_lib.make_optimizer(
      config.optim, schedule, online_lr=_online_lr(config.monitor)
    ),
    **parts,
  )


def _online_lr(monitor: config_lib.MonitorConfig) -> float | None:
  recipe = monitor.online_lr == 'recipe'
  return None if recipe else float(monitor.online_lr)


def check_accumulation(
  train: config_lib.TrainConfig, objective: objectives.Objective
) -> None:
  """Raises a ValueError where accumulation would train on another loss."""
  if train.accumulation == 'plain' and objective.couples_batch:
    raise ValueError(
      "config.train.accumulation = 'plain': the loss of an example under "
      f'{objective.name!r} depends on the other examples of the batch, so the '
      'mean of the losses of micro-batches is another loss; '
      "use 'exact'"
    )


def is_due(step: int, every: int, last: bool) -> bool:
  """Whether a periodic event happens; the last step counts, 0 is never."""
  return every > 0 and (last or step % every == 0)
