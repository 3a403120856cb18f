"""What `plan` is asked for and cannot be planned."""

from __future__ import annotations

import pathlib

from tests.bad_inputs.row import BuildFn, Row

_FOR = ('--config=configs/smoke.py', '--quick', '--nomeasure_input')
_DATA = '--num_examples=1440'


def _plan(*arguments: str, topology: str = 'h200:4') -> BuildFn:
  return lambda folder: [*_FOR, _DATA, f'--topology={topology}', *arguments]


def _out_is_folder(folder: pathlib.Path) -> list[str]:
  (folder / 'plan.json').mkdir()
  return _plan(f'--out={folder / "plan.json"}')(folder)


def _out_below_file(folder: pathlib.Path) -> list[str]:
  (folder / 'file').write_text('')
  return _plan(f'--out={folder / "file" / "plan.json"}')(folder)


ROWS = [
  Row('plan for v5', 'plan', _plan(topology='v5:4x4'), "mean 'v5p'"),
  Row('plan for nothing', 'plan', _plan(topology=''), 'is neither'),
  Row('plan without chips', 'plan', _plan(topology='h200'), 'is neither'),
  Row('plan for 0 chips', 'plan', _plan(topology='v5e:0x4'), 'has no chips'),
  Row('plan for a grid of GPUs', 'plan', _plan(topology='h200:2x2'), 'no grid'),
  Row(
    'plan for 10^20 chips',
    'plan',
    _plan(topology=f'v5e:{10**10}x{10**10}'),
    'train.batch_size',
  ),
  Row(
    'plan for 7 chips',
    'plan',
    _plan('--config.train.batch_size=64', topology='h200:7'),
    'batch_size',
  ),
  Row(
    'plan with an unknown field',
    'plan',
    _plan('--config.optim.base_lrr=1'),
    "did you mean 'base_lr'",
  ),
  Row(
    'plan of data that nobody knows',
    'plan',
    lambda folder: [
      *_FOR,
      '--config.data.source=tfds',
      '--config.data.name=nonsense',
      '--topology=h200:4',
    ],
    'give --num_examples',
  ),
  Row('plan of -5 images', 'plan', _plan('--num_examples=-5'), 'num_examples'),
  Row(
    'plan measured for nan seconds',
    'plan',
    _plan('--measure_input', '--input_seconds=nan'),
    '--input_seconds=nan',
  ),
  Row(
    'plan compiled in -1 seconds',
    'plan',
    _plan('--compile_timeout=-1'),
    '--compile_timeout=-1',
  ),
  Row('plan into a folder', 'plan', _out_is_folder, 'is a folder'),
  Row('plan into a bucket', 'plan', _plan('--out=gs://b/p.json'), 'a local'),
  Row('plan below a file', 'plan', _out_below_file, 'not a folder|Not a dir'),
  Row(
    'plan where nobody can write',
    'plan',
    _plan('--out=/proc/nowhere/plan.json'),
    '/proc/nowhere',
    code=1,
  ),
  Row('plan of two words', 'plan', _plan('v5e:4x4'), 'unknown arguments v5e'),
]
