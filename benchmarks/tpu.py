"""What a training step would cost on a TPU slice, from compiling it for one.

  pip install 'simclr_jax[tpu-compile]'     # libtpu; no TPU is needed
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

import dataclasses
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
import ml_collections
from ml_collections import config_flags

from benchmarks import result_file
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

HISTORY = pathlib.Path('docs/results/tpu')
PLAIN = 'config.model.batch_norm=plain config.model.remat=none'
_NO_LIBTPU = (
  'libtpu is not installed: it holds the TPU compiler (and needs no TPU). '
  "pip install 'simclr_jax[tpu-compile]', or pip install libtpu"
)


def apply_option(
  values: ml_collections.ConfigDict, option: str
) -> config_lib.Config:
  """The config with 'config.a.b=value [config.c=value]' on top.

  Raises:
    ValueError: If a setting is malformed, or the config refuses it.
  """
  changed = values.to_dict()
  for setting in option.split():
    path, equals, text = setting.partition('=')
    if not equals or not path.startswith('config.'):
      raise ValueError(
        f"--option: {setting!r} is not of the form 'config.section.field=value'"
      )
    *sections, field = path.removeprefix('config.').split('.')
    section: Any = changed
    for name in sections:
      section = section.get(name)
      if not isinstance(section, dict):
        raise ValueError(f'--option: {path}: there is no section {name!r}')
    section[field] = _parse(text)
  return config_lib.from_config_dict(changed)


def _parse(text: str) -> Any:
  """A number, bool or list as in JSON, else the text itself."""
  try:
    return json.loads(text.lower() if text in ('True', 'False') else text)
  except json.JSONDecodeError:
    return text


def variants(
  values: ml_collections.ConfigDict,
  options: list[str],
  *,
  plain: bool,
  as_is: bool = True,
) -> dict[str, config_lib.Config]:
  """{name of the row: config}, all of them checked before any compiles."""
  rows = {'plain': apply_option(values, PLAIN)} if plain else {}
  if as_is:
    rows['config'] = apply_option(values, '')
  rows |= {option: apply_option(values, option) for option in options}
  return rows


def format_table(rows: list[dict[str, Any]]) -> str:
  """Markdown; the last column compares with the first row of a topology."""
  columns = (
    'topology',
    'network',
    'images per chip',
    'memory, GB',
    'TFLOP',
    'HBM, GB',
    "XLA's bytes accessed, GB",
    'all-reduces',
    'all collectives, MB',
    'arithmetic, ms',
    'HBM, ms',
    'bound',
    'HBM against first',
  )
  lines = [f'| {" | ".join(columns)} |', '|' + '---|' * len(columns)]
  first: dict[str, dict[str, Any]] = {}
  for row in rows:
    reference = first.setdefault(row['topology'], row)
    kinds = row['collectives']
    reduces = kinds.get('all-reduce', {}).get('count', 0)
    memory = (
      row['argument_bytes']
      + row['temporary_bytes']
      + row['output_bytes']
      - row['aliased_bytes']
    )
    cells = (
      row['topology'],
      f'`{row["variant"]}`',
      str(row['images_per_chip']),
      f'{memory / 1e9:.2f}',
      f'{row["flops"] / 1e12:.2f}',
      f'{row["hbm_bytes"] / 1e9:.1f}',
      f'{row["bytes_accessed"] / 1e9:.1f}',
      str(reduces),
      f'{sum(k["num_bytes"] for k in kinds.values()) / 1e6:.0f}',
      f'{row["arithmetic_ms"]:.1f}',
      f'{row["memory_ms"]:.1f}',
      row['bound'],
      '-'
      if row is reference
      else f'{100 * (row["hbm_bytes"] / reference["hbm_bytes"] - 1):+.0f} %',
    )
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def make_page(folder: pathlib.Path) -> str:
  """Markdown of all results in a folder: one table, and what made its rows."""
  lines = [
    '# Training step compiled for TPU slices',
    '',
    'Generated by `python -m benchmarks.tpu --page` from the files here. '
    'Compiled ahead of time; no TPU was at hand, so no time was measured: the '
    'ms are the least that published peaks allow. `plain` is a Flax ResNet '
    'with a batch norm layer behind every convolution, `config` is the config '
    'as it stands. HBM is what goes through the memory of a chip; the "bytes '
    'accessed" of XLA also count copies within the chip, several times over.',
    '',
  ]
  rows, sources = [], []
  for path in sorted(folder.glob('*.json')):
    result = json.loads(path.read_text())
    rows += result['rows']
    versions = ', '.join(f'{k} {v}' for k, v in result['software'].items())
    sources.append(f'- `{path.name}`: `{result["command"]}` ({versions})')
  # The plain network first: the others are compared with it.
  rows.sort(key=lambda row: (row['topology'], row['variant'] != 'plain'))
  moved = [r['variant'] for r in rows if r['moves_images']]
  lines += [format_table(rows), '']
  lines += [
    "Rows with a collective as large as a chip's images: "
    + (', '.join(moved) or 'none')
    + '.',
    '',
    *sources,
  ]
  return '\n'.join([*lines, ''])


def compile_all() -> list[dict[str, Any]]:
  """One row for each topology and variant; prints them as they come."""
  from benchmarks import tpu_program

  configs = variants(
    _CONFIG.value, _OPTION.value, plain=_PLAIN.value, as_is=_AS_IS.value
  )
  rows = []
  for topology in _TOPOLOGIES.value:
    num_chips = len(tpu_program.devices_of(topology))
    for name, config in configs.items():
      batch = _IMAGES_PER_CHIP.value * num_chips or config.train.batch_size
      config = config_lib.replace(config, train={'batch_size': batch})
      cost = tpu_program.measure(
        config,
        topology,
        num_examples=_NUM_EXAMPLES.value,
        num_classes=_NUM_CLASSES.value,
      )
      rows.append(
        {
          'variant': name,
          **dataclasses.asdict(cost),
          'moves_images': cost.moves_images,
        }
      )
      print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
  return rows


def software() -> dict[str, str]:
  """Versions that decide what is compiled."""
  from importlib import metadata

  return {n: metadata.version(n) for n in ('jax', 'libtpu', 'flax', 'optax')}


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  del argv
  if _PAGE.value:
    (HISTORY / 'README.md').write_text(make_page(HISTORY))
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
  print(format_table(rows))
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
