"""What a training step would cost on a TPU slice, from compiling it for one.

  pip install '.[tpu-compile]'     # libtpu; no TPU is needed
  python -m benchmarks.tpu --out=docs/results/tpu/NAME.json
  python -m benchmarks.tpu --topologies=v5e:8x16 \
    --option=config.model.remat=blocks --option=config.model.width=2
  python -m benchmarks.tpu --page           # docs/results/tpu/README.md

Compiles the real step (`training.step.make_train_step` with model, objective
and optimizer of the config) ahead of time from shapes alone: no data set, no
TPU, minutes for each row. Rows, for each topology: the network with a plain
Flax batch norm after every convolution and nothing recomputed ('plain'), the
config as it is, and the config with each `--option` (several settings in one:
separate them by spaces). All rows of a topology have the same global batch,
`--images_per_chip` times its chips: 32 make the paper's 4096 on v5e:8x16.
bfloat16 unless an option says otherwise.

Columns: memory of one chip while the step runs; XLA's count of arithmetic;
what goes through the chip's memory (HBM), and beside it XLA's 'bytes accessed',
which also counts on-chip copies and is therefore no measure of time;
collectives; the least time by published peaks. No time here is measured.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import sys
from typing import Any

# Before anything imports JAX: this program must take no accelerator, and libtpu
# must not look for a pod's other machines.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')

from absl import app, flags
from ml_collections import config_flags

from benchmarks import result_file, tpu_page, tpu_variants
from simclr_jax import config as config_lib

_CONFIG = config_flags.DEFINE_config_file(
  'config', 'configs/imagenet.py', 'Config file[:preset].'
)
_TOPOLOGIES = flags.DEFINE_list(
  'topologies', ['v5e:4x8', 'v5e:8x16', 'v6e:8x16'], 'As libtpu names them.'
)
_OPTION = flags.DEFINE_multi_string(
  'option', [], "Another row: 'config.model.remat=blocks [config....=...]'."
)
_PLAIN = flags.DEFINE_bool('plain', True, 'A row of the plain network, too.')
_AS_IS = flags.DEFINE_bool('as_is', True, 'A row of the config as it is, too.')
_IMAGES_PER_CHIP = flags.DEFINE_integer(
  'images_per_chip', 32, "0: the config's own batch on every topology."
)
_NUM_EXAMPLES = flags.DEFINE_integer('num_examples', 1_281_167, 'Of the split.')
_NUM_CLASSES = flags.DEFINE_integer('num_classes', 1000, 'Of its labels.')
_OUT = flags.DEFINE_string('out', '', 'JSON file to write.')
_PAGE = flags.DEFINE_bool('page', False, 'Only write the page of all results.')

_NO_LIBTPU = (
  'libtpu is not installed: it holds the TPU compiler (and needs no TPU). '
  "pip install '.[tpu-compile]' in the clone, or pip install libtpu"
)


def compile_all() -> list[dict[str, Any]]:
  """One row for each topology and variant; prints them as they come."""
  from simclr_jax.planning import program
  from simclr_jax.planning import topology as topology_lib

  configs = tpu_variants.variants(
    _CONFIG.value, _OPTION.value, plain=_PLAIN.value, as_is=_AS_IS.value
  )
  rows = []
  for topology in _TOPOLOGIES.value:
    devices = program.devices_of(topology)
    slice_ = topology_lib.parse(topology)
    for name, config in configs.items():
      batch = _IMAGES_PER_CHIP.value * len(devices) or config.train.batch_size
      config = config_lib.replace(config, train={'batch_size': batch})
      cost = program.compile_step(
        config,
        devices,
        num_examples=_NUM_EXAMPLES.value,
        num_classes=_NUM_CLASSES.value,
      )
      rows.append({'variant': name, **make_row(cost, config, slice_)})
      print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
  return rows


def make_row(
  cost: Any, config: config_lib.Config, slice_: Any
) -> dict[str, Any]:
  """A compiled step in the words of the result files.

  A chip is a JAX device here, as it is in a published topology of v5e, v5p and
  v6e; of v3, half a chip.
  """
  from simclr_jax.planning import estimate

  def seconds(num_bytes: float) -> estimate.Roofline:
    roofline = estimate.roofline(
      slice_,
      compute_dtype=config.model.compute_dtype,
      flops=cost.flops,
      hbm_bytes=num_bytes,
      collectives=None,
    )
    assert roofline is not None  # Topologies are of chips in the table.
    return roofline

  least = seconds(cost.hbm_bytes)
  return {
    'topology': slice_.text,
    'device_kind': cost.device_kind,
    'num_chips': cost.num_devices,
    'images_per_chip': config.train.batch_size // cost.num_devices,
    'argument_bytes': cost.argument_bytes,
    'output_bytes': cost.output_bytes,
    'temporary_bytes': cost.temporary_bytes,
    'aliased_bytes': cost.aliased_bytes,
    'flops': cost.flops,
    'bytes_accessed': cost.bytes_accessed,
    'hbm_bytes': cost.hbm_bytes,
    'collectives': cost.collectives,
    'image_bytes': cost.image_bytes,
    'arithmetic_ms': 1e3 * least.arithmetic,
    'memory_ms': 1e3 * least.memory,
    'accessed_ms': 1e3 * seconds(cost.bytes_accessed).memory,
    'bound': least.bound,
    'moves_images': cost.moves_images,
  }


def software() -> dict[str, str]:
  """Versions that decide what is compiled."""
  from importlib import metadata

  return {n: metadata.version(n) for n in ('jax', 'libtpu', 'flax', 'optax')}


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  del argv
  if _PAGE.value:
    page = tpu_page.make_page(tpu_page.HISTORY)
    (tpu_page.HISTORY / 'README.md').write_text(page)
    return 0
  if importlib.util.find_spec('libtpu') is None:
    print(f'error: {_NO_LIBTPU}', file=sys.stderr)
    return 2
  try:
    values = _CONFIG.value
    values.model.compute_dtype = 'bfloat16'
    rows = compile_all()
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(tpu_page.format_table(rows))
  result = {
    'benchmark': 'tpu',
    'command': result_file.command(),
    'hardware': f'none: compiled on {result_file.hardware()}',
    'software': software(),
    'rows': rows,
  }
  if _OUT.value:
    path = pathlib.Path(_OUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + '\n')
  print(json.dumps(result))
  return 0


if __name__ == '__main__':
  app.run(main)
