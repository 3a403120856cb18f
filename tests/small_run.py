"""A finished pretraining run in miniature, for tests of what reads it."""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
import time
import types
from typing import Any

import jax
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import data, models, resolve
from simclr_jax.training import checkpoint
from simclr_jax.training import passport as passport_lib

CONFIG = config_lib.replace(
  config_lib.Config(),
  data={
    'source': 'procedural',
    'train_split': 'train[:96]',
    'test_split': 'test[:40]',
    'image_size': 8,
  },
  model={'depth': 18, 'width': 0.0625, 'head_layers': 1, 'head_dim': 4},
  train={'batch_size': 32, 'duration': '3 steps'},
  optim={'warmup': '0 steps'},
  eval={'batch_size': 48},
  probe={
    'epochs': 20,
    'batch_size': 32,
    'base_lrs': (0.1, 1.0),
    'weight_decays': (0.0,),
    'standardize': True,
    'num_bootstrap': 200,
  },
  knn={'ks': (5, 1), 'temperatures': (0.1,), 'num_bootstrap': 200},
)


def save_small_run(
  workdir: pathlib.Path,
  *,
  steps: tuple[int, ...] = (3,),
  config: config_lib.Config = CONFIG,
  pause: float = 0.0,
  source: data.Source | None = None,
  objective: str = 'simclr',
  about: Mapping[str, Any] | None = None,
  scores: Mapping[int, Mapping[str, float]] = types.MappingProxyType({}),
) -> None:
  """Writes checkpoints of a network with random weights, `pause` s apart.

  Args:
    workdir: Of the run.
    steps: Of the checkpoints.
    config: Of the run.
    pause: Seconds before each.
    source: Training pictures; default: those of the config.
    objective: Of the passports.
    about: Section of that name in the passports.
    scores: Step -> metrics of its checkpoint.
  """
  if source is None:
    source = data.make_source(config.data, config.data.train_split)
  resolved = resolve.resolve(
    config,
    num_examples=source.num_examples,
    num_classes=source.num_classes,
    num_devices=8,
  )
  checkpointer = checkpoint.Checkpointer(
    workdir / checkpoint.FOLDER, config.checkpoint
  )
  for step in steps:
    time.sleep(pause)
    encoder = make_variables(config, num_classes=source.num_classes, seed=step)
    checkpointer.save(
      step,
      {'step': np.array(step)},
      encoder=encoder,
      passport=passport_lib.make_passport(
        config,
        resolved,
        source=source,
        step=step,
        metrics={'loss': 1.0, **scores.get(step, {})},
        objective=objective,
        about=about,
      ),
      metrics={'loss': 1.0, **scores.get(step, {})},
    )
  checkpointer.wait()
  checkpointer.close()


def make_variables(config: config_lib.Config, *, num_classes: int, seed: int):
  """Activations keep their size; nothing is compiled to make them."""
  size = config.data.image_size
  model = models.make_model(
    config.model, image_size=size, num_classes=num_classes
  )
  rng = np.random.default_rng(seed)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: (
      rng.uniform(0.5, 1.5, x.shape)
      if path[-1].key in ('scale', 'var')
      else rng.normal(0, 1.2 / np.sqrt(np.prod(x.shape[:-1])), x.shape)
    ).astype(np.float32),
    models.abstract_variables(model, image_size=size),
  )
