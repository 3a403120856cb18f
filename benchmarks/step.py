"""How fast a training step is on one card, beside the same step in PyTorch.

  python -m benchmarks.step --out=docs/results/step_NAME.json

Forward and backward of two views of a batch, NT-Xent, SGD with momentum, with
data that already lie on the device: ResNet-18 on 32 px and ResNet-50 on 224 px,
in float32 (TF32 or bfloat16 passes, whatever the device's default is) and
bfloat16. Reports images/s (not views), model FLOP utilisation and the most
memory in use. Where torch is installed, each row is followed
by PyTorch's best: the same network, batch, precision and loss with
torch.compile, channels_last, autocast to bfloat16 and the fused optimizer
(`torch_peer.py`). Every row runs in a process of its own, in turns, so that
neither framework holds the other's memory. The default of --batches is the
first that fits. The peer uses one card, so ours has no other: the first, unless
CUDA_VISIBLE_DEVICES names one. Prints one JSON line and a table.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from absl import app, flags, logging

from benchmarks import result_file, step_table
from simclr_jax import config as config_lib

_NETWORKS = flags.DEFINE_list('networks', ['resnet18_32', 'resnet50_224'], '')
_DTYPES = flags.DEFINE_list('dtypes', ['float32', 'bfloat16'], '')
_BATCHES = flags.DEFINE_list(
  'batches',
  [],
  'Global batches to try, first that fits; default: 512 at 32 px, 1024 down to '
  '32 at 224 px.',
)
_STEPS = flags.DEFINE_integer('steps', 20, 'Steps in one timing.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timings; the median counts.')
_SET = flags.DEFINE_multi_string(
  'set', [], 'Config override of our rows, e.g. model.remat=blocks.'
)
_PEER = flags.DEFINE_bool('peer', True, 'Time PyTorch too where it is there.')
_OUT = flags.DEFINE_string('out', '', 'Result file, .json; empty: none.')
_CHILD = flags.DEFINE_string('child', '', 'Used by the benchmark itself.')

DEFAULT_BATCHES = {
  'resnet18_32': (512,),
  'resnet50_224': (1024, 768, 512, 384, 256, 128, 64, 32),
}


def make_config(network: str, dtype: str, *, batch: int) -> config_lib.Config:
  """What both frameworks train: the ResNet v1.5 that torchvision has."""
  depth, side = (int(n) for n in network.removeprefix('resnet').split('_'))
  config = config_lib.Config(
    data=config_lib.DataConfig(source='digits', image_size=side),
    augment=config_lib.AugmentConfig(blur_prob=0.0),
    model=config_lib.ModelConfig(
      depth=depth,
      padding='torch',
      shortcut='shape',
      head_layers=2,
      head_norm='none',
      compute_dtype=dtype,
    ),
    optim=config_lib.OptimConfig(
      name='sgd', schedule='constant', warmup='0 steps', base_lr=1e-3
    ),
    train=config_lib.TrainConfig(batch_size=batch, duration='1000 steps'),
    monitor=config_lib.MonitorConfig(online_head=False),
  )
  sections: dict[str, dict[str, Any]] = {}
  for override in _SET.value:
    path, _, value = override.partition('=')
    section, _, field = path.partition('.')
    sections.setdefault(section, {})[field] = _parse(value)
  return config_lib.replace(config, **sections)


def _parse(value: str) -> Any:
  try:
    return json.loads(value)
  except json.JSONDecodeError:
    return value


def time_ours(network: str, dtype: str, *, batch: int) -> dict[str, Any]:
  """One row, measured in this process."""
  import jax
  import jax.numpy as jnp
  from jax.sharding import PartitionSpec as P

  from simclr_jax.data.source import Source
  from simclr_jax.training import mesh as mesh_lib
  from simclr_jax.training import progress, recipe
  from simclr_jax.training import run as run_lib

  def read(index: int) -> Any:
    raise AssertionError('nothing is read here')

  config = make_config(network, dtype, batch=batch)
  run = run_lib.make_run(
    config,
    source=Source('synthetic', 10**6, 0, False, read, str, 'synthetic'),
  )
  side = config.data.image_size
  # As training/loop.py does.
  precision = jax.default_matmul_precision(config.train.matmul_precision)
  with jax.set_mesh(run.mesh), precision:
    shape = (batch, run.objective.num_views, side, side, 3)
    views = jax.jit(
      lambda: jax.random.uniform(
        jax.random.key(0), shape, out_sharding=P('data')
      )
    )()
    label = jnp.full(
      batch, -1, jnp.int32, device=mesh_lib.batch_sharding(run.mesh)
    )
    inputs = {'views': views, 'label': label}
    state = run.init_state()
    begin = time.perf_counter()
    step = run.train_step().lower(state, inputs).compile()
    compile_seconds = time.perf_counter() - begin
    memory = step.memory_analysis()
    for _ in range(3):
      state, output = step(state, inputs)
    loss = float(output.metrics['loss'])
    seconds = []
    for _ in range(_REPEATS.value):
      begin = time.perf_counter()
      for _ in range(_STEPS.value):
        state, output = step(state, inputs)
      jax.block_until_ready(output)
      seconds.append((time.perf_counter() - begin) / _STEPS.value)
  device = run.mesh.devices.flat[0]
  peak = progress.peak_flops(
    device.device_kind, dtype, precision=config.train.matmul_precision
  )
  flops = recipe.flops_per_step(run)
  stats = device.memory_stats() or {}
  return {
    'framework': 'simclr_jax',
    'parameters': sum(x.size for x in jax.tree.leaves(state.params)),
    'seconds': statistics.median(seconds),
    'seconds_all': seconds,
    'flops_per_step': flops,
    'mfu': flops / statistics.median(seconds) / peak / run.mesh.size
    if peak
    else None,
    'peak_bytes': stats.get('peak_bytes_in_use'),
    'compiled_temp_bytes': memory.temp_size_in_bytes,
    'compile_seconds': compile_seconds,
    'loss': loss,
    'hardware': result_file.hardware(),
    'versions': {'jax': jax.__version__},
  }


def run_child(
  framework: str, network: str, dtype: str, *, batch: int
) -> dict[str, Any]:
  """A row from a process of its own; {'error': ...} where it fails."""
  module = 'benchmarks.step' if framework == 'ours' else 'benchmarks.torch_peer'
  arguments = [
    f'--child={json.dumps([network, dtype, batch])}',
    f'--steps={_STEPS.value}',
    f'--repeats={_REPEATS.value}',
  ]
  if framework == 'ours':
    arguments += [f'--set={override}' for override in _SET.value]
  # JAX takes three quarters of the memory unless told otherwise; the peer can
  # have all of it.
  environment = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '.95', **os.environ}
  done = subprocess.run(
    [sys.executable, '-m', module, *arguments],
    capture_output=True,
    text=True,
    env=environment,
    check=False,
  )
  return step_table.child_row(
    done.returncode, stdout=done.stdout, stderr=done.stderr
  )


def measure(network: str, dtype: str) -> list[dict[str, Any]]:
  """Rows of one network and precision, at the first batch that ours fits."""
  batches = [int(b) for b in _BATCHES.value] or DEFAULT_BATCHES[network]
  frameworks = ['ours']
  if _PEER.value:
    frameworks.append('torch')
  rows = []
  for framework in frameworks:
    row: dict[str, Any] = {}
    if framework == 'torch':
      if importlib.util.find_spec('torch') is None:
        row = {'error': 'not measured: torch is not installed'}
        batches = batches[:1]
    for batch in batches:
      if not row or step_table.is_out_of_memory(row):
        row = run_child(framework, network, dtype, batch=batch)
        used = batch
    row = {'framework': framework, **row}
    rows.append({'network': network, 'dtype': dtype, 'batch': used, **row})
    # The peer gets the batch that ours has, if that fits it.
    batches = [b for b in batches if b <= used]
    logging.info('%s', rows[-1])
  return step_table.check_parameters(rows)


def main(argv: list[str]) -> int:
  """Times every network and precision, or one row as a child; 1 on failure."""
  del argv
  if _CHILD.value:
    network, dtype, batch = json.loads(_CHILD.value)
    print(json.dumps(time_ours(network, dtype, batch=batch)))
    return 0
  # Of this process too: its result file names the hardware.
  os.environ.setdefault('CUDA_VISIBLE_DEVICES', '0')
  rows = [
    row
    for network in _NETWORKS.value
    for dtype in _DTYPES.value
    for row in measure(network, dtype)
  ]
  result_file.report('step', rows, out=_OUT.value)
  print(step_table.make_table(rows))
  return int(any(r['framework'] == 'ours' and 'error' in r for r in rows))


if __name__ == '__main__':
  app.run(main)
