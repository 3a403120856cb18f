"""Height and width of an encoded image, from its first bytes alone."""

from __future__ import annotations

import io
import re
import struct

from PIL import Image

# More are refused before anything is decoded: a header of a few bytes may claim
# gigabytes. Twice Pillow's own MAX_IMAGE_PIXELS, where Pillow refuses too; a
# panorama of 20,000 x 8,900 passes.
MAX_PIXELS = 178_956_970
# Frames that state a size: SOF0 to SOF15 without DHT, JPG and DAC between them.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM, RST0 to RST7, SOI.
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


def image_size(encoded: bytes) -> tuple[int, int]:
  """(height, width) in pixels as stored, without EXIF orientation.

  JPEG, PNG and BMP take a few microseconds; others are left to Pillow.

  Raises:
    ValueError: If the bytes do not begin as an image, or it claims more than
      MAX_PIXELS.
  """
  try:
    if encoded[:2] == b'\xff\xd8':
      size = _jpeg_size(encoded)
    elif encoded[:8] == b'\x89PNG\r\n\x1a\n':
      width, height = struct.unpack_from('>II', encoded, 16)
      size = height, width
    elif encoded[:2] == b'BM':
      # A negative height says that rows go from top to bottom.
      width, height = struct.unpack_from('<ii', encoded, 18)
      size = abs(height), width
    else:
      size = _other_size(encoded)
  except struct.error as error:
    raise ValueError(f'the image header is cut off: {error}') from error
  if min(size) < 1:
    raise ValueError(f'the image header says {size[0]} x {size[1]} pixels')
  check_pixels(*size)
  return size


def check_pixels(height: int, width: int) -> None:
  """Raises ValueError if an image claims more than MAX_PIXELS."""
  if height * width > MAX_PIXELS:
    raise too_large(height * width)


def too_large(claim: object) -> ValueError:
  """Error about an image of too many pixels.

  Args:
    claim: Number of pixels, or Pillow's error, whose first number it is.
  """
  (claimed, *_) = re.findall(r'\d+', str(claim))
  return ValueError(
    f'the image header says {int(claimed):,} pixels; more than {MAX_PIXELS:,} '
    'are not decoded, because a few such images fill the memory: shrink it or '
    'cut it into tiles (or its header is damaged)'
  )


def _jpeg_size(encoded: bytes) -> tuple[int, int]:
  place = 2
  while True:
    # Any number of 0xFF may stand before a marker.
    if struct.unpack_from('B', encoded, place)[0] != 0xFF:
      raise ValueError(f'no JPEG marker at byte {place}')
    (marker,) = struct.unpack_from('B', encoded, place + 1)
    if marker == 0xFF:
      place += 1
    elif marker in _JPEG_BARE:
      place += 2
    elif marker in _JPEG_FRAMES:
      height, width = struct.unpack_from('>HH', encoded, place + 5)
      return height, width
    elif marker in (0xD9, 0xDA):
      raise ValueError('the JPEG has pixels, or ends, before its size')
    else:
      place += 2 + struct.unpack_from('>H', encoded, place + 2)[0]


def _other_size(encoded: bytes) -> tuple[int, int]:
  try:
    # All that is left: Pillow's other formats include programs (EPS).
    with Image.open(io.BytesIO(encoded), formats=('GIF', 'WEBP')) as image:
      return image.height, image.width
  except Image.DecompressionBombError as error:
    raise too_large(error) from error
  except Exception as error:  # Pillow raises whatever its plug-ins do.
    raise ValueError(
      f'no known image format, or a damaged header: {error}'
    ) from error
