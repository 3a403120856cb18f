"""Pictures that are none, are cut off, or claim what they do not hold."""

from __future__ import annotations

from collections.abc import Callable
import os
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image
import pyarrow as pa
import pyarrow.parquet as pq

from simclr_jax.data.sources import parquet_rows, parquet_schema
from tests.bad_inputs.row import (
  RUN,
  BuildFn,
  Row,
  encode,
  folder_run,
  picture,
  pictures,
  pixels,
  prepare,
)

SIDE = 100_000  # of a bomb: 30 GB of pixels


def png_bomb(side: int = SIDE) -> bytes:
  """As a PNG with the right checksums."""

  def chunk(kind: bytes, body: bytes) -> bytes:
    checked = kind + body
    size, crc = len(body), zlib.crc32(checked)
    return struct.pack('>I', size) + checked + struct.pack('>I', crc)

  header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + chunk(b'IDAT', zlib.compress(bytes(1000)))
    + chunk(b'IEND', b'')
  )


def jpeg_bomb(side: int = 65_500) -> bytes:
  """A JPEG has no more than 65,535 a side."""
  data = bytearray(picture('JPEG'))
  frame = data.index(b'\xff\xc0')
  data[frame + 5 : frame + 9] = struct.pack('>HH', side, side)
  return bytes(data)


def bmp_bomb(side: int = SIDE) -> bytes:
  """Side and height are 32 bits."""
  data = bytearray(picture('BMP'))
  data[18:26] = struct.pack('<ii', side, side)
  return bytes(data)


def gif_bomb(side: int = 65_500) -> bytes:
  """The screen and its one frame."""
  data = bytearray(picture('GIF'))
  data[6:10] = struct.pack('<HH', side, side)
  frame = data.index(b'\x2c')
  data[frame + 5 : frame + 9] = struct.pack('<HH', side, side)
  return bytes(data)


def webp_bomb(side: int = 16_383) -> bytes:
  """WebP (lossless) has 14 bits a side: the most is 268 megapixels."""
  data = bytearray(picture('WEBP', lossless=True))
  at = data.index(b'VP8L') + 9
  (word,) = struct.unpack_from('<I', data, at)
  word = word & ~0xFFFFFFF | (side - 1) | (side - 1) << 14
  struct.pack_into('<I', data, at, word)
  return bytes(data)


def tiff_bomb(side: int = SIDE) -> bytes:
  """Not a format that is read, whatever it claims."""
  return b'II*\0\x08\0\0\0\x02\0' + b''.join(
    struct.pack('<HHII', tag, 4, 1, side) for tag in (256, 257)
  )


def _only(data: bytes | Callable[[], bytes], name: str = 'a.jpg') -> BuildFn:
  """`prepare` of a folder with this one file."""

  def build(folder: pathlib.Path) -> list[str]:
    root = folder / 'pictures'
    root.mkdir()
    (root / name).write_bytes(data() if callable(data) else data)
    return prepare(folder, root)

  return build


def _among(
  data: bytes | Callable[[], bytes], name: str, *, count: int = 4
) -> BuildFn:
  """`prepare` of a folder with sound pictures too."""

  def build(folder: pathlib.Path) -> list[str]:
    root = pictures(folder, count=count)
    (root / name).write_bytes(data() if callable(data) else data)
    return prepare(folder, root, '--config.data.max_bad_fraction=0.5')

  return build


def checked_file(folder: pathlib.Path, data: bytes, *, split: str) -> None:
  """A Parquet file that says `prepare` had decoded its pictures."""
  seeds = [10 * len(split) + i for i in range(3)]
  found = [data, *(picture(seed=seed) for seed in seeds)]
  kind = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
  schema = pa.schema(
    [('image', kind), ('label', pa.int64()), ('id', pa.string())]
  ).with_metadata({'simclr_jax': '{"checked": true, "num_classes": 4}'})
  columns = {
    'image': [{'bytes': p, 'path': None} for p in found],
    'label': range(4),
    'id': [f'{split} {i}' for i in range(4)],
  }
  sizes = np.array([len(p) for p in found])
  crcs = np.array([zlib.crc32(p) for p in found], np.uint32)
  digest = parquet_rows.digest(sizes, crcs)
  with pq.ParquetWriter(folder / f'{split}.parquet', schema) as writer:
    writer.write_table(pa.table(columns, schema=schema))
    writer.add_key_value_metadata({parquet_schema.PICTURES_KEY: digest})


def _unchecked(data: bytes, loader: str) -> BuildFn:
  """`knn`, where only the loader itself can refuse the picture."""

  def build(folder: pathlib.Path) -> list[str]:
    for split in ('train', 'test'):
      checked_file(folder, data, split=split)
    return [
      f'--checkpoint={folder.parent / RUN}',
      f'--data.loader={loader}',
      '--data.source=parquet',
      f'--data.path={folder}',
      '--data.train_split=train',
      '--data.test_split=test',
    ]

  return build


def _fifo(folder: pathlib.Path) -> list[str]:
  root = pictures(folder)
  os.mkfifo(root / 'pipe.jpg')
  return prepare(folder, root, '--config.data.max_bad_fraction=0.5')


def _zeros(folder: pathlib.Path) -> list[str]:
  root = pictures(folder)
  (root / 'zeros.png').symlink_to('/dev/zero')
  return prepare(folder, root, '--config.data.max_bad_fraction=0.5')


