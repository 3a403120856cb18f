"""Two processes over loopback give what one process gives."""

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
    f'127.0.0.1:{port}', num_processes=2, process_id=int(index)
  )
from jax.sharding import AxisType, Mesh
from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.evaluation import encoder, features, knn, linear_probe

config = config_lib.replace(
  config_lib.Config(),
  data={'source': 'procedural', 'image_size': 8},
  eval={'batch_size': 20},
  probe={'epochs': 3, 'base_lrs': (0.1, 0.3), 'weight_decays': (0.0,)},
  knn={'ks': (3,), 'chunk_size': 50},
)
# Processes take turns, as they do in the device order of a TPU slice.
devices = sorted(jax.devices(), key=lambda d: (d.id % 64, d.process_index))
mesh = Mesh(np.array(devices), ('data',), axis_types=(AxisType.Explicit,))
if num_processes == '2':
  assert [d.process_index for d in devices] == [0, 1, 0, 1, 0, 1], devices
pixels = encoder.make_raw_pixel_encoder(config, mesh=mesh)
train, test = (
  features.extract_features(
    pixels, data.make_source(config.data, split), config,
    cache_dir=f'{folder}/cache',
  )
  for split in ('train[:127]', 'test[:43]')
)
near = knn.knn_accuracy(train, test, config.knn, mesh=mesh)
probe = linear_probe.probe_features(train, test, config.probe)
np.savez(
  f'{folder}/{num_processes}-{index}.npz', h=test.h, labels=test.labels,
  knn=[score.top1 for score in near.table], probe=probe.top1,
)
"""


def _start(port, index, folder, num_processes):
  return subprocess.Popen(
    [
      sys.executable,
      '-c',
      WORKER,
      *map(str, (port, index, folder)),
      str(num_processes),
    ],
    cwd=ROOT,
    env={
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': '--xla_force_host_platform_device_count=3',
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def test_two_processes_equal_one(tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  (tmp_path / 'two').mkdir()
  workers = [
    _start(port, 0, tmp_path / 'two', 2),
    _start(port, 1, tmp_path / 'two', 2),
    _start(port, 0, tmp_path, 1),
  ]
  try:
    for worker in workers:
      output, _ = worker.communicate(timeout=240)
      assert worker.returncode == 0, output
  finally:
    for worker in workers:
      worker.kill()
      worker.wait()
  alone = np.load(tmp_path / '1-0.npz')
  for index in range(2):
    found = np.load(tmp_path / 'two' / f'2-{index}.npz')
    for name in alone.files:
      np.testing.assert_array_equal(found[name], alone[name], err_msg=name)
