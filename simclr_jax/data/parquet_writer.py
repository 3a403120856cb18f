"""Any source -> Parquet files as Hugging Face's image data sets have them.

Columns: image, struct<bytes: binary, path: string>; label, int64, where there
are labels; id, the example's name. The class names are in the schema's metadata
as Hugging Face's ClassLabel. Beside it, under the key 'simclr_jax', stand the
source's fingerprint, the number of pictures, and that all have been decoded,
which a reader believes where the file's digest is that of its pictures.

A picture that the source gives as encoded bytes is stored as those bytes,
whatever comes as pixels (arrays, and the BMP of `plain_image.py`) as PNG. Pages
have checksums, and are not compressed: pictures are already. The same source
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import concurrent.futures
import dataclasses
import hashlib
import io
import json
import os
import pathlib
from typing import Any, NamedTuple
import zlib

import numpy as np
from PIL import Image

from simclr_jax import config as config_lib
from simclr_jax.data import plain_image, reading
from simclr_jax.data.progress import Progress
from simclr_jax.data.source import Source
from simclr_jax.data.sources import parquet_rows, parquet_schema

VERSION = 1  # Of what stands under the key 'simclr_jax'.
_CHUNK = 256  # examples read in parallel
_GROUP_BYTES = 16 << 20  # of a row group: what a reader must hold at once
_GROUP_ROWS = 1024
_EXTENSIONS = {b'\xff\xd8\xff': 'jpg', b'\x89PN': 'png', b'GIF': 'gif'}


class Written(NamedTuple):
  """What lies on the disk now.

  Attributes:
    paths: Files, in order.
    num_examples: Pictures in all of them.
    num_bytes: Size of the files.
  """

  paths: tuple[pathlib.Path, ...]
  num_examples: int
  num_bytes: int


class _Row(NamedTuple):
  picture: bytes
  path: str
  label: int
  name: str


@dataclasses.dataclass
class _Digest:
  """Of names, pictures and labels in their order."""

  rows: int = 0
  hash: Any = dataclasses.field(default_factory=hashlib.sha256)

  def add(self, picture: bytes, label: int, name: str) -> None:
    crc = zlib.crc32(picture)
    self.hash.update(f'{name}\0{len(picture)} {crc} {label}\n'.encode())
    self.rows += 1


def write(
  source: Source,
  folder: pathlib.Path,
  *,
  split: str,
  shard_bytes: int,
  shard_rows: int = 0,
  base: str = '',
  origin: dict[str, str] | None = None,
) -> Written:
  """Writes FOLDER/SPLIT-00000-of-N.parquet and so on, and reads them back.

  Args:
    source: What to write, from first to last.
    folder: Exists; files of the same split in it are overwritten.
    split: Name of the split in the files' names.
    shard_bytes: A file is closed once it holds as many bytes of pictures.
    shard_rows: A file is closed once it holds as many pictures; 0 for any.
    base: Names of examples that are paths below it become relative to it, so
      that the files are the same wherever the data lie.
    origin: Recorded in the metadata, for people.

  Raises:
    ValueError: If an example cannot be read or decoded, with its name, or the
      files do not hold what was written.
  """
  schema = _schema(source, origin or {})
  progress = Progress('Wrote', source.num_examples)
  rows = _rows(source, base=base, progress=progress)
  digest = _Digest()
  parts: list[pathlib.Path] = []
  pending = next(rows, None)
  while pending is not None:
    # The number of files is not known yet.
    parts.append(folder / f'{split}-{len(parts):05d}.parquet')
    with _open_writer(parts[-1], schema) as writer:
      size = count = 0
      group: list[_Row] = []
      of_file: list[tuple[int, int]] = []
      group_bytes = 0
      while pending is not None:
        digest.add(pending.picture, pending.label, pending.name)
        group.append(pending)
        group_bytes += len(pending.picture)
        size, count = size + len(pending.picture), count + 1
        pending = next(rows, None)
        full = size >= shard_bytes or count == shard_rows or pending is None
        if full or group_bytes >= _GROUP_BYTES or len(group) == _GROUP_ROWS:
          writer.write_table(_table(group, schema))
          of_file.extend((len(r.picture), zlib.crc32(r.picture)) for r in group)
          group, group_bytes = [], 0
        if full:
          break
      sizes, crcs = np.array(of_file).T
      writer.add_key_value_metadata(
        {parquet_schema.PICTURES_KEY: parquet_rows.digest(sizes, crcs)}
      )
  paths = []
  for number, part in enumerate(parts):
    name = f'{split}-{number:05d}-of-{len(parts):05d}.parquet'
    paths.append(part.rename(part.with_name(name)))
  _verify(paths, digest)
  return Written(
    tuple(paths), digest.rows, sum(path.stat().st_size for path in paths)
  )


def _schema(source: Source, origin: dict[str, str]) -> Any:
  pyarrow = parquet_schema.pyarrow()
  picture = pyarrow.struct(
    [('bytes', pyarrow.binary()), ('path', pyarrow.string())]
  )
  fields = [('image', picture)]
  features: dict[str, Any] = {'image': {'_type': 'Image'}}
  if source.num_classes:
    fields.append(('label', pyarrow.int64()))
    features['label'] = (
      {'names': list(source.class_names), '_type': 'ClassLabel'}
      if source.class_names
      else {'dtype': 'int64', '_type': 'Value'}
    )
  fields.append((parquet_schema.ID_COLUMN, pyarrow.string()))
  features[parquet_schema.ID_COLUMN] = {'dtype': 'string', '_type': 'Value'}
  ours = {
    'version': VERSION,
    'checked': True,
    'num_examples': source.num_examples,
    'num_classes': source.num_classes,
    'source_fingerprint': source.fingerprint,
    'origin': origin,
  }
  return pyarrow.schema(fields).with_metadata(
    {
      parquet_schema.HUGGING_FACE_KEY: json.dumps(
        {'info': {'features': features}}
      ),
      parquet_schema.METADATA_KEY: json.dumps(ours, sort_keys=True),
    }
  )


def _open_writer(path: pathlib.Path, schema: Any) -> Any:
  parquet = parquet_schema.pyarrow('pyarrow.parquet')
  return parquet.ParquetWriter(
    path,
    schema,
    compression='none',
    use_dictionary=False,
    write_statistics=False,
    write_page_checksum=True,
    # Pages are closed between batches of values: else they had 1024 pictures.
    write_batch_size=16,
  )


def _table(rows: list[_Row], schema: Any) -> Any:
  columns = {
    'image': [{'bytes': row.picture, 'path': row.path} for row in rows],
    'label': [row.label for row in rows],
    parquet_schema.ID_COLUMN: [row.name for row in rows],
  }
  table = parquet_schema.pyarrow().Table
  return table.from_pydict({n: columns[n] for n in schema.names}, schema=schema)


def _rows(source: Source, *, base: str, progress: Progress) -> Iterator[_Row]:
  """Every example in order, read and encoded in threads."""
  to_row = _make_to_row(source, os.path.join(os.path.realpath(base), ''))
  workers = min(32, os.cpu_count() or 1)
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    for start in range(0, source.num_examples, _CHUNK):
      stop = min(start + _CHUNK, source.num_examples)
      yield from pool.map(to_row, range(start, stop))
      progress.add(stop - start)


def _make_to_row(source: Source, base: str) -> Callable[[int], _Row]:
  def to_row(i: int) -> _Row:
    name = source.example_id(i)
    image, label = reading.read(source, i)
    try:
      picture = _encode(image)
    except Exception as error:
      raise ValueError(
        reading.describe_failure(source, i, error=error)
      ) from error
    # Names of files need not be valid text, those in Parquet must.
    name = name.removeprefix(base).encode('utf-8', 'backslashreplace').decode()
    extension = _EXTENSIONS.get(picture[:3], 'img')
    return _Row(picture, f'{i:08d}.{extension}', label, name)

  return to_row


def _encode(image: bytes | np.ndarray) -> bytes:
  """Bytes to store; the same bytes where they are no BMP.

  Raises:
    Exception: As `plain_image.inspect`, if they cannot be decoded.
  """
  if isinstance(image, np.ndarray):
    return _png(Image.fromarray(image))
  if image[:2] == b'BM':
    return _png(Image.open(io.BytesIO(image)).convert('RGB'))
  plain_image.inspect(image)
  return image


def _png(image: Image.Image) -> bytes:
  out = io.BytesIO()
  image.save(out, 'PNG')
  return out.getvalue()


def _verify(paths: list[pathlib.Path], written: _Digest) -> None:
  """Raises unless the files, read anew, hold what was written."""
  found = _Digest()
  data = config_lib.DataConfig(source='parquet')
  for path in paths:
    file = parquet_schema.open_file(str(path))
    columns = parquet_schema.find_columns(file, str(path), data=data)
    file.close()
    for batch in parquet_rows.batches(str(path), columns):
      rows = zip(
        parquet_rows.pictures(batch, str(path), start=0, columns=columns),
        parquet_rows.labels(batch, str(path), columns=columns),
        parquet_rows.names(batch, columns),
        strict=True,
      )
      for picture, label, name in rows:
        found.add(picture, int(label), name.decode())
  same = found.hash.digest() == written.hash.digest()
  if found.rows != written.rows or not same:
    raise ValueError(
      f'{paths[0].parent} does not hold what was written: {found.rows} of '
      f'{written.rows} pictures, contents {"equal" if same else "different"}; '
      'the disk may be damaged'
    )
