"""SLURM: what is submitted, and when a job queues itself again.

Against recording programs by default; `SIMCLR_JAX_LAUNCH_TESTS=1` also brings
up a real SLURM on this machine, where slurmctld and slurmd are installed.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from tests.launch import stand_ins
from tests.launch.slurm_box import SlurmBox, why_not
from tests.launch.tiny_config import write_tiny_config

NAME = ['--name=run-1']
FLAGS = ['--', """--config=a 'b' "$c";d""", '--workdir=/s/ü']
JOB = {
  'SLURM_JOB_ID': '7',
  'SLURM_JOB_NODELIST': 'n[1-2]',
  'SLURM_NTASKS': '2',
}
RUNNING = 'JobId=7 JobState=RUNNING Reason=None\n'

real = pytest.mark.skipif(
  'SIMCLR_JAX_LAUNCH_TESTS' not in os.environ,
  reason='minutes: SIMCLR_JAX_LAUNCH_TESTS=1 runs it',
)


@pytest.fixture
def cluster(tmp_path):
  return stand_ins.StandIns(
    tmp_path, ['sbatch', 'squeue', 'scancel', 'srun', 'scontrol']
  )


def test_submit(cluster):
  result = cluster.run(
    'slurm.sh', 'submit', *NAME, '--nodes=2', '--gpus_per_node=8',
    '--partition=gpu', '--account=a b', '--cpus_per_task=12', '--time=1:00:00',
    '--max_restarts=5', *FLAGS,
  )  # fmt: skip
  assert result.returncode == 0, result.stderr
  asked, submitted = cluster.calls()
  assert asked[0] == 'squeue' and '--name=run-1' in asked
  assert submitted == [
    'sbatch', '--job-name=run-1', f'--chdir={stand_ins.ROOT}', '--nodes=2',
    '--ntasks-per-node=8', '--time=1:00:00', '--gpus-per-node=8',
    '--partition=gpu', '--account=a b', '--cpus-per-task=12', '--export=ALL',
    str(stand_ins.ROOT / 'launch/slurm.sbatch'), *FLAGS[1:],
  ]  # fmt: skip


def test_submit_of_one_that_is_queued_does_nothing(cluster):
  cluster.answer('squeue', out='12\n13\n')
  result = cluster.run('slurm.sh', 'submit', *NAME, *FLAGS)
  assert result.returncode == 0
  assert 'in the queue as job 12, 13' in result.stderr
  assert [call[0] for call in cluster.calls()] == ['squeue']


@pytest.mark.parametrize('command', ['submit', 'status', 'stop', 'cancel'])
def test_dry_run_prints_what_a_run_does(cluster, command):
  arguments = [command, *NAME, *(FLAGS if command == 'submit' else [])]
  dry = cluster.run('slurm.sh', *arguments, LAUNCH_DRY_RUN='true')
  assert dry.returncode == 0, dry.stderr
  assert cluster.calls() == []
  cluster.run_lines(dry.stdout)
  printed = cluster.calls()
  cluster.forget()
  assert cluster.run('slurm.sh', *arguments).returncode == 0
  assert cluster.calls() == printed != []


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['submit', *FLAGS], '--name is missing'),
    (['submit', '--name=a/b', *FLAGS], 'letters, digits'),
    (['submit', '--name=a%j', *FLAGS], 'letters, digits'),
    (['submit', *NAME], 'flags of the run are missing'),
    (['submit', *NAME, '--nodes=0', *FLAGS], 'no nodes'),
    (['submit', *NAME, '--gpus_per_node=all', *FLAGS], 'whole number'),
    (['logs', '--name=never-ran'], 'no log of never-ran'),
    (['start', *NAME], "unknown command 'start'"),
  ],
)
def test_mistakes_are_named(cluster, arguments, message):
  result = cluster.run('slurm.sh', *arguments)
  assert result.returncode == 2
  assert message in result.stderr
  assert cluster.calls() == []


@pytest.mark.parametrize(
  ('code', 'again'),
  [(0, 0), (1, 0), (2, 0), (3, 0), (69, 1), (75, 1), (137, 1), (143, 1)],
)
def test_only_a_run_that_can_go_on_is_queued_again(cluster, code, again):
  cluster.answer('srun', code=code)
  cluster.answer('scontrol --oneliner show job', out=RUNNING)
  result = cluster.run('slurm.sbatch', *FLAGS[1:], **JOB)
  assert result.returncode == (0 if again else code)
  srun, *rest = cluster.calls()
  assert srun[-len(FLAGS) - 3 :] == [
    '.venv/bin/python', '-m', 'simclr_jax.main', '--distributed=auto',
    *FLAGS[1:],
  ]  # fmt: skip
  requeues = [call for call in rest if 'requeue' in call]
  assert requeues == again * [['scontrol', 'requeue', '7']]


def test_a_cancelled_job_stays_cancelled(cluster):
  cluster.answer('srun', code=75)
  cluster.answer(
    'scontrol --oneliner show job', out=RUNNING.replace('RUNNING', 'CANCELLED')
  )
  result = cluster.run('slurm.sbatch', 'x', **JOB)
  assert result.returncode == 75
  assert 'not queued again' in result.stdout
  assert not [call for call in cluster.calls() if 'requeue' in call]


def test_restarts_are_bounded(cluster):
  cluster.answer('srun', code=69)
  cluster.answer('scontrol --oneliner show job', out=RUNNING)
  result = cluster.run(
    'slurm.sbatch', 'x', **JOB, SIMCLR_MAX_RESTARTS='3', SLURM_RESTART_COUNT='3'
  )
  assert result.returncode == 69
  assert [call[0] for call in cluster.calls()] == ['srun']


@pytest.fixture
def box(tmp_path):
  if reason := why_not():
    pytest.skip(reason)
  with SlurmBox(tmp_path / 'slurm') as running:
    yield running


def submit(box, folder: pathlib.Path, python: pathlib.Path | str, *flags: str):
  """Job number of launch/slurm.sbatch with two tasks."""
  result = box.run(
    'sbatch', '--parsable', f'--chdir={stand_ins.ROOT}', '--ntasks=2',
    '--time=10', f'--output={folder}/log',
    str(stand_ins.ROOT / 'launch/slurm.sbatch'), *flags,
    SIMCLR_PYTHON=str(python),
  )  # fmt: skip
  return result.strip()


def wait_for(condition, *, seconds: float = 60) -> None:
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.2)


@real
def test_a_real_slurm_queues_again_what_can_go_on(box, tmp_path):
  """A stopped job comes back and finishes; a cancelled one does not."""
  task = tmp_path / 'task'
  task.write_text(
    '#!/bin/bash\n'
    "trap 'sleep 1; exit 75' TERM\n"
    'echo "task $SLURM_PROCID start ${SLURM_RESTART_COUNT:-0}"\n'
    '[[ ${SLURM_RESTART_COUNT:-0} == 0 ]] || exit 0\n'
    'sleep 60 & wait\n'
  )
  task.chmod(0o755)
  log = tmp_path / 'log'
  job = submit(box, tmp_path, task, 'x')
  wait_for(lambda: log.exists() and log.read_text().count('start 0') == 3)
  box.run('scancel', '--signal=TERM', job)
  wait_for(lambda: box.state(job) == 'COMPLETED')
  assert 'exit code 75' in log.read_text()
  assert log.read_text().count('start 1') == 3  # The job's line and two tasks.

  log.unlink()
  job = submit(box, tmp_path, task, 'x')
  wait_for(lambda: log.exists() and log.read_text().count('start 0') == 3)
  box.run('scancel', job)
  wait_for(lambda: 'not queued again' in log.read_text())
  time.sleep(3)
  assert box.state(job) == 'CANCELLED'


@real
def test_a_run_is_stopped_and_finishes_on_a_real_slurm(box, tmp_path):
  """Two processes find each other by SLURM's variables, two devices each."""
  config = write_tiny_config(tmp_path, steps=40)
  workdir = tmp_path / 'run'
  box.environment |= {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
    'JAX_ENABLE_COMPILATION_CACHE': 'false',
  }
  job = submit(
    box, tmp_path, sys.executable, f'--config={config}', f'--workdir={workdir}'
  )
  log, metrics = tmp_path / 'log', workdir / 'metrics.jsonl'
  wait_for(lambda: log.exists() and 'step 3/40' in log.read_text(), seconds=400)
  box.run('scancel', '--signal=TERM', job)
  wait_for(lambda: box.state(job) == 'COMPLETED', seconds=500)
  text = log.read_text()
  assert 'exit code 75' in text and 'exit code 0' in text, text
  steps = [json.loads(x)['step'] for x in metrics.read_text().splitlines()]
  assert sorted(set(steps)) == list(range(1, 41))
  assert subprocess.run(['ls', workdir / 'checkpoints' / '40']).returncode == 0
