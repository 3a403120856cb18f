"""Two real processes of four devices each, over loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from simclr_jax.training import checkpoint

_SCRIPT = """
import os, pathlib, signal, sys
import jax, numpy as np
jax.config.update('jax_enable_preemption_service', False)
port, process, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
jax.distributed.initialize(
  f'127.0.0.1:{port}', num_processes=2, process_id=process)
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from simclr_jax.config import CheckpointConfig
from simclr_jax.training import checkpoint, signals

mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Explicit,))
specs = {'step': P(), 'w': P(), 'queue': P('data')}
shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}

def values(step):
  rng = np.random.default_rng(step)
  return {'step': np.int32(step),
          'w': rng.integers(0, 2**32, (64, 64), dtype=np.uint32),
          # Large enough for files of its own, and nothing to compress.
          'queue': rng.integers(0, 2**32, (16, 1024), dtype=np.uint32)}

def damage(step, name, row, change):
  needle = values(step)[name][row, :4].tobytes()
  for path in (folder / str(step) / 'state').glob('*/d/*'):
    data = bytearray(path.read_bytes())
    if needle in data:
      change(data, data.index(needle))
      path.write_bytes(data)
      return
  raise AssertionError('no such data')

def flip(data, at):
  data[at] ^= 1

def break_frame(data, at):
  data[at - 9:at - 5] = bytes(4)  # zstd's magic number

def save(checkpointer, step):
  state = {name: jax.make_array_from_callback(
             np.shape(x), shardings[name], lambda i, x=x: np.asarray(x)[i])
           for name, x in values(step).items()}
  checkpointer.save(
    step, state, encoder={'params': {'w': state['w']}, 'batch_stats': {}},
    passport={'step': step}, metrics={})

abstract = {name: jax.ShapeDtypeStruct(
              np.shape(x), np.asarray(x).dtype, sharding=shardings[name])
            for name, x in values(0).items()}
with jax.set_mesh(mesh):
  checkpointer = checkpoint.Checkpointer(folder, CheckpointConfig())
  assert checkpointer.restore_latest(abstract) is None
  save(checkpointer, 10)
  save(checkpointer, 20)
  checkpointer.close()
  # One bit, in the slice that one of the processes wrote.
  if process == 0:
    damage(20, 'w', 50, flip)
  multihost_utils.sync_global_devices('damaged')

  checkpointer = checkpoint.Checkpointer(folder, CheckpointConfig())
  assert checkpointer.latest_passport() == {'step': 20}
  restored = checkpointer.restore_latest(abstract)
  assert restored.step == 10
  for name, want in values(10).items():
    for shard in restored.state[name].addressable_shards:
      np.testing.assert_array_equal(shard.data, want[shard.index])
    assert restored.state[name].sharding.spec == specs[name]
  checkpointer.close()

  # A slice that process 1 alone reads: the other must not wait for it in a
  # collective of Orbax, or of the digests.
  checkpointer = checkpoint.Checkpointer(folder, CheckpointConfig())
  save(checkpointer, 20)
  checkpointer.close()
  if process == 0:
    damage(20, 'queue', 12, break_frame)
  multihost_utils.sync_global_devices('damaged again')
  checkpointer = checkpoint.Checkpointer(folder, CheckpointConfig())
  assert checkpointer.restore_latest(abstract).step == 10
  checkpointer.close()

  # Opened without damage.
  checkpointer = checkpoint.Checkpointer(folder, CheckpointConfig())

  step = 10
  with signals.StopRequest(mesh) as stop:
    while not stop.agreed():
      step += 1
      assert step < 5000, 'nobody stopped'
      if step == 15 and process == 1:
        os.kill(os.getpid(), signal.SIGTERM)
      multihost_utils.sync_global_devices('step')
    assert step == 16, step  # asked for in step 15, known one step later
  save(checkpointer, step)
  checkpointer.wait()
  checkpointer.close()
  print('stopped at', step, 'with', checkpoint.load_encoder(folder).step)
"""


def test_save_damage_restore_and_stop_together(tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  folder = tmp_path / 'checkpoints'
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', _SCRIPT, str(port), str(number), str(folder)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env={
        **os.environ,
        'PYTHONPATH': os.pathsep.join(sys.path),
        'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
      },
    )
    for number in range(2)
  ]
  try:
    outputs = [process.communicate(timeout=120) for process in processes]
  finally:
    for process in processes:
      process.kill()
  # What process 1 alone has met is said by both.
  assert all('zstd' in err.lower() for _, err in outputs)
  for process, (out, err) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, err[-3000:]
    assert f'{folder / "20"} is DAMAGED' in err
    # Gloo writes to stdout as well.
    last = out.strip().splitlines()[-1].split()
    assert last[:2] == ['stopped', 'at'] and last[2] == last[4]
  steps = checkpoint.list_steps(tmp_path)
  assert steps == [10, int(last[2])]
  assert (folder / '20.damaged-0').is_dir()
  assert (folder / '20.damaged-1').is_dir()
  # And one process with other devices reads what two wrote.
  assert checkpoint.load_encoder(tmp_path).step == steps[-1]
