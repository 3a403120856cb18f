"""Parquet files that are not what they should be."""

from __future__ import annotations

from collections.abc import Callable
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bad_inputs.row import (
  RUN,
  BuildFn,
  Row,
  judge,
  picture,
  prepare_table,
)

IMAGE = pa.struct([('bytes', pa.binary()), ('path', pa.string())])


def _rows(count: int = 6) -> list[dict[str, object]]:
  return [{'bytes': picture(seed=i), 'path': None} for i in range(count)]


def _parquet(
  columns: dict[str, object], *more: str, **types: object
) -> BuildFn:
  """`prepare` of a table; columns named in `types` get that type."""

  def build(folder: pathlib.Path) -> list[str]:
    arrays = {
      name: pa.array(
        values, types.get(name, IMAGE if name == 'image' else None)
      )
      for name, values in columns.items()
    }
    pq.write_table(pa.table(arrays), folder / 'train.parquet')
    return prepare_table(folder, 'parquet', *more)

  return build


def _changed(change: Callable[[bytes], bytes]) -> BuildFn:
  """`prepare` of a sound file whose bytes are then changed."""

  def build(folder: pathlib.Path) -> list[str]:
    arguments = _parquet({'image': _rows(), 'label': list(range(6))})(folder)
    path = folder / 'train.parquet'
    path.write_bytes(change(path.read_bytes()))
    return arguments

  return build


def _labels(values: list[object], *more: str) -> BuildFn:
  return _parquet({'image': _rows(len(values)), 'label': values}, *more)


def _metadata(text: str, key: str = 'huggingface') -> BuildFn:
  def build(folder: pathlib.Path) -> list[str]:
    table = pa.table({'image': pa.array(_rows(), IMAGE), 'label': [0] * 6})
    table = table.replace_schema_metadata({key: text})
    pq.write_table(table, folder / 'train.parquet')
    return prepare_table(folder, 'parquet')

  return build


def _escaping_names(folder: pathlib.Path) -> list[str]:
  """Names of pictures that are paths; `prepare` writes in its folder alone."""
  names = ['../../../evil.png', '/etc/passwd', 'a\0b', 'C:\\x', '..', '']
  rows = [{**row, 'path': n} for row, n in zip(_rows(), names, strict=True)]
  return _parquet({'image': rows, 'id': names})(folder)


def _splits_that_overlap(folder: pathlib.Path) -> list[str]:
  for seed, split in enumerate(('train', 'test')):
    table = pa.table(
      {
        'image': pa.array(_rows(6 + seed), IMAGE),
        'label': [i % 2 for i in range(6 + seed)],
        'id': [f'picture {i}' for i in range(6 + seed)],
      }
    ).replace_schema_metadata({'simclr_jax': '{"num_classes": 2}'})
    pq.write_table(table, folder / f'{split}.parquet')
  return judge(
    folder.parent / RUN,
    '--data.source=parquet',
    f'--data.path={folder}',
    '--data.train_split=train',
    '--data.test_split=test',
  )


ROWS = [
  Row('no image column', 'prepare', _parquet({'imag': [1]}), "mean 'imag'"),
  Row(
    'images of numbers',
    'prepare',
    _parquet({'image': [1]}, image=pa.int64()),
    'is int64; images must be',
  ),
  Row(
    'images by path',
    'prepare',
    _parquet({'image': [{'bytes': None, 'path': '/a.png'}]}),
    "row 0 of .* path '/a.png'",
  ),
  Row(
    'null images',
    'prepare',
    _parquet({'image': [None, None]}),
    'row 0 of .* has no picture',
  ),
  Row(
    'missing label column',
    'prepare',
    _labels([0] * 6, '--config.data.label_key=lable'),
    "mean 'label'",
  ),
  Row(
    'labels of text', 'prepare', _labels(['a'] * 6), 'is string; labels must'
  ),
  Row('labels of floats', 'prepare', _labels([0.5] * 6), 'is double; labels'),
  Row('negative label', 'prepare', _labels([0, -7]), 'holds -7; labels must'),
  Row(
    'labels that are ids',
    'prepare',
    _labels([0, 10**12]),
    'holds 1000000000000',
  ),
  Row(
    'label beyond 64 bits',
    'prepare',
    _parquet({'image': _rows(1), 'label': [2**64 - 1]}, label=pa.uint64()),
    'label',
  ),
  Row(
    'label beyond its names',
    'prepare',
    _metadata(
      '{"info": {"features": {"label": {"_type": "ClassLabel", "names": []}}}}'
    ),
    'train: 6 pictures',
    code=0,
  ),
  Row('metadata that are no JSON', 'prepare', _metadata('{'), 'is no JSON'),
  Row(
    'metadata of another kind',
    'prepare',
    _metadata('{"info": [1, {"features": 3}]}'),
    'huggingface',
  ),
  Row(
    'our metadata of another kind',
    'prepare',
    _metadata('{"num_examples": "many", "checked": {}}', 'simclr_jax'),
    'simclr_jax',
  ),
  Row('metadata 10,000 deep', 'prepare', _metadata('[' * 10_000), 'is no JSON'),
  Row(
    'rows that are promised',
    'prepare',
    _metadata('{"num_examples": 7}', 'simclr_jax'),
    'hold 6 rows, .*promises 7',
  ),
  Row(
    'cut Parquet',
    'prepare',
    _changed(lambda b: b[: len(b) // 2]),
    'damaged, cut off or no Parquet',
  ),
  Row(
    'Parquet without an end',
    'prepare',
    _changed(lambda b: b[:-8]),
    'damaged, cut off or no Parquet',
  ),
  Row(
    'text for Parquet',
    'prepare',
    _changed(lambda b: b'a,b\n1,2\n'),
    'no Parquet file',
  ),
  Row('empty Parquet', 'prepare', _changed(lambda b: b''), 'no Parquet file'),
  Row(
    'pointer of Git LFS',
    'prepare',
    _changed(lambda b: b'version https://git-lfs.github.com/spec/v1\n'),
    'git lfs pull',
  ),
  Row('no rows', 'prepare', _parquet({'image': []}), 'empty'),
  Row(
    'pictures that are none',
    'prepare',
    _parquet({'image': [{'bytes': b'no', 'path': None}] * 3}),
    '3 of 3 pictures .* cannot be read',
  ),
  Row(
    'names that lead out',
    'prepare',
    _escaping_names,
    'train: 6 pictures',
    code=0,
  ),
  Row(
    'unknown split of Parquet',
    'prepare',
    _labels([0] * 6, '--config.data.train_split=trian'),
    "mean 'train'",
  ),
  Row(
    'splits that overlap',
    'knn',
    _splits_that_overlap,
    '6 examples are in .*disjoint',
  ),
]
