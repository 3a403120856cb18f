"""Parquet files, arrays and TFDS data that are not what they should be."""

from __future__ import annotations

from collections.abc import Callable
import io
import os
import pathlib
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.bad_inputs.row import RUN, BuildFn, Row, judge, picture, pixels

IMAGE = pa.struct([('bytes', pa.binary()), ('path', pa.string())])


def _rows(count: int = 6) -> list[dict[str, object]]:
  return [{'bytes': picture(seed=i), 'path': None} for i in range(count)]


def _prepare(folder: pathlib.Path, source: str, *more: str) -> list[str]:
  return [
    '--config=configs/parquet.py',
    f'--config.data.source={source}',
    f'--config.data.path={folder}',
    '--config.data.test_split=',
    f'--out={folder}_out',
    *more,
  ]


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
    return _prepare(folder, 'parquet', *more)

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
    return _prepare(folder, 'parquet')

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


def _arrays(**arrays: object) -> BuildFn:
  """`prepare` of train.npz."""

  def build(folder: pathlib.Path) -> list[str]:
    np.savez(folder / 'train.npz', **arrays)
    return _prepare(folder, 'arrays')

  return build


IMAGES = np.stack([pixels(seed=i) for i in range(6)])


def _npy(name: str, data: bytes) -> BuildFn:
  def build(folder: pathlib.Path) -> list[str]:
    (folder / name).write_bytes(data)
    return _prepare(folder, 'arrays')

  return build


class Malicious:
  """Unpickled, it makes the folder `executed`, which the test looks for."""

  def __init__(self, folder: pathlib.Path):
    self._mark = str(folder / 'executed')

  def __reduce__(self) -> tuple[object, ...]:
    return os.mkdir, (self._mark,)


def _pickled_member(folder: pathlib.Path) -> list[str]:
  return _arrays(images=np.array([Malicious(folder)], object))(folder)


def _pickle_for_npz(folder: pathlib.Path) -> list[str]:
  return _npy('train.npz', pickle.dumps(Malicious(folder)))(folder)


def _pickled_npy(folder: pathlib.Path) -> list[str]:
  content = pickle.dumps(Malicious(folder))
  return _npy('train_images.npy', _header((1,), '|O') + content)(folder)


def _header(shape: tuple[int, ...], descr: str = '|u1') -> bytes:
  out = io.BytesIO()
  fields = {'descr': descr, 'fortran_order': False, 'shape': shape}
  np.lib.format.write_array_header_1_0(out, fields)
  return out.getvalue()


def _npz(member: bytes, *, size: int | None = None) -> bytes:
  """An .npz with one member; `size` is what the archive claims of it."""
  out = io.BytesIO()
  with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('images.npy', member)
  data = bytearray(out.getvalue())
  if size is not None:
    entry = data.index(b'PK\x01\x02')
    struct.pack_into('<I', data, entry + 24, size)
  return bytes(data)


def _zip64_bomb() -> bytes:
  """A member of 8 EB by its directory, in a kilobyte."""
  body = _header((1 << 40, 1024, 1024, 3))
  name, crc = b'images.npy', zlib.crc32(body)
  extra = struct.pack('<HHQQ', 1, 16, 1 << 63, len(body))
  local = b'PK\x03\x04' + struct.pack(
    '<HHHHHIIIHH', 45, 0, 0, 0, 0, crc, len(body), len(body), len(name), 0
  )
  local += name + body
  entry = b'PK\x01\x02' + struct.pack(
    '<HHHHHHIIIHHHHHII',
    *(45, 45, 0, 0, 0, 0, crc, 0xFFFFFFFF, 0xFFFFFFFF),
    *(len(name), len(extra), 0, 0, 0, 0, 0),
  )
  entry += name + extra
  end = b'PK\x05\x06' + struct.pack(
    '<HHHHIIH', 0, 0, 1, 1, len(entry), len(local), 0
  )
  return local + entry + end


def _tfds(*arguments: str) -> BuildFn:
  return lambda folder: [
    '--config=configs/cifar10.py',
    f'--out={folder / "out"}',
    *(a.format(folder=folder) for a in arguments),
  ]


