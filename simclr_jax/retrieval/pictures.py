"""Pictures: those asked with, and those of a set, to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import io
import os
import re
import stat
from typing import Any
import zlib

from absl import logging
import numpy as np
from PIL import Image, UnidentifiedImageError

from simclr_jax import config as config_lib
from simclr_jax import data, paths, section_flags
from simclr_jax.data import decode, plain_image
from simclr_jax.data.names import printable
from simclr_jax.data.source import NO_LABEL, Example, Source
from simclr_jax.data.sources import folder_scan
from simclr_jax.retrieval import shards
from simclr_jax.retrieval.embedding_set import EmbeddingSet

# How a byte of a file name that is no text stands in a shard.
_ESCAPED_BYTE = re.compile(r'\\u(dc[89a-f][0-9a-f])')
_MAX_BYTES = 1 << 30  # as for the pictures of a folder


def read_file(path: str, bits: int) -> bytes:
  """A picture file whose pixels every loader reads alike.

  Args:
    path: Of the file.
    bits: See `config.data.bits`.

  Raises:
    ValueError: If it is no picture; names it.
  """
  try:
    encoded = _read_bytes(path)
    plain = plain_image.inspect(encoded).plain
    return encoded if plain else plain_image.to_plain(encoded, bits)
  except MemoryError:
    raise
  # Pillow's decoders raise nearly every built-in exception for damaged data.
  except Exception as error:
    known = isinstance(error, (ValueError, UnidentifiedImageError))
    kind = '' if known else f'{type(error).__name__}: '
    reason = ' '.join(f'{kind}{error}'.split())
    raise ValueError(f'{printable(path)} cannot be read: {reason}') from error


def _read_bytes(path: str) -> bytes:
  status = os.stat(path)
  # A pipe would be waited for, and a device gives bytes for ever.
  if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
    raise ValueError('it is no file, or larger than 1 GiB')
  with open(path, 'rb') as file:
    return file.read()


def find_files(names: Sequence[str]) -> list[str]:
  """Picture files; of a folder all pictures in it.

  Raises:
    ValueError: If there is none.
  """
  files: list[str] = []
  for name in names:
    if not name:
      raise ValueError('--query names nothing between two commas')
    name = paths.read(name, remote=False)
    if os.path.isdir(name):
      found = folder_scan.list_pictures(name).pictures
      if not found:
        raise ValueError(f'--query={name} has no pictures in it')
      files += [os.path.join(name, path) for path in found]
    else:
      files.append(name)
  return files


def source_of(files: Sequence[str], bits: int) -> Source:
  """Files as a source; all are read once, to find those that are none.

  Args:
    files: Images.
    bits: See `config.data.bits`.

  Raises:
    ValueError: If one cannot be read; names it.
  """
  digest = 0
  for path in files:
    digest = zlib.crc32(read_file(path, bits), digest)
  return Source(
    name='the queries',
    num_examples=len(files),
    num_classes=0,
    encoded=True,
    read=lambda i: Example(read_file(files[i], bits), NO_LABEL),
    example_id=lambda i: files[i],
    fingerprint=f'{digest:08x}',
  )


class SetPictures:
  """The pictures that a set of embeddings is of, where they are now.

  Attributes:
    unreadable: Names of those that were to be shown and could not be read.
  """

  def __init__(
    self,
    embeddings: EmbeddingSet,
    *,
    folder: str = '',
    moved: Mapping[str, Any] | None = None,
  ):
    """Finds them.

    Args:
      embeddings: Set.
      folder: Where the pictures of a folder lie now; '' for where they were.
      moved: Fields of `config.data` that say where the data set is now.

    Raises:
      ValueError: If the data set cannot be opened, or has changed.
    """
    stated, moved = embeddings.stated('input'), dict(moved or {})
    folder = folder or str(moved.get('path', ''))
    self._given = bool(folder)
    self.unreadable: list[str] = []
    self._bits = embeddings.bits
    self._base = str(stated.get('base', ''))
    if self._base and folder:
      self._base = folder
    elif folder:
      moved['path'] = folder
    self._source: Source | None = None
    if self._base:
      if not os.path.isdir(self._base):
        raise ValueError(
          f'the pictures of {embeddings.folder} are not in {self._base}, which '
          'is no folder; say with --pictures where they are, or leave out --out'
        )
      return
    config = config_lib.from_config_dict(
      {'data': {**stated.get('data', {}), **moved}}
    )
    with section_flags.named('--data'):
      self._source = data.make_source(
        config.data, str(stated.get('split', '')), workdir=embeddings.folder
      )
    if self._source.fingerprint != embeddings.identity.source:
      raise ValueError(
        f'{self._source.name} has changed since it was embedded: the pictures '
        f'shown would not be those of {embeddings.folder}; embed it again'
      )

  def _file(self, path: str) -> str:
    """Where a picture of the folder is.

    Raises:
      ValueError: If that is not in the folder: a set may come from a stranger,
        and its sheets may go back there.
    """
    # The picture behind a link is stored by its absolute path.
    outside = self._given and os.path.isabs(path)
    if outside or os.pardir in path.split(os.sep):
      hint = '; leave out --pictures to have it read' if outside else ''
      raise ValueError(f'{printable(path)} is not in {self._base}{hint}')
    file = os.path.join(self._base, path)
    if not os.path.lexists(file):
      # A name that is no text: see the writer of shards.
      name = _ESCAPED_BYTE.sub(lambda m: chr(int(m[1], 16)), path)
      if os.path.lexists(named := os.path.join(self._base, name)):
        return named
    return file

  def stored(self, row: shards.Rows) -> bytes | np.ndarray:
    """What is stored of a single row: a file's bytes, or pixels.

    Raises:
      Exception: Whatever reading raises.
    """
    if self._source is None:
      return _read_bytes(self._file(row.path[0]))
    return self._source.read(int(row.id[0])).image

  def pixels(self, row: shards.Rows) -> np.ndarray | None:
    """uint8 [H, W, 3]; None where it cannot be read any more."""
    try:
      if self._source is None:
        encoded = read_file(self._file(row.path[0]), self._bits)
        return decode.decode_with_pillow(encoded)
      image = self.stored(row)
      if isinstance(image, np.ndarray):
        return image
      return decode.decode_with_pillow(image)
    except Exception:
      self.unreadable += row.path
      return None

  def warn(self) -> None:
    """Says which pictures stand as grey squares."""
    if self.unreadable:
      logging.warning(
        '%d pictures could not be read where they are looked for, e.g. %s; '
        'they are grey squares',
        len(self.unreadable),
        printable(self.unreadable[0]),
      )


def pixels_of_file(path: str, bits: int) -> np.ndarray:
  """uint8 [H, W, 3] of a picture file; `bits` as `config.data.bits`."""
  return decode.decode_with_pillow(read_file(path, bits))


def thumbnail(pixels: np.ndarray | None, *, side: int) -> Image.Image:
  """A square on white that shows the whole picture; grey where there is none.

  Small pictures are enlarged by whole pixels: what the encoder saw.
  """
  tile = Image.new('RGB', (side, side), 'white')
  if pixels is None:
    tile.paste((228, 231, 235), (0, 0, side, side))
    return tile
  image = Image.fromarray(pixels)
  scale = side / max(image.size)
  size = tuple(max(round(scale * length), 1) for length in image.size)
  method: Any = (
    Image.Resampling.NEAREST if scale > 1.5 else Image.Resampling.LANCZOS
  )
  image = image.resize((size[0], size[1]), method)
  tile.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
  return tile


def to_bytes(image: Image.Image, *, small: bool = True) -> bytes:
  """PNG for small pictures, JPEG for photographs on a page."""
  buffer = io.BytesIO()
  if small:
    image.save(buffer, 'PNG')
  else:
    image.save(buffer, 'JPEG', quality=88)
  return buffer.getvalue()
