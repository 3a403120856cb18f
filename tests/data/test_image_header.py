"""Image sizes from headers, against Pillow."""

import io

import numpy as np
from PIL import Image
import pytest

from simclr_jax.data import image_header


def encode(height, width, kind, **options):
  pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3))
  out = io.BytesIO()
  Image.fromarray(pixels.astype(np.uint8)).save(out, kind, **options)
  return out.getvalue()


@pytest.mark.parametrize('size', [(1, 1), (7, 300), (301, 5)])
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'BMP', 'GIF', 'WEBP'])
def test_size(kind, size):
  assert image_header.image_size(encode(*size, kind)) == size


@pytest.mark.parametrize(
  'options',
  [
    {'progressive': True},
    {'exif': b'Exif\0\0' + bytes(30_000)},
    {'comment': b'\xff\xc0 no frame \xff\xd9'},
    {'icc_profile': bytes(range(256)) * 400},
    {'optimize': True, 'quality': 20},
  ],
)
def test_jpeg_with_segments_before_its_frame(options):
  assert image_header.image_size(encode(9, 14, 'JPEG', **options)) == (9, 14)


def test_fill_bytes_before_a_jpeg_marker():
  plain = encode(9, 14, 'JPEG')
  filled = plain[:2] + b'\xff\xff' + plain[2:]
  assert image_header.image_size(filled) == (9, 14)
  assert Image.open(io.BytesIO(filled)).size == (14, 9)


def test_bmp_from_top_to_bottom():
  plain = bytearray(encode(9, 14, 'BMP'))
  plain[22:26] = (-9).to_bytes(4, 'little', signed=True)
  assert image_header.image_size(bytes(plain)) == (9, 14)


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'nothing at all',
    encode(9, 14, 'JPEG')[:30],
    encode(9, 14, 'JPEG')[:3],
    encode(9, 14, 'PNG')[:20],
    encode(9, 14, 'BMP')[:20],
    b'\xff\xd8' + bytes(50),
    b'\xff\xd8\xff\xd9',
    encode(9, 14, 'PNG')[:16] + bytes(8),
    # 65535 x 65535 pixels: Pillow's DecompressionBombError.
    b'GIF89a' + b'\xff' * 4 + encode(9, 14, 'GIF')[10:],
    encode(9, 14, 'WEBP')[:24],
    encode(9, 14, 'GIF')[:8],
  ],
)
def test_what_has_no_size_is_refused(data):
  with pytest.raises(ValueError):
    image_header.image_size(data)
