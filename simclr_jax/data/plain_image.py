"""Any picture Pillow reads -> bytes that TensorFlow decodes to the same pixels.

TensorFlow knows no EXIF orientation, no CMYK or 16-bit conversion, no WebP, and
drops an alpha channel. Pictures with any of these are decoded here and handed
on as BMP: lossless, and written 80 times faster than PNG at its fastest (0.2 ms
against 16 ms for 500 x 375).

- Orientation as EXIF says, by its number alone.
- Alpha, also of palettes, is composited on white.
- CMYK and other colour spaces as Pillow converts them, without ICC profiles.
- 16 bits become the upper 8 of the bits in use (`config.data.bits`).
- Of an animation the first frame.
- What follows the end of an image (the video of a phone, a gain map) is
  ignored.
"""

from __future__ import annotations

import io
import re
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError, WebPImagePlugin

from simclr_jax.data import image_header, other_files, png_chunks

# What Pillow tries; it loads plug-ins beyond the commonest only when asked.
# JPEG covers the multi-picture files of cameras, which it then calls 'MPO'.
FORMATS = ('JPEG', 'PNG', WebPImagePlugin.WebPImageFile.format, 'BMP', 'GIF')
_EXIF_ORIENTATION = 0x0112
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# Neither a byte 0xFF of the pixels nor a restart between them.
_JPEG_MARKER = re.compile(rb'\xff[^\x00\xff\xd0-\xd7]', re.DOTALL)
_JPEG_SCAN, _JPEG_END = b'\xff\xda', b'\xff\xd9'
# Others are reserved: what looks like one is data of another kind.
_JPEG_KNOWN = frozenset({0x01, *range(0xC0, 0xD0), *range(0xD9, 0xF0), 0xFE})


class Inspection(NamedTuple):
  """What a picture is.

  Attributes:
    format: One of FORMATS, or 'MPO'.
    width: Pixels, as stored.
    height: Pixels, as stored.
    plain: TensorFlow decodes the bytes to the right pixels as they are.
    highest: Largest colour value of a 16-bit image; 0 where there are 8 bits.
  """

  format: str
  width: int
  height: int
  plain: bool
  highest: int = 0


def inspect(data: bytes) -> Inspection:
  """Decodes a picture to the end and says what it is.

  Raises:
    ValueError: If it is empty, of more than image_header.MAX_PIXELS, a JPEG
      without an end or a PNG whose pixels do not have their checksums.
    Exception: Whatever Pillow raises for damaged or unknown data.
  """
  with open_image(data) as image:
    image.load()
    regular = _is_sized(data, image)
    if image.format in ('JPEG', 'MPO'):
      check_jpeg_end(data)
      regular = regular and _reaches_end(data)
    if image.format == 'PNG':
      regular = png_chunks.is_regular(data) and regular
    width, height = image.size
    highest = 0
    if _is_deep(image, data):
      values, _ = _split_alpha(_deep_values(data))
      highest = int(values.max())
    return Inspection(
      str(image.format),
      width,
      height,
      plain=regular and _is_plain(image, data),
      highest=highest,
    )


def check_jpeg_end(data: bytes) -> None:
  """Refuses a JPEG whose last scan no end marker follows.

  Pillow and OpenCV take the zeros at the end of a half-copied file for grey
  pixels; TensorFlow refuses them.

  Raises:
    ValueError: If the end is missing.
  """
  # Nearly every file ends with its end marker, so few bytes are searched. A
  # scan behind the last one may be a byte pair of what was appended: only the
  # walk from segment to segment tells.
  behind_end = data.find(_JPEG_SCAN, max(data.rfind(_JPEG_END), 0)) >= 0
  if behind_end and not _reaches_end(data):
    raise ValueError('the JPEG is truncated: it has no end marker')


def to_plain(data: bytes, bits: int = 16) -> bytes:
  """The image as 24-bit BMP; see the top of this file for the rules.

  Args:
    data: Encoded.
    bits: Bits in use of 16-bit images, 8 to 16 (`config.data.bits`).

  Raises:
    Exception: As `inspect`.
  """
  with open_image(data) as image:
    image.load()
    out = io.BytesIO()
    _to_rgb(image, data, bits).save(out, 'BMP')
    return out.getvalue()


def open_image(data: bytes) -> Image.Image:
  """The picture, not decoded yet.

  Raises:
    Exception: Whatever Pillow's plug-ins do; with a text for people where the
      format is unknown.
  """
  if not data:
    raise ValueError('the file is empty')
  try:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
  except UnidentifiedImageError as error:
    # Pillow names the buffer, by its address.
    known = f'{", ".join(FORMATS[:-1])} or {FORMATS[-1]}'
    other = other_files.format_of(data)
    raise UnidentifiedImageError(
      f'cannot identify the picture as {known}'
      + (f': it is {other}, which has to be converted' if other else '')
    ) from error
  except Image.DecompressionBombError as error:
    raise image_header.too_large(error) from error
  image_header.check_pixels(image.height, image.width)
  return image


