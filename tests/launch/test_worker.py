"""worker.sh for real, on this machine in a home folder of its own."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.launch import stand_ins

WORKER = stand_ins.ROOT / 'launch' / 'worker.sh'

pytestmark = pytest.mark.skipif(
  sys.platform != 'linux', reason='TPU VMs run Linux: setsid and /proc'
)


@pytest.fixture
def worker(tmp_path):
  """`worker('start', ...)`: its output; runs end with the test."""
  environment = {**os.environ, 'HOME': str(tmp_path)}

  def call(*arguments: str, check: bool = True) -> str:
    result = subprocess.run(
      ['bash', WORKER, *arguments],
      env=environment,
      cwd=tmp_path,
      capture_output=True,
      text=True,
      timeout=30,
    )
    assert not check or result.returncode == 0, result.stderr
    return result.stdout + result.stderr

  yield call
  for path in tmp_path.glob('simclr_runs/*/child'):
    # Its supervisor ends with it.
    try:
      os.kill(int(path.read_text()), signal.SIGKILL)
    except ProcessLookupError:
      pass


def wait_for(worker, run, text):
  deadline = time.monotonic() + 20
  while text not in (line := worker('status', run)):
    assert time.monotonic() < deadline, line
    time.sleep(0.05)


def test_a_run_and_its_exit_code(worker, tmp_path):
  name = """it's "a" $run"""
  assert 'state=absent' in worker('status', name)
  assert 'started' in worker('start', name, 'bash', '-c', 'pwd; exit 75')
  wait_for(worker, name, 'state=exited code=75')
  assert worker('logs', name).splitlines() == [str(stand_ins.ROOT)]
  worker('start', name, 'echo', 'second')
  wait_for(worker, name, 'state=exited code=0')
  assert worker('logs', name, '1').splitlines() == ['second']


def test_it_runs_once_in_a_session_of_its_own(worker, tmp_path):
  worker('start', 'r', 'sleep', '60')
  assert 'state=running code=none' in worker('status', 'r')
  assert 'already running' in worker('start', 'r', 'sleep', '61')
  pid = int((tmp_path / 'simclr_runs/r/pid').read_text())
  assert os.getsid(pid) == pid


def test_stop_lets_the_run_save(worker, tmp_path):
  script = (
    'trap "echo saved; exit 75" TERM; echo ready; while :; do sleep .05; done'
  )
  worker('start', 'r', 'bash', '-c', script)
  while 'ready' not in worker('logs', 'r'):
    time.sleep(0.05)
  assert 'asked to stop' in worker('stop', 'r')
  wait_for(worker, 'r', 'state=exited code=75')
  assert worker('logs', 'r').splitlines() == ['ready', 'saved']
  assert 'state=exited' in worker('stop', 'r')


def test_a_signal_to_all_as_of_a_shutdown_reaches_the_run_once(
  worker, tmp_path
):
  script = """
import signal, sys, time
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
print('ready', flush=True)
while not heard:
  time.sleep(.01)
time.sleep(.3)
sys.exit(70 + len(heard))
"""
  worker('start', 'r', sys.executable, '-c', script)
  while 'ready' not in worker('logs', 'r'):
    time.sleep(0.05)
  os.killpg(int((tmp_path / 'simclr_runs/r/pid').read_text()), signal.SIGTERM)
  wait_for(worker, 'r', 'state=exited code=71')


def test_a_machine_that_started_anew_lost_its_run(worker, tmp_path):
  worker('start', 'r', 'sleep', '60')
  folder = tmp_path / 'simclr_runs/r'
  os.kill(int((folder / 'pid').read_text()), signal.SIGKILL)
  wait_for(worker, 'r', 'state=lost')
  # Another program may have the number by now.
  (folder / 'pid').write_text(str(os.getpid()))
  assert 'state=lost' in worker('status', 'r')
  assert 'state=lost' in worker('stop', 'r')


def test_install(worker, tmp_path):
  """Code and environment are swapped in; the same commit is left alone."""
  calls = tmp_path / 'calls'
  python = tmp_path / 'bin' / 'python3.12'
  python.parent.mkdir()
  python.write_text(f"""#!/bin/sh
echo "$*" >> {calls}
case "$*" in *venv*)
  mkdir -p "$4/bin"; cp "$0" "$4/bin/python";; esac
""")
  python.chmod(0o755)

  def install(stamp: str, check: bool = True) -> str:
    code = tmp_path / 'simclr_jax.new' / 'launch'
    code.mkdir(parents=True)
    (code / 'worker.sh').write_text(WORKER.read_text())
    (code / 'stamp').write_text(stamp)
    for name in ('requirements.txt', 'requirements-no-tf.txt'):
      text = (stand_ins.ROOT / name).read_text()
      (code.parent / name).write_text(text)
    result = subprocess.run(
      ['bash', 'simclr_jax.new/launch/worker.sh', 'install', 'tpu', stamp],
      env={
        'HOME': str(tmp_path),
        'PATH': f'{python.parent}:/usr/bin:/bin',
      },
      cwd=tmp_path,
      capture_output=True,
      text=True,
      timeout=30,
    )
    assert not check or result.returncode == 0, result.stderr
    return result.stdout + result.stderr

  code = tmp_path / 'simclr_jax'
  assert 'installed: 1' in install('1')
  assert 'jax[tpu]==' in (code / 'requirements-no-tf.txt').read_text()
  assert sum('pip install' in x for x in calls.read_text().splitlines()) == 1
  assert 'already installed: 1' in install('1')
  assert sum('pip install' in x for x in calls.read_text().splitlines()) == 1
  assert 'installed: 2' in install('2')
  assert (code / 'launch' / 'stamp').read_text() == '2'
  assert sum('pip install' in x for x in calls.read_text().splitlines()) == 2
  worker('start', 'r', 'sleep', '60')
  assert 'is running: stop it' in install('3', check=False)
  assert (code / 'launch' / 'stamp').read_text() == '2'
  assert pathlib.Path(code).is_dir()
