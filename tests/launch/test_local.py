"""Processes on one machine: what is started, signals, output, the end."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from launch import group, local
from tests.launch import stand_ins
from tests.launch.tiny_config import write_tiny_config

CPU = ['--num_processes=2', '--cpu_devices=1']

# A run in miniature. Process 1 does what its mode says.
_RUN = """
import os, signal, sys, time
(index,) = [int(a[13:]) for a in sys.argv if a.startswith('--process_id=')]
mode = sys.argv[-1]
signals = []
signal.signal(signal.SIGTERM, lambda n, _: signals.append(n))
signal.signal(signal.SIGINT, lambda n, _: signals.append(n))
print('half', end='', flush=True)
time.sleep(0.05)
print(' a line', flush=True)
print('error of', index, file=sys.stderr, flush=True)
if mode == 'talk':
  for n in range(20000):
    print(f'line {n} of {index}', file=sys.stderr if n % 2 else sys.stdout)
  sys.exit(2)
if index == 1 and mode.startswith('exit'):
  sys.exit(int(mode[4:]))
if index == 1 and mode == 'killed':
  os.kill(os.getpid(), signal.SIGKILL)
if mode == 'finish':
  sys.exit(0)
while not signals:
  time.sleep(0.01)
time.sleep(0.3)
print('signals', len(signals), flush=True)
sys.exit(75)
"""


@pytest.fixture
def launcher(tmp_path):
  """Starts the launcher on such runs; none is left behind."""
  (tmp_path / 'mini_run.py').write_text(_RUN)
  started = []

  def start(mode: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
      [
        *(sys.executable, '-m', 'launch.local', *CPU, '--module=mini_run'),
        *(*arguments, '--', mode),
      ],
      cwd=stand_ins.ROOT,
      env={**os.environ, 'PYTHONPATH': str(tmp_path)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      process_group=0,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()


def commands(*arguments):
  return local.make_commands(
    local._parse([*arguments, '--', '--config=a b']), port=7
  )


def test_each_process_gets_its_number_and_its_gpus():
  first, second = commands('--num_processes=2', '--gpus=0,2,5,7')
  assert first.environment == {'CUDA_VISIBLE_DEVICES': '0,2'}
  assert second.environment == {'CUDA_VISIBLE_DEVICES': '5,7'}
  assert second.argv == (
    sys.executable,
    '-m',
    'simclr_jax.main',
    '--coordinator=127.0.0.1:7',
    '--num_processes=2',
    '--process_id=1',
    '--config=a b',
  )


def test_simulated_devices_replace_those_of_the_environment(monkeypatch):
  monkeypatch.setenv(
    'XLA_FLAGS', '--a=b --xla_force_host_platform_device_count=8'
  )
  (only,) = commands('--num_processes=1', '--cpu_devices=3')
  assert only.environment == {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--a=b --xla_force_host_platform_device_count=3',
  }


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--num_processes=3', '--gpus=0,1'], 'cannot be shared evenly'),
    (['--num_processes=2', '--gpus=0,0'], 'different numbers'),
    (['--num_processes=0', '--gpus=0'], 'at least 1'),
    (['--num_processes=1', '--cpu_devices=-1'], 'at least 1'),
    (['--num_processes=2'], 'every process would take every device'),
    (['--num_processes=2', '--gpus=0,1', '--cpu_devices=1'], 'or --cpu'),
  ],
)
def test_mistakes(arguments, message):
  with pytest.raises(ValueError, match=message):
    commands(*arguments)


def test_without_flags_of_a_run(capsys):
  assert local.main(CPU) == 2
  assert 'flags of the run are missing' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('codes', 'verdict'),
  [
    ([0, 0], 0),
    ([0, 75], 75),
    ([75, 69], 69),
    ([69, -9, 69], 137),
    ([-9, 1], 1),
    ([1, 2, 0], 2),
    ([143, 69], 143),
  ],
)
def test_the_worst_end_is_the_exit_code(codes, verdict):
  assert group.worst(codes) == verdict


def test_dry_run_is_read_back_by_a_shell(tmp_path):
  flags = ['--config=a \'b" $HOME', '--workdir=x;y']
  result = subprocess.run(
    [
      *(sys.executable, '-m', 'launch.local', *CPU, '--dry_run', '--port=7'),
      *('--python=env', '--', *flags),
    ],
    cwd=stand_ins.ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  lines = result.stdout.splitlines()
  assert [shlex.split(line)[-2:] for line in lines] == [flags, flags]
  expected = local.make_commands(
    local._parse([*CPU, '--python=env', '--', *flags]), port=7
  )
  for line, command in zip(lines, expected, strict=True):
    words = shlex.split(line)
    added = [f'{k}={v}' for k, v in command.environment.items()]
    assert words == ['env', *added, *command.argv]


def test_lines_carry_the_number_of_their_process(launcher):
  process = launcher('finish')
  out, err = process.communicate(timeout=30)
  assert process.returncode == 0
  assert sorted(out.splitlines()) == ['[0] half a line', '[1] half a line']
  assert sorted(err.splitlines()) == ['[0] error of 0', '[1] error of 1']


def test_nothing_is_lost_of_what_was_written_last(launcher):
  """Both end at once, with more to be read than a pipe holds."""
  process = launcher('talk')
  out, err = process.communicate(timeout=60)
  assert process.returncode == 2
  for index in range(2):
    lines = [
      x for x in (out + err).splitlines() if x.startswith(f'[{index}] l')
    ]
    assert sorted(lines) == sorted(
      f'[{index}] line {n} of {index}' for n in range(20000)
    )


def test_a_python_that_is_not_there(launcher):
  process = launcher('x', '--python=/no/python')
  _, err = process.communicate(timeout=30)
  assert process.returncode == 2
  assert err == 'error: /no/python: No such file or directory\n'


@pytest.mark.parametrize(
  ('mode', 'code'), [('exit2', 2), ('exit1', 1), ('killed', 137)]
)
def test_one_bad_end_ends_all(launcher, mode, code):
  process = launcher(mode, '--grace=0.2')
  _, err = process.communicate(timeout=30)
  assert process.returncode == code
  assert 'process 1 ended with' in err
  assert 'process 0 is ended' in err


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_process_once(launcher, number):
  process = launcher('wait')
  while 'a line' not in process.stdout.readline():
    pass
  time.sleep(0.3)
  os.killpg(process.pid, number)  # As a terminal does.
  time.sleep(0.05)
  process.send_signal(number)  # And `timeout`, besides.
  out, _ = process.communicate(timeout=30)
  assert process.returncode == 75
  assert sorted(x for x in out.splitlines() if 'signals' in x) == [
    '[0] signals 1',
    '[1] signals 1',
  ]


@pytest.mark.skipif(sys.platform != 'linux', reason='prctl is of Linux')
def test_a_killed_launcher_takes_its_processes_with_it(launcher):
  process = launcher('wait')
  while 'a line' not in process.stdout.readline():
    pass
  children = pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children')
  pids = children.read_text().split()
  assert len(pids) == 2
  time.sleep(0.3)
  process.kill()
  process.wait()
  deadline = time.monotonic() + 20
  while any(pathlib.Path(f'/proc/{pid}').exists() for pid in pids):
    assert time.monotonic() < deadline
    time.sleep(0.05)


def main_of_two(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'launch.local', *CPU, '--', *arguments],
    cwd=stand_ins.ROOT,
    env={**os.environ, 'JAX_ENABLE_COMPILATION_CACHE': 'false'},
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_the_command_itself_knows_these_flags(tmp_path):
  """Both processes meet, and agree that their config is wrong."""
  config = write_tiny_config(tmp_path)
  result = main_of_two(
    *(f'--config={config}', f'--workdir={tmp_path}/run'),
    '--config.train.batch_size=3',
  )
  assert result.returncode == 2, result.stderr[-3000:]
  assert '2 processes, found by flags' in result.stderr
  for index in range(2):
    (line,) = [
      x for x in result.stderr.splitlines() if x.startswith(f'[{index}] error')
    ]
    assert line.startswith(f'[{index}] error (all 2 processes): ')
    assert 'train.batch_size = 3' in line


@pytest.mark.skipif(
  'SIMCLR_JAX_LAUNCH_TESTS' not in os.environ,
  reason='a minute or two: SIMCLR_JAX_LAUNCH_TESTS=1 runs it',
)
def test_two_processes_pretrain(tmp_path):
  workdir = tmp_path / 'run'
  config = write_tiny_config(tmp_path)
  result = main_of_two(f'--config={config}', f'--workdir={workdir}')
  assert result.returncode == 0, result.stderr[-3000:]
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(lines[-1])['step'] == 4
  assert (workdir / 'checkpoints' / '4').is_dir()