def _is_sized(data: bytes, image: Image.Image) -> bool:
  """Whether the loaders, which read the size from the header, find the same."""
  try:
    return image_header.image_size(data) == (image.height, image.width)
  except ValueError:
    return False


def _reaches_end(data: bytes) -> bool:
  """Whether the segments of a JPEG lead to its end marker.

  Pillow stops at the last pixel; where a segment behind it covers the end,
  TensorFlow goes on and fails.
  """
  place = 2
  while marker := _JPEG_MARKER.search(data, place):
    code = data[marker.start() + 1]
    if code == _JPEG_END[1]:
      return True
    if code not in _JPEG_KNOWN:
      return False
    place = marker.end()
    if code > 1:
      place += int.from_bytes(data[place : place + 2], 'big')
  return False


def _orientation(image: Image.Image) -> int:
  """EXIF orientation, 1 to 8; 1 where there is none that can be read.

  Nothing else of the EXIF block is read: cameras and programs leave odd values
  in it, which do not concern the pixels.
  """
  try:
    value = image.getexif().get(_EXIF_ORIENTATION, 1)
  except Exception:  # Pillow raises nearly anything for a damaged block.
    return 1
  if isinstance(value, bytes) and len(value) == 1:  # The type BYTE.
    value = value[0]
  return int(value) if value in _TURNS else 1


def _is_plain(image: Image.Image, data: bytes) -> bool:
  if _orientation(image) != 1:
    return False
  if image.format in ('JPEG', 'MPO'):
    return image.mode in ('L', 'RGB')
  if image.format == 'PNG':
    bit_depth, color_type = data[24], data[25]
    return (
      bit_depth == 8
      and color_type in (0, 2)  # grey, RGB
      and not image.has_transparency_data
      and not getattr(image, 'is_animated', False)
    )
  return False


def _is_deep(image: Image.Image, data: bytes) -> bool:
  return image.format == 'PNG' and data[24] == 16


def _deep_values(data: bytes) -> np.ndarray:
  """uint16 [H, W, C] of a 16-bit PNG: grey, grey and alpha, RGB or RGBA.

  Pillow keeps the high bytes of colour alone, so the low ones are read by
  naming the other byte order.
  """

  def unpacked(form: str) -> np.ndarray:
    image: Any
    with open_image(data) as image:
      image.tile = [tile._replace(args=form) for tile in image.tile]
      return np.asarray(image)

  color_type = data[25]
  if color_type == 0:
    return unpacked('I;16B')[..., None]
  if color_type == 4:  # Four bytes a pixel, of two values.
    return unpacked('RGBA').view('>u2').astype(np.uint16)
  form = {2: 'RGB', 6: 'RGBA'}[color_type]
  high = unpacked(f'{form};16B').astype(np.uint16)
  return high << 8 | unpacked(f'{form};16L')


def _split_alpha(
  values: np.ndarray,
) -> tuple[np.ndarray, np.ndarray | None]:
  """Colour [H, W, 1 or 3], and alpha [H, W, 1] where there is one."""
  if values.shape[-1] % 2:
    return values, None
  return values[..., :-1], values[..., -1:]


def _narrow(image: Image.Image, data: bytes, bits: int) -> Image.Image:
  """A 16-bit PNG as RGB or RGBA of 8 bits; what is brighter is white."""
  color, alpha = _split_alpha(_deep_values(data))
  if (key := image.info.get('transparency')) is not None:
    alpha = np.where((color == key).all(-1, keepdims=True), 0, 65535)
  shape = (*color.shape[:2], 3)
  channels = [np.broadcast_to(np.minimum(color >> bits - 8, 255), shape)]
  if alpha is not None:
    channels.append(alpha >> 8)
  return Image.fromarray(np.concatenate(channels, -1).astype(np.uint8))


def _to_rgb(image: Image.Image, data: bytes, bits: int) -> Image.Image:
  turn = _TURNS.get(_orientation(image))
  if _is_deep(image, data):
    image = _narrow(image, data, bits)
  if turn is not None:
    image = image.transpose(turn)
  if not image.has_transparency_data:
    return image.convert('RGB')
  rgba = image.convert('RGBA')
  white = Image.new('RGBA', rgba.size, 'white')
  return Image.alpha_composite(white, rgba).convert('RGB')
