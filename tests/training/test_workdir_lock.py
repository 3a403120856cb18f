from __future__ import annotations

import json
import subprocess
import sys
import time

from etils import epath
import pytest

from simclr_jax.training import workdir_lock


def hold(folder, token='mine'):
  return workdir_lock.hold_by_refreshing(
    epath.Path(folder) / workdir_lock.FILE_NAME,
    token,
    refresh=0.1,
    stale=0.6,
  )


def test_a_second_run_is_refused_and_told_who_is_there(tmp_path):
  with workdir_lock.held(tmp_path):
    with pytest.raises(ValueError, match=r'in use by a run on host \S+, proc'):
      with workdir_lock.held(tmp_path):
        pass
  with workdir_lock.held(tmp_path) as check:
    check()


def test_the_lock_goes_with_a_killed_process(tmp_path):
  code = (
    'import sys, time\n'
    'from simclr_jax.training import workdir_lock\n'
    'with workdir_lock.held(sys.argv[1]):\n'
    '  print("held", flush=True)\n'
    '  time.sleep(100)\n'
  )
  other = subprocess.Popen(
    [sys.executable, '-c', code, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert other.stdout.readline() == 'held\n'
    with pytest.raises(ValueError, match=f'process id {other.pid}'):
      with workdir_lock.held(tmp_path):
        pass
  finally:
    other.kill()
    other.communicate()
  with workdir_lock.held(tmp_path):
    pass


def test_a_file_that_is_rewritten_is_held(tmp_path):
  with hold(tmp_path, 'first'):
    with pytest.raises(ValueError, match='in use by'), hold(tmp_path, 'second'):
      pass
  assert not (tmp_path / workdir_lock.FILE_NAME).exists()


def test_a_file_that_nobody_rewrites_is_taken_over(tmp_path):
  file = tmp_path / workdir_lock.FILE_NAME
  file.write_text(json.dumps({'token': 'a', 'host': 'gone', 'pid': 1}))
  begin = time.monotonic()
  with hold(tmp_path):
    assert json.loads(file.read_text())['token'] == 'mine'
  assert time.monotonic() - begin > 0.6


def test_a_dead_process_of_this_host_is_not_waited_for(tmp_path, monkeypatch):
  dead = subprocess.Popen([sys.executable, '-c', ''])
  dead.wait()
  file = tmp_path / workdir_lock.FILE_NAME
  owner = {**workdir_lock._owner('a'), 'pid': dead.pid}
  file.write_text(json.dumps(owner))
  monkeypatch.setattr(time, 'sleep', lambda seconds: None)
  with hold(tmp_path):
    pass


def test_a_run_that_was_taken_over_ends(tmp_path):
  file = tmp_path / workdir_lock.FILE_NAME
  with hold(tmp_path) as check:
    check()
    file.write_text(json.dumps({'token': 'other', 'host': 'h', 'pid': 1}))
    deadline = time.monotonic() + 30
    with pytest.raises(ValueError, match='taken over by another run'):
      while time.monotonic() < deadline:
        check()
        time.sleep(0.05)
  # It is the other's file.
  assert json.loads(file.read_text())['token'] == 'other'
