"""Every bad input gives one clear error or a counted skip, and no traceback."""

from __future__ import annotations

import pathlib
import re
import tempfile

import pytest

pytest.importorskip('cloudpickle')
pytest.importorskip('cv2')
pytest.importorskip('pyarrow')

from simclr_jax import augmentation, data
from simclr_jax import config as config_lib
from simclr_jax.data.source import Example
from simclr_jax.training import mesh as mesh_lib
from tests import command_server, small_run
from tests.bad_inputs import (
  arrays,
  checkpoints,
  classifiers,
  configs,
  exports,
  images,
  imports,
  parquets,
  paths,
  plans,
)
from tests.bad_inputs.row import RUN, Row

ROWS: list[Row] = [
  *configs.ROWS,
  *paths.ROWS,
  *images.ROWS,
  *parquets.ROWS,
  *arrays.ROWS,
  *checkpoints.ROWS,
  *plans.ROWS,
  *exports.ROWS,
  *imports.ROWS,
  *classifiers.ROWS,
]
_MOST_BYTES = 2 << 30  # A command that has done nothing yet needs 0.2.


@pytest.fixture(scope='module')
def base():
  """Folder of all rows, with a finished run in it."""
  with tempfile.TemporaryDirectory() as name:
    path = pathlib.Path(name)
    small_run.save_small_run(path / RUN)
    yield path


@pytest.fixture(scope='module')
def server(base):
  """Runs commands."""
  environment = {
    'XDG_CACHE_HOME': str(base / 'cache'),
    'JAX_ENABLE_COMPILATION_CACHE': 'false',
  }
  with command_server.Server(environment) as running:
    yield running


def test_there_are_many_and_each_has_its_name():
  names = [row.name for row in ROWS]
  assert len(set(names)) == len(names) >= 60
  assert {row.command for row in ROWS} == {
    'main',
    'linear_probe',
    'knn',
    'report',
    'prepare',
    'plan',
    'export',
    'import_checkpoint',
    'probe_transforms',
    'finetune',
    'label_efficiency',
    'distill',
    'embed',
  }


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.name)
def test_bad_input(row, server, base):
  if row.tensorflow:
    pytest.importorskip('tensorflow_datasets')
  folder = base / re.sub(r'\W', '_', row.name)
  folder.mkdir()
  done = server.run(
    row.command,
    row.build(folder),
    cwd=command_server.ROOT,
    unprivileged=row.unprivileged,
    tensorflow=row.tensorflow,
  )
  said = done.out + done.err
  assert 'Traceback (most recent call last)' not in said, said[-3000:]
  assert done.code == row.code, said[-3000:]
  assert done.peak_bytes < _MOST_BYTES
  assert not (folder / 'executed').exists(), 'data were executed'
  if row.code:
    # argparse writes its own name before it.
    errors = re.findall(r'^(?:python -m [\w.]+: )?error: ', done.err, re.M)
    assert len(errors) == 1, said[-3000:]
    said = done.err[re.search(errors[0], done.err).start() :]
  assert re.search(row.says, said), said[-3000:]
  assert len(said) < 20_000


def test_a_flag_shows_where_it_happened(server, base):
  """Both where flags are read and where the command runs."""
  for arguments in (
    ['--config=configs/smoke.py', '--config.optim.base_lrr=1'],
    ['--config=configs/smoke.py', '--config.optim.base_lr=-1'],
  ):
    done = server.run(
      'main',
      [*arguments, f'--workdir={base / "verbose"}', '--verbosity=1'],
      cwd=pathlib.Path(command_server.ROOT),
    )
    assert done.code == 2
    assert 'Traceback (most recent call last)' in done.err
    assert done.err.count('error: ') == 1


@pytest.mark.parametrize('form', images.BOMBS)
def test_the_pixel_cache_refuses_bombs_too(form):
  source = data.Source(
    name='bombs',
    num_examples=1,
    num_classes=0,
    encoded=True,
    read=lambda i: Example(images.BOMBS[form], -1),
    example_id=lambda i: f'bomb {i}',
    fingerprint='',
  )
  config = config_lib.DataConfig(source='parquet', canvas_size=8)
  with pytest.raises(ValueError, match=r'\(bomb 0\) cannot be read: '):
    augmentation.build_cache(source, data=config, mesh=mesh_lib.make_mesh())
