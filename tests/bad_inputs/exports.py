"""Checkpoints that `export` cannot write, and places where it cannot."""

from __future__ import annotations

import pathlib

from tests.bad_inputs import checkpoints
from tests.bad_inputs.row import RUN, BuildFn, Row, copy_run


def _export(*arguments: str, name: str = 'npz', out: str = 'out') -> BuildFn:
  return lambda folder: [
    f'--checkpoint={folder.parent / RUN}',
    f'--format={name}',
    f'--out={folder / out}',
    *arguments,
  ]


def _of(build: BuildFn) -> BuildFn:
  """`export` of the run that another row judges."""
  return lambda folder: [
    build(folder)[0],
    '--format=npz',
    f'--out={folder / "out"}',
  ]


def _out_exists(folder: pathlib.Path) -> list[str]:
  (folder / 'out').symlink_to('nowhere')
  return _export()(folder)


def _out_below_file(folder: pathlib.Path) -> list[str]:
  (folder / 'file').write_text('')
  return _export(out='file/out')(folder)


def _flipped(folder: pathlib.Path) -> list[str]:
  run = copy_run(folder)
  checkpoints._flip(checkpoints._step(run))
  return [f'--checkpoint={run}', '--format=npz', f'--out={folder / "out"}']


ROWS = [
  Row(
    'export of nothing',
    'export',
    lambda folder: [*_export()(folder)[1:], f'--checkpoint={folder / "no"}'],
    'no checkpoint in',
  ),
  Row(
    'export of an empty path', 'export', _export('--checkpoint='), 'is empty'
  ),
  Row('export as onyx', 'export', _export(name='onyx'), "mean 'onnx'"),
  Row('export of a NaN', 'export', _of(checkpoints._nan), 'not finite'),
  Row('export of a flipped byte', 'export', _flipped, 'no readable checkpoint'),
  Row(
    'export of another model',
    'export',
    _of(checkpoints._another_model),
    'does not fit|shape',
  ),
  Row('export of q', 'export', _export('--outputs=q'), 'wanted are some of h'),
  Row('export of h twice', 'export', _export('--outputs=h,h'), 'each once'),
  Row('export of no output', 'export', _export('--outputs='), 'some of h'),
  Row('export of step x', 'export', _export('--step=x'), "a number or 'best'"),
  Row(
    'export to nan', 'export', _export('--threshold=nan'), 'a number in .0, 1'
  ),
  Row('export onto something', 'export', _out_exists, 'exists; a new folder'),
  Row('export below a file', 'export', _out_below_file, 'File exists', code=1),
  Row(
    'export where nobody can write',
    'export',
    lambda folder: [*_export()(folder), '--out=/proc/nowhere/out'],
    '/proc/nowhere',
    code=1,
  ),
  Row(
    'export to a bucket',
    'export',
    lambda folder: [*_export()(folder), '--out=gs://bucket/out'],
    'local',
  ),
  Row(
    'export of a small stem as torchvision',
    'export',
    _export(name='torchvision'),
    'cannot express this network|needs torch',
  ),
  Row(
    'export under a licence of two lines',
    'export',
    _export('--weights_license=mit\nlibrary_name: evil'),
    'SPDX',
  ),
]
