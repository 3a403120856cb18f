"""Two processes that are not of one mind: both end, with the same words."""

from __future__ import annotations

import json

import pytest

from simclr_jax import console
from tests.multi_process import TINY, Processes

# Both processes meet once and go through all cases; process 1 is the odd one.
_CASES = """
import importlib.metadata, json, os, sys
import jax
from simclr_jax import config as config_lib
from simclr_jax import main, multi_process, processes
from simclr_jax import augmentation
from simclr_jax.data.source import Example, Source
from simclr_jax.training import continuation
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import run as run_lib
import numpy as np

folder, (coordinator, count, index) = sys.argv[1], (
  flag.partition('=')[2] for flag in sys.argv[2:])
count, index = int(count), int(index)
processes.join(
  processes.find_launch({}, coordinator=coordinator, num_processes=count,
                        process_id=index),
  end_fn=lambda why, code: os._exit(99), peer_timeout=60)
odd = index == 1
base = config_lib.replace(
  config_lib.Config(),
  data={'source': 'procedural', 'train_split': 'train[:32]', 'image_size': 8},
  model={'depth': 18, 'width': 0.03, 'head_layers': 1, 'head_dim': 4},
  train={'batch_size': 16, 'duration': '3 steps'},
  optim={'warmup': '0 steps'})

def versions():
  real = importlib.metadata.version
  if odd:
    importlib.metadata.version = lambda n: '9.9' if n == 'flax' else real(n)
  try:
    multi_process._check_versions()
  finally:
    importlib.metadata.version = real

def both_fail():
  with processes.together():
    raise ValueError('nothing works')

def bug():
  with processes.together():
    if odd:
      {}['key']

def train(workdir='run', **changes):
  config = config_lib.replace(base, **changes) if odd else base
  main.run(config, f'{folder}/{workdir}')

def foreign_disk():
  from simclr_jax.training import workdir_lock
  workdir_lock._VISIBLE_SECONDS = 0.1
  train(f'disk-{index}')

def pixels():
  def read(index):
    if odd and index == 13:
      raise ValueError('13.jpg cannot be read: the disk is on fire')
    return Example(np.zeros((8, 8, 3), np.uint8), 0)

  source = Source(
    name='pixels', num_examples=16, num_classes=1, encoded=False, read=read,
    example_id=str, fingerprint='')
  data = config_lib.DataConfig(
    source='procedural', augment_on='device', device_cache='sharded')
  augmentation.build_cache(source, data=data, mesh=mesh_lib.make_mesh())

def continue_from():
  # Only looked at: the processes see that they differ before they read.
  os.makedirs(f'{folder}/old-0/checkpoints/5', exist_ok=True)
  continuation.continue_from(None, f'{folder}/old-{index}')

cases = {
  'versions': versions,
  'pixels': pixels,
  'continue_from': continue_from,
  'both_fail': both_fail,
  'bug': bug,
  'config': lambda: train(loss={'temperature': 0.3}),
  'source': lambda: train(
    data={'source': 'arrays', 'path': f'{folder}/missing.npz'}),
  'data': lambda: train(data={'train_split': 'train[32:64]'}),
  # /proc can be written by nobody, not even by root.
  'workdir': lambda: train('run' if not odd else '../../../../../proc/run'),
  'foreign_disk': foreign_disk,
}
found = {}
for name, case in cases.items():
  try:
    case()
  except processes.AgreedFailure as error:
    found[name] = [error.where, str(error), error.is_mistake,
                   error.error is not None]
assert processes.gather(index) == [0, 1]
assert processes.from_first(f'from {index}') == 'from 0'
long = 'x' * (5000 * (1 + index))
assert processes.gather(long) == ['x' * 5000, 'x' * 10000]
with open(f'{folder}/found-{index}.json', 'w') as file:
  json.dump(found, file)
"""


@pytest.fixture(scope='module')
def found(tmp_path_factory):
  folder = tmp_path_factory.mktemp('cases')
  script = folder / 'cases_of_two.py'
  script.write_text(_CASES)
  add = f'sys.path.insert(0, {str(folder)!r})'
  with Processes(
    [str(folder)],
    count=2,
    devices=1,
    module='cases_of_two',
    logs=folder / 'logs',
    before={0: add, 1: add},
  ) as both:
    both.finish()
  return [
    json.loads((folder / f'found-{k}.json').read_text()) for k in range(2)
  ]


