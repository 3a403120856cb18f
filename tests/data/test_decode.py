"""Pixels equal to Pillow's and TensorFlow's; damage is noticed."""

import io

import numpy as np
from PIL import Image
import pytest

pytest.importorskip('cv2')

from simclr_jax.data import stream
from simclr_jax.data.decode import decode
from simclr_jax.data.lazy_tf import tf


def picture(mode='RGB', size=(61, 43)):
  rng = np.random.default_rng(0)
  small = Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8))
  return small.resize(size, Image.Resampling.BICUBIC).convert(mode)


def encode(image, image_format, **options):
  out = io.BytesIO()
  image.save(out, image_format, **options)
  return out.getvalue()


def pixels(encoded):
  return np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))


@pytest.mark.parametrize('subsampling', [0, 1, 2])
@pytest.mark.parametrize('mode', ['RGB', 'L'])
@pytest.mark.parametrize('progressive', [False, True])
def test_jpegs_are_pillows_bit_for_bit(subsampling, mode, progressive):
  for quality in (30, 75, 95):
    encoded = encode(
      picture(mode),
      'JPEG',
      quality=quality,
      subsampling=subsampling,
      progressive=progressive,
    )
    np.testing.assert_array_equal(decode(encoded), pixels(encoded))


@pytest.mark.parametrize('image_format', ['JPEG', 'PNG', 'BMP', 'GIF'])
@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_formats_are_tensorflows(image_format, mode):
  encoded = encode(picture(mode), image_format)
  expected = stream.decode(tf.constant(encoded)).numpy()
  got = decode(encoded)
  assert got.dtype == np.uint8 and got.shape == (43, 61, 3)
  np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', '1', 'I;16'])
def test_unusual_pngs_are_tensorflows(mode):
  if mode == 'I;16':
    wide = np.arange(43 * 61, dtype=np.uint16).reshape(43, 61) * 24
    image = Image.fromarray(wide)
  elif 'A' in mode:
    image = picture(mode)
    image.putalpha(100)
  else:
    image = picture(mode)
  encoded = encode(image, 'PNG')
  expected = stream.decode(tf.constant(encoded)).numpy()
  np.testing.assert_array_equal(decode(encoded), expected)


def test_orientation_is_not_applied():
  exif = Image.Exif()
  exif[0x0112] = 6
  encoded = encode(picture(), 'JPEG', exif=exif)
  assert decode(encoded).shape == (43, 61, 3)


@pytest.mark.parametrize('image_format', ['JPEG', 'PNG', 'BMP', 'GIF'])
@pytest.mark.parametrize('kept', [0.3, 0.9])
def test_a_cut_picture_is_refused(image_format, kept):
  encoded = encode(picture(), image_format)
  with pytest.raises(ValueError):
    decode(encoded[: int(len(encoded) * kept)])


@pytest.mark.parametrize('progressive', [False, True])
def test_a_jpeg_whose_tail_is_zeros_is_refused(progressive):
  encoded = encode(picture(), 'JPEG', progressive=progressive)
  half = len(encoded) * 3 // 4
  with pytest.raises(ValueError, match='no end marker'):
    decode(encoded[:half] + bytes(len(encoded) - half))
  # The end of a thumbnail within is not the end of the picture.
  thumbnail = b'\xff\xe1\x00\x06\xff\xd9\x00\x00'
  inside = encoded[:2] + thumbnail + encoded[2:]
  np.testing.assert_array_equal(decode(inside), pixels(encoded))
  with pytest.raises(ValueError, match='no end marker'):
    decode(inside[:half] + bytes(len(inside) - half))


@pytest.mark.parametrize('image_format', ['JPEG', 'PNG', 'BMP', 'GIF'])
def test_a_few_bytes_of_a_picture_are_refused(image_format):
  encoded = encode(picture(), image_format)
  for size in range(32):
    with pytest.raises(ValueError):
      decode(encoded[:size])


def test_what_is_no_picture_is_refused():
  with pytest.raises(ValueError):
    decode(b'\xff\xd8\xff nothing')
  with pytest.raises(ValueError):
    decode(b'')