def _sparse(folder: pathlib.Path) -> list[str]:
  root = pictures(folder)
  with open(root / 'sparse.png', 'wb') as file:
    file.truncate(1 << 42)
  return prepare(folder, root, '--config.data.max_bad_fraction=0.5')


def _panorama() -> bytes:
  return encode(Image.new('RGB', (20_000, 300), 'teal'), 'PNG')


def _half(form: str) -> bytes:
  data = picture(form)
  return data[: len(data) // 2]


def _corrupt_exif() -> bytes:
  exif = Image.Exif()
  exif[0x0112] = 6
  data = picture('JPEG', exif=exif)
  at = data.index(b'Exif')
  return data[: at + 8] + b'\xff' * 12 + data[at + 20 :]


def _animated() -> bytes:
  frames = [Image.fromarray(pixels(seed=i)).quantize(16) for i in range(3)]
  return encode(frames[0], 'GIF', save_all=True, append_images=frames[1:])


_TOO_LARGE = '178,?956,?970'
_SKIPPED = r'5 found, 4 readable, 1 skipped'
_READ = r'train: 5 pictures'
BOMBS = {
  'PNG': png_bomb(),
  'JPEG': jpeg_bomb(),
  'BMP': bmp_bomb(),
  'GIF': gif_bomb(),
  'WebP': webp_bomb(),
}

ROWS = [
  *(
    Row(f'{form} bomb', 'prepare', _only(data), _TOO_LARGE)
    for form, data in BOMBS.items()
  ),
  Row('TIFF bomb', 'prepare', _only(tiff_bomb), 'cannot identify'),
  Row(
    'bomb among others',
    'prepare',
    _among(png_bomb, 'bomb.png'),
    _SKIPPED,
    code=0,
  ),
  *(
    Row(
      f'{form} bomb in the OpenCV loader',
      'knn',
      _unchecked(data, 'opencv'),
      r'\(train 0\) cannot be read: .* 178,?956,?970',
    )
    for form, data in BOMBS.items()
  ),
  Row(
    'PNG bomb in the TensorFlow loader',
    'knn',
    _unchecked(png_bomb(), 'tf'),
    r'\(train 0\) cannot be read: .* 178,?956,?970',
    tensorflow=True,
  ),
  Row(
    'a program (EPS) in the OpenCV loader',
    'knn',
    _unchecked(encode(Image.fromarray(pixels()), 'EPS'), 'opencv'),
    r'\(train 0\) cannot be read: .*no known image format',
  ),
  Row(
    'cut off in the TensorFlow loader',
    'knn',
    _unchecked(_half('JPEG'), 'tf'),
    r'\(train 0\) cannot be read: ',
    tensorflow=True,
  ),
  Row('empty file', 'prepare', _only(b''), 'the file is empty'),
  Row('text for a JPEG', 'prepare', _only(b'<html>404'), 'a.jpg: Unidentified'),
  Row('cut JPEG', 'prepare', _only(_half('JPEG')), 'Truncated File Read'),
  Row('cut PNG', 'prepare', _only(_half('PNG'), 'a.png'), 'truncated'),
  Row('cut WebP', 'prepare', _only(_half('WEBP'), 'a.webp'), r'a\.webp: '),
  Row('cut GIF', 'prepare', _only(_half('GIF'), 'a.gif'), r'a\.gif: '),
  Row('cut BMP', 'prepare', _only(_half('BMP'), 'a.bmp'), 'truncated'),
  Row('only a header', 'prepare', _only(b'\xff\xd8\xff'), r'a\.jpg: '),
  Row(
    'EPS for a PNG', 'prepare', _only(b'%!PS-Adobe-3.0 EPSF', 'a.png'), 'a.png'
  ),
  Row(
    'a wrong extension is read',
    'prepare',
    _among(picture('PNG'), 'png.jpg'),
    _READ,
    code=0,
  ),
  Row(
    'one pixel is read',
    'prepare',
    _among(encode(Image.new('RGB', (1, 1)), 'PNG'), 'dot.png'),
    _READ,
    code=0,
  ),
  Row(
    'a panorama is read',
    'prepare',
    _among(_panorama, 'wide.png'),
    _READ,
    code=0,
  ),
  Row(
    'an animation is read', 'prepare', _among(_animated, 'b.gif'), _READ, code=0
  ),
  Row(
    'CMYK is read',
    'prepare',
    _among(encode(Image.fromarray(pixels()).convert('CMYK'), 'JPEG'), 'c.jpg'),
    _READ,
    code=0,
  ),
  Row(
    '16 bits are read',
    'prepare',
    _among(
      encode(Image.fromarray(pixels()[..., 0].astype(np.uint16) * 256), 'PNG'),
      'wide.png',
    ),
    _READ,
    code=0,
  ),
  Row(
    'odd EXIF',
    'prepare',
    _among(_corrupt_exif, 'exif.jpg'),
    'train: [45] pi',
    code=0,
  ),
  Row('pipe for a picture', 'prepare', _fifo, 'skipped 1: .*pipe', code=0),
  Row('endless device', 'prepare', _zeros, 'skipped 1: .*device', code=0),
  Row('4 TB of nothing', 'prepare', _sparse, 'skipped 1: .*# GiB', code=0),
  Row(
    'too many bad ones',
    'main',
    lambda folder: folder_run(
      folder, _among(b'', 'empty.png')(folder) and folder / 'pictures'
    ),
    r'1 of 5 pictures .* more than --config\.data\.max_bad_fraction = 0\.01',
  ),
]
