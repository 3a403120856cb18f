"""Memory of a step by the number of its micro-batches.

  python -m benchmarks.accumulation --out=docs/results/accumulation_cpu.json

Compiles the step of a config for one CPU device, with the loop over
micro-batches that accelerators run (a CPU would run copies, see
`training/accumulation.py`), and reads from the compiler what it would hold.
Nothing is run: the figures are exact for this compiler, and say how
memory falls, not what another compiler's would be
(`python -m benchmarks.tpu --option=config.train.micro_batches=16`).
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

# Before anything imports JAX: this program must take no accelerator.
os.environ['JAX_PLATFORMS'] = 'cpu'

from absl import app, flags
from ml_collections import config_flags

from benchmarks import result_file
from simclr_jax import config as config_lib

_CONFIG = config_flags.DEFINE_config_file(
  'config', 'configs/cifar10.py', 'Config file[:preset].'
)
_MICRO_BATCHES = flags.DEFINE_list('micro_batches', ['1', '4', '16'], 'Rows.')
_NUM_EXAMPLES = flags.DEFINE_integer('num_examples', 50_000, 'Of the split.')
_NUM_CLASSES = flags.DEFINE_integer('num_classes', 10, 'Of its labels.')
_OUT = flags.DEFINE_string('out', '', 'JSON file to write.')


def measure(config: config_lib.Config) -> dict[str, Any]:
  """One row: the compiler's figures for the step of a config."""
  import jax

  from simclr_jax.planning import program
  from simclr_jax.training import mesh as mesh_lib
  from simclr_jax.training import run as run_lib
  from simclr_jax.training import step as step_lib

  run = run_lib.make_run(
    config,
    mesh=mesh_lib.make_mesh(jax.devices()[:1]),
    source=program.absent_source(
      num_examples=_NUM_EXAMPLES.value, num_classes=_NUM_CLASSES.value
    ),
  )
  step: Any = step_lib.make_train_step(
    run.model,
    run.objective,
    optimizer=run.optimizer,
    schedule=run.schedule,
    seed=config.seed,
    on_non_finite=config.train.on_non_finite,
    how=run.accumulation()._replace(unroll=False),
  )
  size, batch = config.data.image_size, config.train.batch_size
  sharding = mesh_lib.batch_sharding(run.mesh)
  shapes = {
    'views': jax.ShapeDtypeStruct(
      (batch, run.objective.num_views, size, size, 3),
      'float32',
      sharding=sharding,
    ),
    'label': jax.ShapeDtypeStruct((batch,), 'int32', sharding=sharding),
  }
  with jax.set_mesh(run.mesh):
    compiled = step.lower(run.abstract_state(), shapes).compile()
  memory = compiled.memory_analysis()
  return {
    'batch': batch,
    'micro_batches': config.train.micro_batches,
    'images_at_once': run.resolved.micro_batch,
    'negatives_per_anchor': run.resolved.negatives_per_anchor,
    'argument_bytes': memory.argument_size_in_bytes,
    'temporary_bytes': memory.temp_size_in_bytes,
  }


def format_table(rows: list[dict[str, Any]]) -> str:
  """For a terminal and for Markdown."""
  lines = [
    '| micro-batches | images at once | negatives | temporaries, GB |',
    '|---|---|---|---|',
  ]
  lines += [
    f'| {row["micro_batches"]} | {row["images_at_once"]} | '
    f'{row["negatives_per_anchor"]:,} | {row["temporary_bytes"] / 1e9:.2f} |'
    for row in rows
  ]
  return '\n'.join(lines)


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  del argv
  config = config_lib.from_config_dict(_CONFIG.value)
  rows = []
  for number in map(int, _MICRO_BATCHES.value):
    train = dataclasses.replace(config.train, micro_batches=number)
    rows.append(measure(dataclasses.replace(config, train=train)))
    print(rows[-1], flush=True)
  print(format_table(rows))
  result_file.report('accumulation', rows, out=_OUT.value)
  return 0


if __name__ == '__main__':
  app.run(main)
