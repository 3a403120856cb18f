"""Arrays and TFDS data sets that are not what they should be."""

from __future__ import annotations

import io
import os
import pathlib
import pickle
import struct
import zipfile
import zlib

import numpy as np

from tests.bad_inputs.row import (
  BuildFn,
  Row,
  pixels,
  prepare_table,
)


def _arrays(**arrays: object) -> BuildFn:
  """`prepare` of train.npz."""

  def build(folder: pathlib.Path) -> list[str]:
    np.savez(folder / 'train.npz', **arrays)
    return prepare_table(folder, 'arrays')

  return build


IMAGES = np.stack([pixels(seed=i) for i in range(6)])


def _npy(name: str, data: bytes) -> BuildFn:
  def build(folder: pathlib.Path) -> list[str]:
    (folder / name).write_bytes(data)
    return prepare_table(folder, 'arrays')

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

ROWS = [*ARRAYS, *TFDS]
