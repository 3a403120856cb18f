"""Projection heads that are a torch.nn.Sequential: linear layers and ReLUs."""

from __future__ import annotations

import re
from typing import NamedTuple

from simclr_jax import config as config_lib
from simclr_jax.importers.format import Arrays


class MlpHead(NamedTuple):
  """A head, read off its arrays.

  Attributes:
    fields: Of the model section.
    names: {our path: name in the file}.
  """

  fields: dict[str, object]
  names: dict[str, str]


def find(
  arrays: Arrays, scope: str, *, config: config_lib.ModelConfig
) -> MlpHead:
  """The head below `scope`, where layer i is named '<scope>.<i>.weight'.

  Without one in the file: that of the config, by names that no file has, so
  that it is missing.

  Raises:
    ValueError: If the head is one that this project's network cannot express.
  """
  pattern = re.compile(rf'{re.escape(scope)}\.(\d+)\.(\w+)')
  found = {n: m for n in arrays if (m := pattern.fullmatch(n))}
  if not found:
    return MlpHead({'head': config.head}, _missing(config, scope))
  norms = [n for n, m in found.items() if m[2] == 'running_mean']
  layers = sorted({int(m[1]) for m in found.values()})
  linear = [
    i
    for i in layers
    if f'{scope}.{i}.bias' in arrays
    and arrays.get(f'{scope}.{i}.weight') is not None
    and arrays[f'{scope}.{i}.weight'].ndim == 2
  ]
  widths = [arrays[f'{scope}.{i}.weight'].shape[0] for i in linear]
  if norms or linear != layers or len(set(widths[:-1])) > 1 or len(linear) > 4:
    raise ValueError(
      f'the projection head {scope} ({", ".join(sorted(found))}) is none that '
      'this network can express exactly: at most 4 linear layers with bias, '
      'hidden ones of one width, ReLU between them (batch norms of lightly '
      'have a bias behind the last layer). Import the backbone alone: '
      f'--leave_out={scope} --allow_missing=head'
    )
  fields: dict[str, object] = {
    'head': 'nonlinear',
    'head_norm': 'none',
    'head_layers': len(linear),
    'head_hidden': widths[0] if len(linear) > 1 else 0,
    'head_dim': widths[-1],
  }
  names = {
    f'params/head/dense{j}/{ours}': f'{scope}.{i}.{theirs}'
    for j, i in enumerate(linear, start=1)
    for ours, theirs in (('kernel', 'weight'), ('bias', 'bias'))
  }
  return MlpHead(fields, names)


def _missing(config: config_lib.ModelConfig, scope: str) -> dict[str, str]:
  if config.head == 'none' or config.head_layers == 0:
    return {}
  layers = config.head_layers if config.head == 'nonlinear' else 1
  return {
    f'params/head/dense{j}/kernel': f'{scope} (layer {j})'
    for j in range(1, layers + 1)
  }
