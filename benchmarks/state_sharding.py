"""What of a training state each device holds, replicated and in pieces.

  python -m benchmarks.state_sharding --out=docs/results/state_sharding.json
  python -m benchmarks.state_sharding --option=config.model.width=2

Exact, from shapes and the rule of `training/state_sharding.py` alone: nothing
is compiled, and the devices need not be there. A row for each number of devices
and each `train.state_sharding`; default: ResNet-152, 3 times as wide, with
selective kernels (SimCLR v2's largest). Beside parameters, optimizer state and
batch statistics: what a step gathers on every device before its forward pass
(bfloat16 where the network rounds kernels first), which is held until the
backward pass has read it.

What the whole step needs, activations included, is a matter of compiling:
`python -m benchmarks.tpu --option='... config.train.state_sharding=fsdp'`, or
`python -m simclr_jax.plan`.
"""

from __future__ import annotations

import os
from typing import Any

# Before anything imports JAX: this program must take no accelerator.
os.environ['JAX_PLATFORMS'] = 'cpu'

from absl import app, flags
from ml_collections import config_flags

from benchmarks import result_file, tpu_variants
from simclr_jax import config as config_lib

LARGEST = (
  'config.model.depth=152 config.model.width=3 config.model.sk_ratio=0.0625 '
  'config.model.compute_dtype=bfloat16'
)
_CONFIG = config_flags.DEFINE_config_file(
  'config', 'configs/imagenet.py', 'Config file[:preset].'
)
_OPTION = flags.DEFINE_string('option', LARGEST, 'Settings on top, as in tpu.')
_DEVICES = flags.DEFINE_list('devices', ['8', '32', '128'], 'How many.')
_NUM_CLASSES = flags.DEFINE_integer('num_classes', 1000, 'Of the online head.')
_OUT = flags.DEFINE_string('out', '', 'JSON file to write.')

PARTS = ('params', 'opt_state', 'model_state')


def measure(
  config: config_lib.Config, num_devices: int, *, num_classes: int
) -> dict[str, Any]:
  """Bytes on one device, by part of the state."""
  import jax
  from jax.sharding import AbstractMesh, AxisType

  from simclr_jax import models, objectives
  from simclr_jax.training import optimizer as optimizer_lib
  from simclr_jax.training import state as state_lib
  from simclr_jax.training import state_sharding

  mesh: Any = AbstractMesh(
    (num_devices,), ('data',), axis_types=(AxisType.Explicit,)
  )
  model = models.make_model(
    config.model, image_size=config.data.image_size, num_classes=num_classes
  )
  state = state_lib.abstract_state(
    model,
    objectives.make_objective(config),
    optimizer=optimizer_lib.make_optimizer(config.optim, lambda step: 0.1),
    image_size=config.data.image_size,
    mesh=mesh,
    sharding=config.train.state_sharding,
  )
  row: dict[str, Any] = {
    'devices': num_devices,
    'state_sharding': config.train.state_sharding,
    'parameters': models.count_parameters(state.params),
    **{
      f'{part}_bytes': state_sharding.bytes_per_device(getattr(state, part))
      for part in PARTS
    },
    'gathered_bytes': 0,
  }
  if config.train.state_sharding == 'fsdp':
    rounded = models.rounded_types(model, image_size=config.data.image_size)
    sizes = jax.tree.map(
      lambda x, dtype: (
        0
        if x.sharding.is_fully_replicated
        else x.size * (x.dtype if dtype is None else dtype).itemsize
      ),
      state.params,
      rounded,
    )
    row['gathered_bytes'] = sum(jax.tree.leaves(sizes))
  return row


def format_table(rows: list[dict[str, Any]]) -> str:
  """For a terminal and for Markdown, in GB (1e9)."""
  names = [*(f'{part}_bytes' for part in PARTS), 'gathered_bytes']
  titles = ['parameters', 'optimizer state', 'batch statistics', 'gathered']
  lines = [
    '| devices | state_sharding | ' + ' | '.join(titles) + ' |',
    '|---' * (2 + len(titles)) + '|',
  ]
  lines += [
    f'| {row["devices"]} | {row["state_sharding"]} | '
    + ' | '.join(f'{row[name] / 1e9:.3f}' for name in names)
    + ' |'
    for row in rows
  ]
  return '\n'.join(lines)


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  del argv
  config = tpu_variants.apply_option(_CONFIG.value, _OPTION.value)
  rows = [
    measure(
      config_lib.replace(config, train={'state_sharding': kind}),
      int(devices),
      num_classes=_NUM_CLASSES.value,
    )
    for devices in _DEVICES.value
    for kind in ('replicated', 'fsdp')
  ]
  print(format_table(rows))
  result_file.report('state_sharding', rows, out=_OUT.value)
  return 0


if __name__ == '__main__':
  app.run(main)
