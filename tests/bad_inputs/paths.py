"""Paths that lead nowhere, in circles, or where nobody may write."""

from __future__ import annotations

from collections.abc import Callable
import os
import pathlib
import shutil

from tests.bad_inputs.row import (
  RUN,
  BuildFn,
  Row,
  copy_run,
  folder_run,
  judge,
  main,
  picture,
  pictures,
  prepare,
)


def _root(make: Callable[[pathlib.Path], pathlib.Path]) -> BuildFn:
  """`prepare` of what `make` gives."""
  return lambda folder: prepare(folder, make(folder))


def _file(folder: pathlib.Path, name: str = 'file') -> pathlib.Path:
  (folder / name).write_bytes(picture())
  return folder / name


def _empty(folder: pathlib.Path) -> pathlib.Path:
  (folder / 'nothing').mkdir()
  return folder / 'nothing'


def _loop(folder: pathlib.Path) -> pathlib.Path:
  (folder / 'loop').symlink_to(folder / 'loop')
  return folder / 'loop'


def _loops_within(folder: pathlib.Path) -> list[str]:
  root = pictures(folder)
  for name in ('a', 'b'):
    (root / name).mkdir()
    (root / name / 'up').symlink_to(root)
  (root / 'a' / 'b').symlink_to(root / 'b')
  (root / 'b' / 'a').symlink_to(root / 'a')
  return prepare(folder, root)


def _parquet_loops(folder: pathlib.Path) -> list[str]:
  for name in ('a', 'b'):
    (folder / name).mkdir()
    (folder / name / 'up').symlink_to(folder)
  (folder / 'a' / 'b').symlink_to(folder / 'b')
  (folder / 'b' / 'a').symlink_to(folder / 'a')
  return [
    '--config=configs/parquet.py',
    f'--config.data.path={folder}',
    f'--out={folder}_out',
  ]


def _dangling(folder: pathlib.Path) -> list[str]:
  root = pictures(folder)
  (root / 'gone.png').symlink_to(folder / 'nowhere.png')
  return prepare(folder, root, '--config.data.max_bad_fraction=0.5')


def _odd_names(folder: pathlib.Path) -> list[str]:
  root = pictures(folder, count=1)
  odd = ['été 日本 🦉.png', 'line\nbreak.png', '-rf.png', f'{"x" * 250}.png']
  for name in odd:
    (root / name).write_bytes(picture(seed=len(name)))
  with open(os.fsencode(root) + b'/\xff\xfe.png', 'wb') as file:
    file.write(picture(seed=99))
  return prepare(folder, root)


def _bad_odd_name(folder: pathlib.Path) -> list[str]:
  root = pictures(folder)
  with open(os.fsencode(root) + b'/\xff\nerror: x.png', 'wb') as file:
    file.write(b'no picture')
  return folder_run(folder, root)


def _secret_folder(folder: pathlib.Path) -> list[str]:
  root = pictures(folder)
  (root / 'secret').mkdir(mode=0)
  return prepare(folder, root)


def _secret_picture(folder: pathlib.Path) -> list[str]:
  root = pictures(folder)
  (root / '0.png').chmod(0)
  return prepare(folder, root, '--config.data.max_bad_fraction=0.5')


def _shut(folder: pathlib.Path, name: str) -> pathlib.Path:
  (folder / name).mkdir(mode=0o555)
  return folder / name


def _workdir_is_file(folder: pathlib.Path) -> list[str]:
  (folder / 'workdir').write_text('')
  return main(folder)


def _shut_run(folder: pathlib.Path) -> list[str]:
  run = copy_run(folder)
  for step in (run / 'checkpoints').iterdir():
    step.chmod(0)
  return judge(run)


def _out(name: str) -> BuildFn:
  return lambda folder: judge(folder.parent / RUN, f'--out={folder / name}')


def _out_is_folder(folder: pathlib.Path) -> list[str]:
  (folder / 'report.json').mkdir()
  return _out('report.json')(folder)


def _out_in_data(folder: pathlib.Path) -> list[str]:
  root = pictures(folder)
  return [*prepare(folder, root)[:2], f'--out={root}']


def _data_in_out(folder: pathlib.Path) -> list[str]:
  return [*prepare(folder, pictures(folder))[:2], f'--out={folder}']


def _held_out_inside(folder: pathlib.Path) -> list[str]:
  root = pictures(folder)
  shutil.copytree(root, root / 'test')
  return folder_run(folder, root, '--config.data.test_split=test')


