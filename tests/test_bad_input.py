"""Every bad input gives one clear error or a counted skip, and no traceback."""

from __future__ import annotations

import os
import pathlib
import re

import pytest

pytest.importorskip('cloudpickle')
pytest.importorskip('cv2')
pytest.importorskip('pyarrow')

from tests import command_server, small_run
from tests.bad_inputs import configs
from tests.bad_inputs.row import RUN, Row

ROWS: list[Row] = [*configs.ROWS]
_MOST_BYTES = 2 << 30  # A command that has done nothing yet needs 0.2.


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  """Folder of all rows, with a finished run in it."""
  path = tmp_path_factory.mktemp('bad', numbered=True)
  small_run.save_small_run(path / RUN)
  for folder in (path, *path.parents):
    # Another user gets there, and no further than our own folders.
    if folder.stat().st_uid == os.getuid() and 'pytest' in folder.name:
      folder.chmod(0o755)
  return path


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
  }


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.name)
def test_bad_input(row, server, base):
  if row.uid and os.getuid():
    pytest.skip('only root can run a command as another user')
  if row.tensorflow:
    pytest.importorskip('tensorflow_datasets')
  folder = base / re.sub(r'\W', '_', row.name)
  folder.mkdir()
  done = server.run(
    row.command,
    row.build(folder),
    cwd=command_server.ROOT,
    uid=row.uid,
    tensorflow=row.tensorflow,
  )
  said = done.out + done.err
  assert 'Traceback (most recent call last)' not in said, said[-3000:]
  assert done.code == row.code, said[-3000:]
  assert done.peak_bytes < _MOST_BYTES
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
