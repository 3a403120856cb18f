"""What others wrote stays data: nothing executes it, no name leads out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
import os
import pathlib
import zipfile

import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data import names
from tests.bad_inputs.row import picture

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / 'simclr_jax'
# Calls and imports that turn bytes or text into a running program.
FORBIDDEN = (
  'pickle',
  'cPickle',
  'dill',
  'joblib',
  'marshal',
  'shelve',
  'cloudpickle',
  'eval',
  'exec',
  'compile',
  '__import__',
  'yaml.load',
  'yaml.unsafe_load',
  'os.system',
  'os.popen',
  'torch.load',
  'runpy.run_path',
  'np.load',
  'numpy.load',
  'tarfile',
  'extractall',
)
# File -> what it may use, and why.
ALLOWED = {
  # Our own objects to our own child process, over a private pipe.
  'data/worker_pool.py': {'pickle', 'cloudpickle'},
  'data/worker.py': {'pickle', 'cloudpickle'},
  'data/lazy_cv2.py': {'cloudpickle'},
  # For its error alone: torch.load is told to take tensors only.
  'importers/state_dict.py': {'pickle'},
}


def _uses(tree: ast.AST) -> Iterator[str]:
  """Forbidden names that a file imports or calls."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found = [alias.name.split('.')[0] for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      found = [str(node.module).split('.')[0]]
      found += [alias.name for alias in node.names]
    elif isinstance(node, ast.Call):
      name = ast.unparse(node.func)
      keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
      if keywords.get('shell') not in (None, 'False'):
        yield f'{name}(shell=True)'
      if keywords.get('allow_pickle') not in (None, 'False'):
        yield f'{name}(allow_pickle=True)'
      if name in ('np.load', 'numpy.load'):
        found = [] if keywords.get('allow_pickle') == 'False' else [name]
      elif name == 'torch.load' and keywords.get('weights_only') == 'True':
        found = []
      elif name.split('.')[-1] in ('compile', 'eval'):
        # jax's and re's are other functions.
        found = [name] if '.' not in name else []
      else:
        found = [name, name.split('.')[-1]] if '.' in name else [name]
    else:
      continue
    yield from (name for name in found if name in FORBIDDEN)


@pytest.mark.parametrize(
  'path',
  sorted(PACKAGE.rglob('*.py')),
  ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_nothing_makes_a_program_of_data(path):
  used = set(_uses(ast.parse(path.read_text())))
  assert used <= ALLOWED.get(str(path.relative_to(PACKAGE)), set())


@pytest.mark.parametrize(
  'line',
  [
    'import pickle',
    'from pickle import loads',
    'np.load(path)',
    'np.load(path, allow_pickle=True)',
    'eval(text)',
    'exec(text)',
    'subprocess.run(text, shell=True)',
    'os.system(text)',
    'torch.load(path)',
    'torch.load(path, weights_only=False)',
    'yaml.load(text)',
    'archive.extractall(folder)',
    'import marshal',
  ],
)
def test_the_scan_sees_it(line):
  assert list(_uses(ast.parse(line)))


@pytest.mark.parametrize(
  'line', ['np.load(p, allow_pickle=False)', 're.compile(x)']
)
def test_the_scan_lets_pass(line):
  assert not list(_uses(ast.parse(line)))


_EVIL = ('../../evil', '/tmp/evil', 'a\0b', '..', 'line\nbreak', '\x1b[2J', '')


def _files_below(folder: pathlib.Path) -> set[str]:
  return {str(p.relative_to(folder)) for p in folder.rglob('*')}


@pytest.mark.parametrize('name', _EVIL)
def test_names_in_parquet_are_no_paths(name, tmp_path, monkeypatch):
  pa = pytest.importorskip('pyarrow')
  pq = pytest.importorskip('pyarrow.parquet')
  inner = tmp_path / 'a' / 'b'
  inner.mkdir(parents=True)
  monkeypatch.setenv('XDG_CACHE_HOME', str(inner / 'cache'))
  table = pa.table(
    {
      'image': [{'bytes': picture(seed=i), 'path': name} for i in range(2)],
      'id': [name, 'other'],
    },
  ).replace_schema_metadata({'simclr_jax': '{"num_examples": 2}'})
  pq.write_table(table, inner / 'train.parquet')
  config = config_lib.DataConfig(
    source='parquet', path=str(inner), test_split=''
  )
  source = data.make_source(config, 'train', workdir=str(inner / 'work'))
  assert source.example_id(0) == name and source.read(0).image
  assert {p.split('/')[0] for p in _files_below(inner)} <= {
    'cache',
    'train.parquet',
    'work',
  }
  assert _files_below(tmp_path) - {'a', 'a/b'} == {
    f'a/b/{p}' for p in _files_below(inner)
  }


@pytest.mark.parametrize('name', _EVIL)
def test_names_in_archives_are_no_paths(name, tmp_path):
  inner = tmp_path / 'a' / 'b'
  inner.mkdir(parents=True)
  np.savez(inner / 'train.npz', images=np.zeros((3, 8, 8, 3), np.uint8))
  if name:
    with zipfile.ZipFile(inner / 'train.npz', 'a') as archive:
      archive.writestr(zipfile.ZipInfo(name), b'evil')
  config = config_lib.DataConfig(source='arrays', path=str(inner))
  source = data.make_source(config, 'train', workdir=str(inner / 'work'))
  assert source.read(0).image.shape == (8, 8, 3)
  assert _files_below(tmp_path) <= {'a', 'a/b', 'a/b/train.npz', 'a/b/work'}


def test_names_do_not_write_lines_or_move_cursors():
  for name in _EVIL:
    shown = names.printable(name)
    assert shown.isprintable() and len(shown.splitlines()) <= 1
    assert (shown == name) == name.isprintable()
  assert names.printable('\udcff') == '\\udcff'  # bytes that are no text
  assert names.printable('日本 é.png') == '日本 é.png'


def test_lists_of_skipped_files_have_a_line_for_each(tmp_path):
  root = tmp_path / 'pictures'
  root.mkdir()
  (root / 'good.png').write_bytes(picture())
  with open(os.fsencode(root) + b'/\xff\nforged.png', 'wb'):
    pass
  config = config_lib.DataConfig(
    source='folder', path=str(root), max_bad_fraction=1.0, test_split=''
  )
  source = data.make_source(config, '', workdir=str(tmp_path / 'work'))
  assert source.num_examples == 1
  lines = (tmp_path / 'work' / 'skipped_files.txt').read_text().splitlines()
  assert len(lines) == 1 and '\\n' in lines[0]