@pytest.mark.parametrize(
  ('case', 'parts'),
  [
    ('versions', ('flax', '"9.9"', 'install the same packages')),
    ('config', ('config.loss.temperature', 'process 1 of 2', ': 0.3')),
    ('source', ('missing.npz',)),
    ('pixels', ('pixels', '13.jpg cannot be read: the disk is on fire')),
    (
      'continue_from',
      ('--continue_from: process 0 of 2', '[5]', 'that all of'),
    ),
    ('data', ('training data', 'train[32:64]', 'fingerprint')),
    ('workdir', ('the workdir cannot be written',)),
    ('foreign_disk', ('is not that of process 0', 'shared folder')),
  ],
)
def test_the_odd_one_is_named_everywhere(found, case, parts):
  first, second = (each[case] for each in found)
  assert first[:3] == second[:3]
  where, text, is_mistake, _ = first
  assert where.startswith('process 1 of 2 on ')
  assert is_mistake
  for part in parts:
    assert part in text


def test_failures_of_all(found):
  assert found[0]['both_fail'] == ['all 2 processes', 'nothing works', True, 1]


def test_a_bug_is_no_mistake_of_the_user(found):
  where, text, is_mistake, has_error = found[0]['bug']
  assert where.startswith('process 1 of 2') and text == "KeyError: 'key'"
  assert not is_mistake and not has_error
  # The traceback is in the process where it happened.
  assert found[1]['bug'][3]


# The first reading fails, in process 1 alone.
_BROKEN_READ = """
from simclr_jax.data import pipeline
def train_batches(*args, **kwargs):
  raise ValueError('pictures/7.jpg cannot be read: the disk is on fire')
  yield
pipeline.train_batches = train_batches
"""


@pytest.fixture(scope='module')
def commands(tmp_path_factory):
  """(processes of) commands that end early, started at once."""
  folder = tmp_path_factory.mktemp('commands')
  common = (*TINY, '--config.train.duration=3 steps')

  def start(name, **options):
    return Processes(
      (*common, f'--workdir={folder / name}'),
      logs=folder / 'logs' / name,
      devices=1,
      **options,
    )

  with (
    start(
      'no_data',
      count=2,
      extra={1: ('--config.data.source=arrays', '--config.data.path=/no.npz')},
    ) as no_data,
    start(
      'alone',
      count=1,
      extra={
        0: (
          '--coordinator=127.0.0.1:1',
          '--num_processes=2',
          '--process_id=1',
          '--init_timeout=2',
        )
      },
    ) as alone,
  ):
    no_data.codes()
    alone.codes()
    with start('read', count=2, before={1: _BROKEN_READ}) as read:
      read.codes()
      yield {'no_data': no_data, 'alone': alone, 'read': read}


def test_a_missing_data_set_ends_all_with_the_same_line(commands):
  run = commands['no_data']
  assert run.codes() == [console.EXIT_WRONG_INPUT] * 2, run.log(0)[-3000:]
  (line,), (other,) = run.errors(0), run.errors(1)
  assert line == other
  assert line.startswith('error (process 1 of 2 on ') and '/no.npz' in line
  assert 'Traceback' not in run.log(0) + run.log(1)


def test_what_fails_later_is_told_to_the_others(commands):
  run = commands['read']
  # 1, not 2: what is raised outside of the package is no mistake of the user.
  # In both, because a launcher that sees 69 in one of them (srun gives the
  # largest code) would start this again and again.
  assert run.codes() == [console.EXIT_FAILED] * 2, (
    run.log(0)[-3000:] + run.log(1)[-3000:]
  )
  (line,), (other,) = run.errors(0), run.errors(1)
  assert 'process 1 of 2 on ' in line and 'failed: pictures/7.jpg' in line
  assert other.startswith('error (process 1 of 2 on ')
  assert other.endswith('the disk is on fire')


def test_nobody_comes(commands):
  run = commands['alone']
  assert run.codes() == [console.EXIT_PEER_LOST]
  (line,) = run.errors(0)
  assert 'waited 2 s (--init_timeout) for process 0 at 127.0.0.1:1' in line
  assert 'Check failure' not in run.log(0)
