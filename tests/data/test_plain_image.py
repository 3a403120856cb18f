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


# A scan's marker behind the image: what follows the end of the image ends
# nothing.
_VIDEO = b'\0\0\0\x18ftypmp42' + bytes(range(256)) * 8 + b'\xff\xda\xff\xd8'


@pytest.mark.parametrize(
  'tail', [_VIDEO, _encode(_picture('L'), 'JPEG')[:-300]], ids=['video', 'cut']
)
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'GIF', 'BMP'])
def test_an_image_ends_where_its_own_end_stands(kind, tail):
  image = _picture('P' if kind == 'GIF' else 'RGB')
  assert _check_decodes(_encode(image, kind) + tail) == (kind in 'JPEG PNG')


@pytest.mark.parametrize('progressive', [False, True])
def test_a_jpeg_cut_anywhere_is_refused(progressive):
  whole = _encode(_picture(), 'JPEG', progressive=progressive)
  thumbnail = b'\xff\xe1\x00\x06\xff\xd9\x00\x00'
  plain_image.check_jpeg_end(whole[:2] + thumbnail + whole[2:] + _VIDEO)
  for data in (whole, whole[:2] + thumbnail + whole[2:]):
    for size in range(data.index(b'\xff\xda'), len(data) - 1, 7):
      for end in (b'', bytes(99)):
        with pytest.raises((ValueError, OSError)):
          plain_image.inspect(data[:size] + end)


def _exif(*entries, order='<'):
  """EXIF block of (tag, type, count, 4 bytes), type 3 being SHORT."""
  rows = [struct.pack(f'{order}HHI', *e[:3]) + e[3] for e in entries]
  head = {'<': b'II*\0\x08\0\0\0', '>': b'MM\0*\0\0\0\x08'}[order]
  count = struct.pack(f'{order}H', len(rows))
  return b'Exif\0\0' + head + count + b''.join(rows) + bytes(4)


_TURNED = (0x112, 3, 1, struct.pack('<HH', 6, 0))


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize(
  'exif',
  [
    _exif(_TURNED, (0x11A, 2, 4, b'abc\0')),  # Resolution as text.
    _exif(_TURNED, (0x128, 2, 4, b'abc\0')),
    _exif(_TURNED, (0x128, 4, 1, struct.pack('<I', 100_000))),
    _exif(_TURNED, (0x8769, 4, 1, b'\xff' * 4)),  # A block beyond the end.
    _exif((0x112, 4, 1, struct.pack('<I', 6))),
    _exif((0x112, 1, 1, b'\6\0\0\0')),
    _exif((0x112, 3, 1, struct.pack('>HH', 6, 0)), order='>'),
  ],
  ids=['resolution', 'unit', 'large', 'beyond', 'long', 'byte', 'big-endian'],
)
def test_orientation_is_read_by_its_number_alone(kind, exif):
  """What the check accepts, the reader turns."""
  data = _encode(_picture(), kind, exif=exif)
  assert not plain_image.inspect(data).plain
  assert Image.open(io.BytesIO(plain_image.to_plain(data))).size == (20, 30)


@pytest.mark.parametrize('value', [0, 1, 9, 300])
def test_an_orientation_that_is_none_turns_nothing(value):
  exif = _exif((0x112, 3, 1, struct.pack('<HH', value, 0)))
  assert _check_decodes(_encode(_picture(), 'JPEG', exif=exif))


@pytest.mark.parametrize('kind', ['PNG', 'GIF', 'WEBP'])
def test_too_many_pixels_are_refused_in_our_words(kind, monkeypatch):
  monkeypatch.setattr(image_header, 'MAX_PIXELS', 200)
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  for look in (plain_image.inspect, image_header.image_size):
    with pytest.raises(ValueError, match='600 pixels; more than 200 .*tiles'):
      look(_encode(_picture('P' if kind == 'GIF' else 'RGB'), kind))
