"""Checkpoints of google-research/simclr/tf2, also as SavedModel."""

from __future__ import annotations

import pathlib

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.importers import official_keys, tf_files
from simclr_jax.importers.format import (
  Arrays,
  Contents,
  Format,
  Plan,
  same_layout,
)

_CLASSIFIER = 'supervised_head/linear_layer/dense/kernel'
_STEP = f'global_step{official_keys.VALUE}'


def read(source: pathlib.Path, prefix: str) -> Contents:
  """Variables below the object `prefix` (default 'model'), by path."""
  reader = tf_files.open_checkpoint(source, for_what='--format=official_tf2')
  if not tf_files.has_object_graph(reader):
    raise ValueError(
      f'--source={source} holds named variables and no object graph: it is a '
      'TF1 checkpoint; import it with --format=official_tf1'
    )
  root = prefix.rstrip('/') or official_keys.ROOT
  keys = tf_files.object_keys(reader, root)
  others = [n for n in tf_files.names_of(reader) if n not in set(keys.values())]
  slots = tuple(n for n in others if '/.OPTIMIZER_SLOT/' in n)
  rest = tuple(n for n in others if n not in slots)
  arrays: Arrays = {
    official_keys.ROOT + path.removeprefix(root): tf_files.read_tensor(
      reader, key
    )
    for path, key in keys.items()
  }
  return Contents(
    arrays=arrays,
    step=int(tf_files.read_tensor(reader, _STEP)) if _STEP in rest else 0,
    left_out={'optimizer': slots, f'outside {root!r}': rest},
  )


def plan(arrays: Arrays, config: config_lib.Config) -> Plan:
  """By the constructors of the official model."""
  num_classes = classes_of(arrays, f'{official_keys.ROOT}/{_CLASSIFIER}')
  names = official_keys.official_keys(
    config.model, image_size=config.data.image_size, num_classes=num_classes
  )
  return Plan(config, num_classes, names)


def classes_of(arrays: Arrays, name: str) -> int:
  """Outputs of a classifier [in, out]; 0 where there is none."""
  kernel = arrays.get(name, np.zeros(()))
  return kernel.shape[1] if kernel.ndim == 2 else 0


FORMAT = Format(
  read=read, plan=plan, to_ours=same_layout, takes_unit_range=True
)
