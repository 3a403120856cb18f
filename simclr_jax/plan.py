"""What a run needs, and how long it takes, before it is paid for.

  python -m simclr_jax.plan --config=configs/imagenet.py --topology=v5e:8x16
  python -m simclr_jax.plan --config=... --topology=h200:8 --out=plan.json
  python -m simclr_jax.plan --config=... --topology=local

Needs no accelerator and no data set. TPU slices are compiled for by libtpu
(`pip install '.[tpu-compile]'` in the clone), minutes for a ResNet-50, which is
kept; `--quick` traces instead. Exit codes: 0 it fits (or nobody knows), 1
failed, 2 the command or the config is wrong, 3 it does not fit.
"""

from __future__ import annotations

from importlib import metadata
import json
import math
import pathlib
import shlex
import sys
from typing import Any

import jax

from simclr_jax import command_flags, console, flag_errors, writes
from simclr_jax import config as config_lib
from simclr_jax.planning import planner, table
from simclr_jax.planning import split as split_lib
from simclr_jax.planning.plan import Plan

_CONFIG = command_flags.DEFINE_config_file(
  'config', help_string='Config file, e.g. configs/imagenet.py[:preset].'
)
_TOPOLOGY = command_flags.DEFINE_string(
  'topology',
  'local',
  "TPU slice ('v5e:8x16', 'v5p:4x4x4'), GPUs ('h200:8') or 'local'.",
)
_OUT = command_flags.DEFINE_path('out', None, 'JSON file to write.')
_QUICK = command_flags.DEFINE_bool(
  'quick', False, 'Trace the step, compile nothing.'
)
_COMPILE_TIMEOUT = command_flags.DEFINE_float(
  'compile_timeout', 1800.0, 'Seconds for compiling a step.'
)
_MEASURE_INPUT = command_flags.DEFINE_bool(
  'measure_input', True, 'Run the input pipeline for some seconds.'
)
_INPUT_SECONDS = command_flags.DEFINE_float(
  'input_seconds', 3.0, 'How long, after a warm-up of the same length.'
)
_NUM_EXAMPLES = command_flags.DEFINE_integer(
  'num_examples', 0, 'Of the training split; 0 finds out.'
)
_NUM_CLASSES = command_flags.DEFINE_integer(
  'num_classes', -1, 'Of its labels; -1 finds out, 0 is none.'
)


def check_flags() -> None:
  """Raises before minutes of work that nobody could use.

  Raises:
    ValueError: If a number makes no sense, or --out cannot be a file.
  """
  if _NUM_EXAMPLES.value < 0:
    raise ValueError(
      f'--num_examples={_NUM_EXAMPLES.value}: how many there are, or 0 to find '
      'out'
    )
  for flag in (_COMPILE_TIMEOUT, _INPUT_SECONDS):
    if not 0 < flag.value < math.inf:  # Not a number is neither.
      raise ValueError(f'--{flag.name}={flag.value}: seconds, more than 0')
  if _OUT.value is None:
    return
  out = pathlib.Path(_OUT.value)
  if out.is_dir():
    raise ValueError(f'--out={out} is a folder; name a file')
  there = next(p for p in (out, *out.parents) if p.exists())
  if there != out and not there.is_dir():
    raise ValueError(f'--out={out}: {there} is a file, not a folder')


def run(config: config_lib.Config, topology: str) -> Plan:
  """Makes the plan that the flags ask for.

  Raises:
    ValueError: If topology, config and data do not fit together.
    TimeoutError: If compiling took too long.
    RuntimeError: If a compiler broke down.
  """
  split = split_lib.find(
    config, num_examples=_NUM_EXAMPLES.value, num_classes=_NUM_CLASSES.value
  )
  return planner.make_plan(
    config,
    topology,
    split=split,
    effort=planner.Effort(
      quick=_QUICK.value,
      compile_timeout=_COMPILE_TIMEOUT.value,
      input_seconds=_INPUT_SECONDS.value if _MEASURE_INPUT.value else 0.0,
    ),
  )


def write(plan: Plan, path: str) -> None:
  """The plan as JSON, with what made it."""
  result: dict[str, Any] = {
    'command': shlex.join(['python', '-m', 'simclr_jax.plan', *sys.argv[1:]]),
    'software': {
      name: metadata.version(name)
      for name in ('jax', 'flax', 'optax', 'libtpu')
      if _is_installed(name)
    },
    **plan.to_json(),
  }
  writes.whole(path, json.dumps(result, indent=2) + '\n')


def _is_installed(package: str) -> bool:
  try:
    metadata.version(package)
  except metadata.PackageNotFoundError:
    return False
  return True


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  try:
    console.start(devices=False)
    if len(argv) > 1:
      raise ValueError(f'unknown arguments {" ".join(argv[1:])}')
    check_flags()
    config = config_lib.from_config_dict(_CONFIG.value)
    # This process only counts; what compiles is another.
    jax.config.update('jax_platforms', 'cpu')
    plan = run(config, _TOPOLOGY.value)
    print(table.format_plan(plan), flush=True)
    if _OUT.value:
      write(plan, _OUT.value)
  except ValueError as error:
    return console.fail(error, code=console.EXIT_WRONG_INPUT)
  except (OSError, RuntimeError) as error:
    return console.fail(error, code=console.EXIT_FAILED)
  return console.EXIT_DOES_NOT_FIT if plan.memory.fits is False else 0


if __name__ == '__main__':
  flag_errors.run(main, required=['config'])