ROWS = [
  Row(
    'missing folder', 'prepare', _root(lambda f: f / 'no'), 'is not a folder'
  ),
  Row('file for a folder', 'prepare', _root(_file), 'is not a folder'),
  Row('empty folder', 'prepare', _root(_empty), 'no picture that can be read'),
  Row('loop for a folder', 'prepare', _root(_loop), 'is not a folder'),
  Row('no path at all', 'prepare', _root(lambda f: ''), r'config\.data\.path'),
  Row(
    'NUL in a path', 'prepare', _root(lambda f: f'{f}/a\0b'), 'is not a folder'
  ),
  Row(
    '5000 characters',
    'prepare',
    _root(lambda f: f / ('x' * 5000)),
    'is not a folder',
  ),
  Row('remote folder', 'prepare', _root(lambda f: 'gs://b/c'), 'must be local'),
  Row(
    'circles of links are walked once',
    'prepare',
    _loops_within,
    r'train: \d+ pictures',
    code=0,
  ),
  Row(
    'circles without Parquet', 'prepare', _parquet_loops, r'no \.parquet file'
  ),
  Row(
    'dangling link', 'prepare', _dangling, '5 found, 4 readable, 1 skip', code=0
  ),
  Row('odd names are read', 'prepare', _odd_names, 'train: 6 pictures', code=0),
  Row(
    'bad picture of an odd name',
    'main',
    _bad_odd_name,
    '1 of 5 pictures .* cannot be read',
  ),
  Row(
    'folder of somebody else',
    'prepare',
    _secret_folder,
    'cannot list the folder .*secret: .*Permission denied',
    unprivileged=True,
  ),
  Row(
    'picture of somebody else',
    'prepare',
    _secret_picture,
    r'1 of \d+ pictures .* cannot be opened(.|\n)*Permission denied',
    unprivileged=True,
  ),
  Row(
    'prepare where nobody may write',
    'prepare',
    lambda f: [*prepare(f, pictures(f))[:2], f'--out={_shut(f, "s") / "o"}'],
    'Permission denied',
    code=1,
    unprivileged=True,
  ),
  Row(
    'workdir where nobody may write',
    'main',
    lambda f: [
      '--config=configs/smoke.py',
      f'--workdir={_shut(f, "shut") / "run"}',
      '--config.data.loader=opencv',
    ],
    'workdir cannot be written: Permission denied',
    unprivileged=True,
  ),
  Row(
    'workdir is a file', 'main', _workdir_is_file, 'workdir cannot be written'
  ),
  Row(
    'workdir within the pictures',
    'main',
    lambda f: folder_run(f, pictures(f), f'--workdir={f}/pictures/runs/a'),
    'workdir .*runs/a lies in the pictures',
  ),
  Row(
    'address of another kind',
    'main',
    lambda f: [*main(f), '--workdir=https://a/b'],
    'of the kind https://',
  ),
  Row(
    'file of another machine',
    'report',
    lambda f: ['--workdir=file://there/run'],
    'no file of this machine',
  ),
  Row(
    'file addresses are paths',
    'prepare',
    lambda f: [*prepare(f, f'file://{pictures(f)}'), f'--out=file://{f}/a%20b'],
    r'train: 4 pictures[\s\S]*/a b',
    code=0,
  ),
  Row(
    'embeddings in a bucket',
    'search',
    lambda f: ['--embeddings=gs://b/e', '--rows=1'],
    'must be a local or mounted path',
  ),
  Row('empty workdir', 'main', lambda f: [*main(f), '--workdir='], '--workdir'),
  Row(
    'checkpoint of somebody else',
    'knn',
    _shut_run,
    'Permission denied',
    code=1,
    unprivileged=True,
  ),
  Row(
    'checkpoint is a file', 'knn', lambda f: judge(_file(f)), 'no checkpoint'
  ),
  Row(
    'checkpoint is a loop', 'knn', lambda f: judge(_loop(f)), 'no checkpoint'
  ),
  Row('empty checkpoint', 'knn', lambda f: judge(''), '--checkpoint'),
  Row(
    'report of nothing', 'report', lambda f: [f'--workdir={f}'], 'no checkpoint'
  ),
  Row(
    'report of a file',
    'report',
    lambda f: [f'--workdir={_file(f)}'],
    'no checkpoint',
  ),
  Row('out is a folder', 'knn', _out_is_folder, r'report\.json is a folder'),
  Row(
    'out where nobody may write',
    'knn',
    lambda f: judge(f.parent / RUN, f'--out={_shut(f, "shut") / "x.json"}'),
    'shut is not writable',
    unprivileged=True,
  ),
  Row(
    'out below a file',
    'linear_probe',
    (lambda f: judge(f.parent / RUN, f'--out={_file(f) / "x.json"}')),
    'name another file',
  ),
  Row('out within the pictures', 'prepare', _out_in_data, 'is not empty'),
  Row('pictures within out', 'prepare', _data_in_out, 'is not empty'),
  Row('held out within', 'main', _held_out_inside, 'also .*test, which'),
  Row(
    'remote output',
    'prepare',
    lambda f: ['--config=configs/smoke.py', '--out=gs://b/x'],
    'must be a local',
  ),
  Row(
    'output is a file',
    'prepare',
    lambda f: ['--config=configs/smoke.py', f'--out={_file(f)}'],
    'is a file',
  ),
]
