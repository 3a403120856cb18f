"""Files of `simclr_jax.export` in our own names: .npz and .safetensors."""

from __future__ import annotations

import os
import pathlib

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.data.sources import arrays_layout
from simclr_jax.importers import state_dict
from simclr_jax.importers.format import (
  Arrays,
  Contents,
  Format,
  Plan,
  decide,
  same_layout,
)

DESCRIPTION = 'export.json'
_ONLINE = 'params/online_head/kernel'


def read_npz(source: pathlib.Path, prefix: str) -> Contents:
  """The arrays of `source` (or of the model.npz in it)."""
  path = source / 'model.npz' if source.is_dir() else source
  _no_prefix(prefix)
  return Contents(arrays=arrays_layout.load_npz(os.fspath(path)))


def read_safetensors(source: pathlib.Path, prefix: str) -> Contents:
  """The arrays of `source` (or of the model.safetensors in it)."""
  path = source / 'model.safetensors' if source.is_dir() else source
  _no_prefix(prefix)
  if not path.is_file():
    raise ValueError(f'--source={source}: there is no file {path}')
  return Contents(arrays=state_dict.read_safetensors(path))


def _no_prefix(prefix: str) -> None:
  if prefix:
    raise ValueError(
      f'--prefix={prefix}: names of files of simclr_jax.export have none'
    )


def plan(arrays: Arrays, config: config_lib.Config) -> Plan:
  """Our names; a head that was not exported was not asked for."""
  if not any(name.startswith('params/head/') for name in arrays):
    config = decide(config, head='none')
  online = arrays.get(_ONLINE)
  num_classes = online.shape[1] if online is not None else 0
  size = config.data.image_size
  model = models.make_model(
    config.model, image_size=size, num_classes=num_classes
  )
  shapes = models.abstract_variables(model, image_size=size)
  names = {path: path for path in models.flat_paths(shapes)}
  return Plan(config, num_classes, names)


NPZ = Format(
  read=read_npz, plan=plan, to_ours=same_layout, takes_unit_range=True
)
SAFETENSORS = Format(
  read=read_safetensors, plan=plan, to_ours=same_layout, takes_unit_range=True
)
