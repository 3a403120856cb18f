"""Two real processes make the batch that one makes, also after a restart."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data as data_lib
from simclr_jax.data import pipeline

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_STEPS = 4
_RESTART = 2  # the second host starts here


def _batches(path, workdir, *, host, num_hosts, start):
  """What one host gets until step _STEPS, [steps, rows, ...] by name."""
  data = config_lib.DataConfig(
    source='folder',
    path=path,
    labels_from='folders',
    train_split='',
    test_split='',
    image_size=24,
    num_workers=1 + 2 * host,
    prefetch_batches=1,
  )
  source = data_lib.make_source(data, '', workdir=workdir)
  batches = list(
    pipeline.train_batches(
      source,
      data=data,
      augment=config_lib.AugmentConfig(blur_prob=0.0),
      batch_size=8,
      seed=5,
      start_step=start,
      num_steps=_STEPS - start,
      host_index=host,
      num_hosts=num_hosts,
    )
  )
  names = batches[0]
  found = {name: np.stack([batch[name] for batch in batches]) for name in names}
  return {**found, 'fingerprint': np.array(source.fingerprint)}


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  """19 files of mixed sizes and formats in three classes."""
  pytest.importorskip('tensorflow')
  root = tmp_path_factory.mktemp('hosts') / 'pictures'
  rng = np.random.Generator(np.random.PCG64(1))
  for n in range(19):
    folder = root / 'abc'[n % 3]
    folder.mkdir(parents=True, exist_ok=True)
    small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((30 + n, 50 - n), 2)
    image.save(folder / f'{n}.{("jpg", "png", "webp")[n % 3]}')
  return root


def _start(pictures, tmp_path, *, host, start):
  arguments = [pictures, tmp_path / f'workdir{host}', tmp_path / f'{host}.npz']
  return subprocess.Popen(
    [sys.executable, __file__, *map(str, [*arguments, host, start])],
    env={**os.environ, 'PYTHONPATH': str(_ROOT)},
    stderr=subprocess.PIPE,
  )


def test_two_processes_and_a_restart_give_the_same_views(pictures, tmp_path):
  processes = [
    _start(pictures, tmp_path, host=0, start=0),
    _start(pictures, tmp_path, host=1, start=_RESTART),
  ]
  one = _batches(
    str(pictures), str(tmp_path / 'one'), host=0, num_hosts=1, start=0
  )
  for process in processes:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-2000:]
  first, second = (np.load(tmp_path / f'{host}.npz') for host in (0, 1))
  assert one['views'].shape == (_STEPS, 8, 2, 24, 24, 3)
  for name in ('views', 'label', 'index'):
    assert np.array_equal(first[name], one[name][:, :4]), name
    assert np.array_equal(second[name], one[name][_RESTART:, 4:]), name
  assert first['fingerprint'] == second['fingerprint'] == one['fingerprint']
  # The comparison can fail: no two views are the same.
  flat = one['views'].reshape(_STEPS * 8 * 2, -1)
  assert len({view.tobytes() for view in flat}) == len(flat)


if __name__ == '__main__':
  _path, _workdir, _output, _host, _first = sys.argv[1:]
  np.savez(
    _output,
    **_batches(
      _path, _workdir, host=int(_host), num_hosts=2, start=int(_first)
    ),
  )
