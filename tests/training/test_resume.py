"""Killed at any moment and run again: bit-equal to the uninterrupted run."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from simclr_jax.training import checkpoint as checkpoint_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOTAL = 40


def start(workdir, cache, *overrides):
  command = [
    sys.executable,
    '-m',
    'simclr_jax.main',
    f'--config={ROOT / "configs" / "smoke.py"}',
    f'--workdir={workdir}',
    f'--config.train.duration={TOTAL} steps',
    '--config.train.batch_size=32',
    '--config.data.image_size=8',
    '--config.model.width=0.0625',
    '--config.model.head_dim=16',
    '--config.optim.warmup=4 steps',
    '--config.checkpoint.every=5 steps',
    '--config.train.log_every=1 steps',
    '--config.train.diagnostics_every=10 steps',
    '--config.monitor.knn_every=0 steps',
    '--config.checkpoint.keep_best=0',
    *overrides,
  ]
  environment = {
    **os.environ,
    'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
    'JAX_PLATFORMS': 'cpu',
    'JAX_ENABLE_COMPILATION_CACHE': 'true',
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'PYTHONPATH': str(ROOT),
  }
  with open(workdir / 'log.txt', 'ab') as log:
    return subprocess.Popen(
      command,
      env=environment,
      cwd=workdir,
      start_new_session=True,
      stdout=log,
      stderr=subprocess.STDOUT,
    )


def finish(process, workdir, code=0):
  assert process.wait(timeout=300) == code, (workdir / 'log.txt').read_text()[
    -3000:
  ]


def logged_steps(workdir):
  path = workdir / 'metrics.jsonl'
  return len(path.read_text().splitlines()) if path.exists() else 0


def wait_until(condition, process):
  while process.poll() is None and not condition():
    time.sleep(0.002)


def saving(workdir):
  folder = workdir / 'checkpoints'
  return folder.is_dir() and any('tmp' in p.name for p in folder.iterdir())


def final_state(workdir):
  folder = workdir / 'checkpoints'
  assert max(checkpoint_lib.list_steps(folder)) == TOTAL
  return checkpoint_lib.load_state_arrays(folder, step=TOTAL)


def metric_lines(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('compiled')


@pytest.fixture(scope='module')
def straight(tmp_path_factory, cache):
  workdir = tmp_path_factory.mktemp('straight')
  finish(start(workdir, cache), workdir)
  return workdir


def assert_same_run(workdir, straight):
  want = jax.tree_util.tree_leaves_with_path(final_state(straight))
  got = jax.tree_util.tree_leaves_with_path(final_state(workdir))
  assert len(want) == len(got) > 100
  for (path, a), (other, b) in zip(want, got, strict=True):
    assert path == other
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
  losses = [(line['step'], line['loss']) for line in metric_lines(straight)]
  assert [s for s, _ in losses] == list(range(1, TOTAL + 1))
  assert losses == [(x['step'], x['loss']) for x in metric_lines(workdir)]


def test_sigkill_at_random_moments(straight, cache, tmp_path):
  rng = random.Random(0)
  for number in range(4):
    process = start(tmp_path, cache)
    if number % 2:
      wait_until(lambda: saving(tmp_path), process)
    else:
      target = logged_steps(tmp_path) + rng.randrange(1, 8)
      wait_until(lambda t=target: logged_steps(tmp_path) >= t, process)
      time.sleep(rng.random() * 0.05)
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
    process.wait()
  finish(start(tmp_path, cache), tmp_path)
  assert_same_run(tmp_path, straight)


def test_sigterm_saves_and_the_same_command_continues(
  straight, cache, tmp_path
):
  process = start(tmp_path, cache)
  wait_until(lambda: logged_steps(tmp_path) >= 7, process)
  process.send_signal(signal.SIGTERM)
  finish(process, tmp_path, code=75)
  stopped_at = max(checkpoint_lib.list_steps(tmp_path / 'checkpoints'))
  assert 7 <= stopped_at < TOTAL
  finish(start(tmp_path, cache), tmp_path)
  assert_same_run(tmp_path, straight)


def test_another_config_is_refused(straight, cache):
  process = start(straight, cache, '--config.loss.temperature=0.3')
  assert process.wait(timeout=120) == 2
  log = (straight / 'log.txt').read_text()
  assert 'loss.temperature' in log and 'Traceback' not in log


def test_finished_run_does_nothing_more(straight, cache):
  before = (straight / 'metrics.jsonl').read_bytes()
  finish(start(straight, cache), straight)
  assert (straight / 'metrics.jsonl').read_bytes() == before
