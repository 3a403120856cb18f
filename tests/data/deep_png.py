"""16-bit PNGs, written by hand: Pillow writes grey ones alone."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def encode(pixels: np.ndarray, transparent: bytes = b'') -> bytes:
  """PNG of uint16 [H, W, C]: grey, grey and alpha, RGB or RGBA.

  Args:
    pixels: Values.
    transparent: Body of the tRNS chunk, if any.
  """

  def chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(kind + body)
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', crc)

  height, width, channels = pixels.shape
  header = struct.pack(
    '>IIBBBBB', width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0
  )
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + (chunk(b'tRNS', transparent) if transparent else b'')
    + chunk(b'IDAT', zlib.compress(rows))
    + chunk(b'IEND', b'')
  )
