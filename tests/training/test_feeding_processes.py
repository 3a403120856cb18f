"""Two real processes feed the rows that one process would."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKER = """
import sys
import jax
import numpy as np
port, index, folder, num_processes = sys.argv[1:]
if num_processes == '2':
  jax.distributed.initialize(
    f'127.0.0.1:{port}', num_processes=2, process_id=int(index))
from simclr_jax import config as config_lib
from simclr_jax.training import feeding
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import run as run_lib

CASES = {
  'hybrid': {'augment_on': 'hybrid', 'loader': 'opencv'},
  'replicated': {'augment_on': 'device', 'device_cache': 'replicated'},
  'sharded': {'augment_on': 'device', 'device_cache': 'sharded'},
}
for name, data in CASES.items():
  config = config_lib.Config(
    # 21 pictures: the shards of 4 devices are not equally full.
    data=config_lib.DataConfig(
      source='procedural', train_split='train[:21]', image_size=20, **data),
    model=config_lib.ModelConfig(depth=18, width=0.03),
    optim=config_lib.OptimConfig(warmup='0 steps'),
    train=config_lib.TrainConfig(batch_size=8, duration='4 steps'),
  )
  run = run_lib.make_run(config, mesh=mesh_lib.make_mesh())
  found = {}
  with jax.set_mesh(run.mesh):
    for step, (batch, rows) in enumerate(feeding.train_feed(run, start_step=0)):
      found[f'index{step}'] = rows
      for key in ('views', 'label'):
        shards = sorted(
          batch[key].addressable_shards, key=lambda s: s.index[0].start)
        found[f'{key}{step}'] = np.concatenate([s.data for s in shards])
  np.savez(f'{folder}/{name}-{num_processes}-{index}.npz', **found)
"""


def start(port, index, folder, num_processes):
  return subprocess.Popen(
    [sys.executable, '-c', WORKER, port, index, str(folder), num_processes],
    cwd=ROOT,
    env={
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': '--xla_force_host_platform_device_count='
      + {'1': '4', '2': '2'}[num_processes],
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def test_two_processes_feed_what_one_feeds(tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = str(free.getsockname()[1])
  workers = [
    start(port, '0', tmp_path, '1'),
    start(port, '0', tmp_path, '2'),
    start(port, '1', tmp_path, '2'),
  ]
  try:
    for worker in workers:
      output, _ = worker.communicate(timeout=240)
      assert worker.returncode == 0, output[-3000:]
  finally:
    for worker in workers:
      worker.kill()
  for name in ('hybrid', 'replicated', 'sharded'):
    whole = np.load(tmp_path / f'{name}-1-0.npz')
    parts = [np.load(tmp_path / f'{name}-2-{i}.npz') for i in range(2)]
    assert len(whole.files) == 3 * 4
    for key in whole.files:
      joined = np.concatenate([part[key] for part in parts])
      assert joined.shape[0] == 8
      # Programs for other numbers of devices may round another last digit.
      np.testing.assert_allclose(joined, whole[key], atol=2e-6, err_msg=key)
    # Each process has rows of its own.
    assert not np.array_equal(parts[0]['views0'], parts[1]['views0'])
