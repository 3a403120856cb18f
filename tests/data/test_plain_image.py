"""What the scan of a folder accepts, TensorFlow must decode to those pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from simclr_jax.data import image_header, plain_image, stream
from simclr_jax.data.lazy_tf import tf


def _picture(mode='RGB'):
  rng = np.random.Generator(np.random.PCG64(0))
  small = Image.fromarray(rng.integers(0, 256, (4, 5, 3)).astype(np.uint8))
  return small.resize((30, 20), Image.Resampling.BILINEAR).convert(mode)


def _encode(image, kind, **options):
  out = io.BytesIO()
  image.save(out, kind, **options)
  return out.getvalue()


def _check_decodes(data, *, tolerance=0):
  """Decodes what `inspect` accepts; whether it is handed on as it is."""
  plain = plain_image.inspect(data).plain
  given = data if plain else plain_image.to_plain(data)
  with Image.open(io.BytesIO(data)) as image:
    want = np.asarray(image.convert('RGB'))
  found = stream.decode(tf.constant(given)).numpy()
  assert found.shape[:2] == want.shape[:2]
  assert np.abs(found.astype(int) - want).max() <= tolerance
  return plain


def _chunks(png):
  """[(kind, body)] of a PNG."""
  out, at = [], 8
  while at < len(png):
    length = struct.unpack('>I', png[at : at + 4])[0]
    out.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
    at += 12 + length
  return out


def _join(chunks):
  out = b'\x89PNG\r\n\x1a\n'
  for kind, body in chunks:
    crc = struct.pack('>I', zlib.crc32(kind + body))
    out += struct.pack('>I', len(body)) + kind + body + crc
  return out


PNG = _encode(_picture(), 'PNG')
HEADER, PIXELS, END = _chunks(PNG)


def test_the_chunks_of_this_test_are_pillows():
  assert _join([HEADER, PIXELS, END]) == PNG
  assert [HEADER[0], PIXELS[0], END[0]] == [b'IHDR', b'IDAT', b'IEND']


@pytest.mark.parametrize(
  'data',
  [
    PNG,
    PNG + b'appended by some program',
    _encode(_picture('L'), 'PNG'),
    _join([HEADER, (b'tEXt', b'Title\0x'), PIXELS, END]),
    _join(
      [HEADER, (b'IDAT', PIXELS[1][:9]), (b'IDAT', PIXELS[1][9:]), END],
    ),
    # More than a chunk of Pillow's and more than a piece of ours.
    _encode(
      Image.fromarray(
        np.random.Generator(np.random.PCG64(1))
        .integers(0, 256, (700, 700, 3))
        .astype(np.uint8)
      ),
      'PNG',
      compress_level=1,
    ),
    _encode(Image.new('RGB', (1500, 1500)), 'PNG'),
  ],
  ids=['rgb', 'tail', 'grey', 'text', 'split', 'large', 'much in few bytes'],
)
def test_whole_pngs_are_handed_on(data):
  assert _check_decodes(data)


@pytest.mark.parametrize(
  'data',
  [
    *(PNG[:-n] for n in range(1, 13)),
    PNG[:-1] + bytes([PNG[-1] ^ 1]),
    _join([HEADER, PIXELS]),
    _join([HEADER, PIXELS, (b'ABCD', b'critical'), END]),
    _join([HEADER, (b'IDAT', PIXELS[1] + b'more'), END]),
    _join([HEADER, PIXELS, (b'tEXt', b'Title\0x'), (b'IDAT', b''), END]),
  ],
)
def test_pngs_with_odd_surroundings_are_converted(data):
  assert not _check_decodes(data)


@pytest.mark.parametrize(
  'data',
  [
    *(PNG[:-n] for n in range(13, 30)),
    # The checksum of the chunk, of the stream, and the middle of the pixels.
    PNG[:-13] + bytes([PNG[-13] ^ 1]) + PNG[-12:],
    _join([HEADER, (b'IDAT', PIXELS[1][:-1] + b'\xaa'), END]),
    _join([HEADER, (b'IDAT', PIXELS[1][:-4]), END]),
    PNG[:300] + bytes([PNG[300] ^ 4]) + PNG[301:],
  ],
)
def test_pngs_with_damaged_pixels_are_refused(data):
  # Pillow's own words where it notices.
  with pytest.raises(
    (ValueError, OSError, SyntaxError), match='truncated|damaged|broken'
  ):
    plain_image.inspect(data)


@pytest.mark.parametrize(
  'whole',
  [
    PNG,
    _encode(_picture('L'), 'PNG'),
    _encode(_picture('P'), 'PNG'),
    _encode(_picture(), 'JPEG'),
    _encode(_picture('L'), 'JPEG'),
    _encode(_picture(), 'JPEG', progressive=True),
    _encode(_picture(), 'JPEG', subsampling=0),
  ],
  ids=['png', 'grey', 'palette', 'jpeg', 'grey jpeg', 'progressive', '444'],
)
def test_what_is_accepted_decodes(whole):
  """Bytes cut off at the end or changed anywhere."""
  # JPEG has no checksums. Of a progressive one with damaged scans libjpeg
  # smooths blocks, each of its versions a little differently.
  tolerance = 0 if b'\xff\xc2' not in whole else 32
  rng = np.random.Generator(np.random.PCG64(2))
  refused = 0
  for number in range(150):
    data = bytearray(whole)
    if number % 3 == 0:
      del data[-int(rng.integers(1, 40)) :]
    else:
      for _ in range(int(rng.integers(1, 4))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    try:
      plain_image.inspect(bytes(data))
    # Damaged data raise nearly anything; it is a refusal, whatever it says.
    except Exception:
      refused += 1
    else:
      _check_decodes(bytes(data), tolerance=tolerance)
  assert 0 < refused < 150


def test_a_jpeg_whose_size_only_pillow_finds_is_converted():
  """Bytes between two segments: libjpeg skips them, the header reader stops."""
  whole = _encode(_picture(), 'JPEG')
  first = whole.index(b'\xff\xdb')
  odd = whole[:first] + b'\0' + whole[first:]
  with pytest.raises(ValueError, match='no JPEG marker'):
    image_header.image_size(odd)
  assert not _check_decodes(odd)
  assert _check_decodes(whole)


def test_a_jpeg_whose_end_a_segment_covers_is_converted():
  whole = _encode(_picture(), 'JPEG')
  covered = whole[:-2] + b'\xff\xe6\x40\x00' + bytes(40) + b'\xff\xd9'
  assert not _check_decodes(covered)
  restarts = _encode(_picture(), 'JPEG', restart_marker_blocks=1)
  assert b'\xff\xd0' in restarts and _check_decodes(restarts)
