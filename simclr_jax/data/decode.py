"""Encoded pictures to pixels without TensorFlow."""

from __future__ import annotations

import numpy as np

from simclr_jax.data import image_header, plain_image
from simclr_jax.data.lazy_cv2 import cv2

_JPEG = b'\xff\xd8\xff'
_PNG = b'\x89PNG\r\n\x1a\n'
_BMP = b'BM'


def decode(encoded: bytes) -> np.ndarray:
  """Encoded bytes -> uint8 [H, W, 3] of their own size.

  Equal to Pillow's pixels, as are those of `stream.decode` (JPEGs by the
  accurate DCT, bit for bit). As there, EXIF orientation is not applied, alpha
  is dropped, an animation is its first frame.

  Raises:
    ValueError: If the bytes are cut off, damaged, of another format, or claim
      more pixels than image_header.MAX_PIXELS.
  """
  image_header.image_size(encoded)
  if encoded[:3] == _JPEG:
    plain_image.check_jpeg_end(encoded)
  if _is_common(encoded):
    try:
      image = cv2.imdecode(
        np.frombuffer(encoded, np.uint8),
        cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION,
      )
    except cv2.error as error:  # Limits of its own, as a side of 2**20 pixels.
      raise ValueError(' '.join(str(error).split())) from error
    if image is None:
      raise ValueError('the picture is cut off or damaged')
    return image
  return decode_with_pillow(encoded)


def _is_common(encoded: bytes) -> bool:
  """Whether OpenCV decodes it exactly as Pillow does, only faster."""
  if encoded[:8] == _PNG:
    # 8 bits, grey or RGB, without a transparent colour.
    return encoded[24:26] in (b'\x08\x00', b'\x08\x02')
  if encoded[:2] == _BMP:
    return encoded[28:29] == b'\x18'
  return encoded[:3] == _JPEG


def decode_with_pillow(encoded: bytes) -> np.ndarray:
  """As `decode`, without OpenCV."""
  if encoded[:3] == _JPEG:
    plain_image.check_jpeg_end(encoded)
  try:
    with plain_image.open_image(encoded) as image:
      if image.mode.startswith('I'):
        wide = np.asarray(image).astype(np.int64)
        high = (wide.clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(high[..., None], 3, axis=-1)
      return np.asarray(image.convert('RGB'))
  except Exception as error:  # Pillow raises whatever its plug-ins do.
    raise ValueError(str(error)) from error
