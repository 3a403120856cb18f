"""Whether a PNG is whole, by its checksums.

Pillow skips the checksums of the pixels and does not miss what stands behind
the last row. TensorFlow (libpng) checks everything and refuses such a file, in
the middle of a training run.

Format: Portable Network Graphics, W3C Recommendation, sections 5 and 10.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import struct
from typing import NamedTuple
import zlib

_SIGNATURE_BYTES = 8
_CRITICAL = (b'IHDR', b'PLTE', b'IDAT', b'IEND')
_PIECE = 1 << 20  # bytes inflated at a time


class _Chunk(NamedTuple):
  kind: bytes
  body: memoryview
  whole: bool  # Neither cut off nor with a wrong checksum.


def is_regular(data: bytes) -> bool:
  """Whether libpng reads it to the end without an objection.

  Where this is False the pixels are right all the same: only what stands around
  them is cut off or odd.

  Args:
    data: A PNG that Pillow decodes.

  Raises:
    ValueError: If header, palette or pixels do not have their checksums, so
      that nobody can say what the picture was.
  """
  chunks = list(_chunks(data))
  for chunk in chunks:
    if not chunk.whole and chunk.kind in (b'IHDR', b'PLTE', b'IDAT'):
      raise ValueError(
        f'the PNG is truncated or damaged: its {chunk.kind.decode()} chunk has '
        'a wrong checksum or none'
      )
  ends_there = _check_pixels([c.body for c in chunks if c.kind == b'IDAT'])
  kinds = [chunk.kind for chunk in chunks]
  return (
    ends_there
    and all(chunk.whole for chunk in chunks)
    and kinds[-1] == b'IEND'
    and all(map(_is_known, kinds))
    and all(kinds.count(kind) <= 1 for kind in (b'IHDR', b'PLTE'))
    and _consecutive(kinds, b'IDAT')
  )


def _chunks(data: bytes) -> Iterator[_Chunk]:
  """All chunks up to IEND; what some programs append to it is no harm."""
  view = memoryview(data)
  at = _SIGNATURE_BYTES
  while at < len(data):
    head = data[at : at + 8]
    if len(head) < 8:
      yield _Chunk(head[4:], view[:0], whole=False)
      return
    length = struct.unpack('>I', head[:4])[0]
    kind = head[4:]
    body = view[at + 8 : at + 8 + length]
    checksum = data[at + 8 + length : at + 12 + length]
    wanted = struct.pack('>I', zlib.crc32(body, zlib.crc32(kind)))
    yield _Chunk(kind, body, whole=checksum == wanted)
    if kind == b'IEND':
      return
    at += 12 + length


def _check_pixels(bodies: Sequence[memoryview]) -> bool:
  """Raises unless the compressed stream is right; whether nothing follows."""
  inflate = zlib.decompressobj()
  try:
    for body in bodies:
      inflate.decompress(body, _PIECE)
      while inflate.unconsumed_tail:
        inflate.decompress(inflate.unconsumed_tail, _PIECE)
    # What is held back although all input was taken.
    while not inflate.eof and inflate.decompress(b'', _PIECE):
      pass
  except zlib.error as error:
    raise ValueError(f'the PNG is damaged: {error}') from error
  if not inflate.eof:
    raise ValueError('the PNG is truncated: its pixels have no end')
  return not inflate.unused_data


def _is_known(kind: bytes) -> bool:
  """Critical chunks (a capital first) that libpng does not know stop it."""
  if not (kind.isalpha() and kind.isascii()):
    return False
  return kind in _CRITICAL or kind[:1].islower()


def _consecutive(kinds: Sequence[bytes], kind: bytes) -> bool:
  places = [i for i, other in enumerate(kinds) if other == kind]
  return places[-1] - places[0] + 1 == len(places)