PARQUET = [
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

ARRAYS = [
  Row(
    'pickled array',
    'prepare',
    _pickled_member,
    'allow_pickle=False',
  ),
  Row(
    'pickle for an .npz',
    'prepare',
    _pickle_for_npz,
    r'no \.npz file',
  ),
  Row(
    'pickled .npy',
    'prepare',
    _pickled_npy,
    'Python objects|allow_pickle',
  ),
  Row('floats', 'prepare', _arrays(images=IMAGES / 255), 'must be uint8'),
  Row(
    'arrays of NaN',
    'prepare',
    _arrays(images=np.full((2, 8, 8, 3), np.nan)),
    'must be uint8',
  ),
  Row(
    'two axes', 'prepare', _arrays(images=IMAGES[0, 0]), r'must be \[n, H, W'
  ),
  Row(
    'channels first',
    'prepare',
    _arrays(images=IMAGES.transpose(0, 3, 1, 2)),
    'channels come first',
  ),
  Row('no pictures', 'prepare', _arrays(images=IMAGES[:0]), 'it is empty'),
  Row(
    'five labels',
    'prepare',
    _arrays(images=IMAGES, labels=np.arange(5)),
    'one label for each',
  ),
  Row(
    'labels of -7',
    'prepare',
    _arrays(images=IMAGES, labels=np.full(6, -7)),
    'holds -7',
  ),
  Row(
    'labels of floats in arrays',
    'prepare',
    _arrays(images=IMAGES, labels=np.zeros(6)),
    'must be integers',
  ),
  Row(
    'labels of 10^12',
    'prepare',
    _arrays(images=IMAGES, labels=np.full(6, 10**12)),
    '1000000000000',
  ),
  Row('no images', 'prepare', _arrays(pictures=IMAGES), 'has no array images'),
  Row(
    'cut .npz',
    'prepare',
    _npy('train.npz', _npz(_header((9,)))[:-30]),
    r'no \.npz file',
  ),
  Row(
    'header that claims 10 TB',
    'prepare',
    _npy('train.npz', _npz(_header((10**10, 1000)))),
    r'\[10000000000, 1000\]',
  ),
  Row(
    'archive that claims 8 EB',
    'prepare',
    _npy('train.npz', _zip64_bomb()),
    'this machine',
  ),
  Row(
    'archive that claims 4 GB',
    'prepare',
    _npy('train.npz', _npz(_header((1, 2, 2, 3)), size=0xFFFFFFF0)),
    'train.npz.* cannot be read',
  ),
  Row(
    '.npy that claims 10 TB',
    'prepare',
    _npy('train_images.npy', _header((10**10, 1000))),
    'cannot be read',
  ),
  Row(
    'header that never ends',
    'prepare',
    _npy('train_images.npy', _header((1,)).replace(b'}', b'(')),
    'cannot be read',
  ),
  Row(
    'header that is a program',
    'prepare',
    _npy('train_images.npy', _header((1,)).replace(b"'|u1'", b'a.b()')),
    'cannot be read',
  ),
  Row('file for arrays', 'prepare', _npy('images.npy', b''), 'has neither'),
  Row(
    'empty array file',
    'prepare',
    _npy('train_images.npy', b''),
    'cannot be read',
  ),
]

TFDS = [
  Row(
    'unknown TFDS name',
    'prepare',
    _tfds('--config.data.name=cifra10'),
    "'cifra10' is not prepared",
    tensorflow=True,
  ),
  Row(
    'missing data_dir',
    'prepare',
    _tfds('--config.data.data_dir={folder}/nowhere'),
    'is not prepared in',
    tensorflow=True,
  ),
  Row(
    'TFDS name that leads out',
    'prepare',
    _tfds('--config.data.name=../../etc', '--config.data.data_dir={folder}'),
    'cannot be opened',
    tensorflow=True,
  ),
]

ROWS = [*PARQUET, *ARRAYS, *TFDS]
