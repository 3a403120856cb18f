"""A disk that is full: one line with place, cause, free space and remedy.

A limit on the size of a file stands in: writes fail in the same places. Saves
of a run are in tests/training/test_storage.py.
"""

from __future__ import annotations

from collections.abc import Callable
import pathlib
import re

import pytest

from tests import command_server, small_run
from tests.bad_inputs.row import pictures

Arguments = list[str]


def _export(workdir: pathlib.Path, out: pathlib.Path) -> Arguments:
  return [f'--checkpoint={workdir}', '--format=npz', f'--out={out}']


def _embed(workdir: pathlib.Path, out: pathlib.Path) -> Arguments:
  return [
    f'--checkpoint={workdir}',
    f'--input={workdir.parent / "pictures"}',
    f'--out={out}',
    '--loader=opencv',
  ]


def _prepare(workdir: pathlib.Path, out: pathlib.Path) -> Arguments:
  return [
    '--config=configs/folder.py',
    f'--config.data.path={workdir.parent / "pictures"}',
    f'--out={out}',
  ]


def _import(workdir: pathlib.Path, out: pathlib.Path) -> Arguments:
  source = workdir.parent / 'exported'
  return [f'--source={source}', '--format=npz', f'--out={out}']


def _knn(workdir: pathlib.Path, out: pathlib.Path) -> Arguments:
  return [f'--checkpoint={workdir}', f'--out={out}', '--data.loader=opencv']


# Name -> (command, its arguments, bytes of the largest file).
CASES: dict[str, tuple[str, Callable[..., Arguments], int]] = {
  'export': ('export', _export, 5000),
  'embed': ('embed', _embed, 1000),
  'prepare': ('prepare', _prepare, 1000),
  'import': ('import_checkpoint', _import, 20_000),
  'result of kNN': ('knn', _knn, 1000),
}
_TROUBLE = re.compile(r'[EW]\d{4} |\*\*\*|error|Traceback|  File')


@pytest.fixture(scope='module')
def base(tmp_path_factory) -> pathlib.Path:
  """Folder of a run, of pictures and of an export."""
  base = tmp_path_factory.mktemp('full')
  small_run.save_small_run(base / 'run')
  pictures(base, count=8)
  return base


@pytest.fixture(scope='module')
def server(base):
  """Runs commands."""
  environment = {
    'XDG_CACHE_HOME': str(base / 'cache'),
    'JAX_ENABLE_COMPILATION_CACHE': 'false',
  }
  with command_server.Server(environment) as running:
    done = running.run(
      'export', _export(base / 'run', base / 'exported'), cwd=base
    )
    assert done.code == 0, done.err
    yield running


@pytest.mark.parametrize('name', CASES)
def test_the_last_line_says_it(base, server, tmp_path, name):
  command, arguments, limit = CASES[name]
  out = tmp_path / 'out'
  done = server.run(
    command,
    arguments(base / 'run', out),
    cwd=command_server.ROOT,
    max_file=limit,
  )
  assert done.code == 1, done.err
  lines = done.err.splitlines()
  assert lines[-1].startswith('error: ') and str(out) in lines[-1], done.err
  assert 'File too large, EFBIG' in lines[-1], done.err
  assert ' free there)' in lines[-1] and 'same command again' in lines[-1]
  trouble = [line for line in lines if _TROUBLE.match(line)]
  assert len(trouble) <= 5 and 'Traceback' not in done.err, done.err
  names = {p.name for p in tmp_path.rglob('*') if p.is_file()}
  # What is embedded goes on from there.
  assert names <= ({'embedding.json'} if command == 'embed' else set()), names
