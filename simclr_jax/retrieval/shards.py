"""One file of embeddings: Parquet, written whole or not at all.

A shard says in its own metadata what it holds and of what, so that one that is
there is complete and nothing else has to be believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import fcntl
import json
import os
import pathlib
from typing import Any, NamedTuple
import uuid

import numpy as np

from simclr_jax.data.source import NO_LABEL
from simclr_jax.data.sources import parquet_schema
from simclr_jax.retrieval.identity import Identity

METADATA_KEY = b'simclr_jax_embeddings'
DONE_KEY = b'simclr_jax_shard'
GROUP_ROWS = 1024  # of a row group: what writer and reader hold at once
HIDDEN = '.part-'


class Bad(NamedTuple):
  """A picture that has no embedding.

  Attributes:
    id: Row of the source: ids of a set begin with its `first_id`.
    path: Its name.
    reason: Why.
  """

  id: int
  path: str
  reason: str


class Rows(NamedTuple):
  """Some rows of a set, in order.

  Attributes:
    id: int64 [n].
    path: n names.
    label: int64 [n]; None where the set has none.
    vectors: Output -> f32 [n, D].
  """

  id: np.ndarray
  path: list[str]
  label: np.ndarray | None
  vectors: Mapping[str, np.ndarray]


class Shard(NamedTuple):
  """A complete file.

  Attributes:
    path: Of the file.
    num_rows: Pictures with an embedding.
    bad: Those without.
    device: That computed it.
  """

  path: pathlib.Path
  num_rows: int
  bad: tuple[Bad, ...]
  device: str


def open_shard(path: pathlib.Path, identity: Identity, shard: int) -> Shard:
  """Checks a shard's own description.

  Raises:
    ValueError: If it is damaged, or of another set.
  """
  with parquet_schema.open_file(str(path)) as file:
    metadata = file.metadata.metadata or {}
    num_rows = file.metadata.num_rows
    schema = file.schema_arrow
  try:
    what = json.loads(metadata[METADATA_KEY])
    done = json.loads(metadata[DONE_KEY])
    bad = tuple(Bad(int(i), str(p), str(r)) for i, p, r in done['bad'])
    device = str(done['device'])
    stated = (what['digest'], what['shard'])
  except (KeyError, TypeError, ValueError, RecursionError) as error:
    raise ValueError(f'{path} is no shard of embeddings: {error}') from error
  if stated != (identity.digest, shard):
    raise ValueError(f'{path} is a shard of other embeddings')
  span = identity.span(shard)
  if not schema.remove_metadata().equals(_schema(identity).remove_metadata()):
    raise ValueError(f'{path} has other columns than its description says')
  if num_rows + len(bad) != len(span) or not all(b.id in span for b in bad):
    raise ValueError(
      f'{path} has {num_rows} rows and {len(bad)} bad pictures of {len(span)}'
    )
  return Shard(path, num_rows, bad, device)


@contextlib.contextmanager
def shard_writer(
  folder: pathlib.Path, identity: Identity, shard: int
) -> Iterator[ShardWriter]:
  """Writer of a shard, which appears when the block ends without error."""
  name = identity.file_name(shard)
  hidden = folder / f'{HIDDEN}{shard:05d}.{uuid.uuid4().hex}.tmp'
  try:
    with open(hidden, 'wb') as file:
      # Another command that finds its set complete clears up what nobody
      # writes. Where a file system has no locks, it finds none to be free.
      with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)
      writer = ShardWriter(file, identity, shard)
      try:
        yield writer
        writer.close()
      finally:
        writer.release()
      file.flush()
      os.fsync(file.fileno())
      os.replace(hidden, folder / name)
  finally:
    hidden.unlink(missing_ok=True)


class ShardWriter:
  """Appends rows; holds at most a row group of them."""

  def __init__(self, file: Any, identity: Identity, shard: int):
    parquet = parquet_schema.pyarrow('pyarrow.parquet')
    what = {
      'digest': identity.digest,
      'shard': shard,
      'identity': identity.to_json(),
    }
    self._schema = _schema(identity).with_metadata(
      {METADATA_KEY: json.dumps(what, sort_keys=True)}
    )
    self._identity = identity
    self._writer = parquet.ParquetWriter(
      file,
      self._schema,
      # Random numbers do not compress, names do.
      compression=dict.fromkeys(identity.dims, 'none')
      | {'id': 'zstd', 'path': 'zstd', 'label': 'zstd'},
      use_dictionary=False,
      write_page_checksum=True,
    )
    self._waiting: list[Rows] = []
    self._count = 0
    self.bad: list[Bad] = []
    self.device = ''

  def add(self, rows: Rows) -> None:
    """Appends rows, whose ids follow those before."""
    self._waiting.append(rows)
    self._count += len(rows.id)
    while self._count >= GROUP_ROWS:
      self._write(GROUP_ROWS)

  def close(self) -> None:
    """Writes the rest, and that the file is complete."""
    if self._count:
      self._write(self._count)
    done = {'bad': self.bad, 'device': self.device}
    self._writer.add_key_value_metadata({DONE_KEY: json.dumps(done)})
    self._writer.close()

  def release(self) -> None:
    """Lets go of the file before it is closed, also after an error."""
    with contextlib.suppress(OSError):
      self._writer.close()

  def _write(self, count: int) -> None:
    together = join(self._waiting)
    first = cut(together, 0, count)
    rest = cut(together, count, len(together.id))
    self._waiting, self._count = [rest], len(rest.id)
    self._writer.write_table(
      _table(first, self._identity, self._schema), row_group_size=GROUP_ROWS
    )


def join(parts: Sequence[Rows]) -> Rows:
  """Rows one behind the other."""
  labels = [part.label for part in parts if part.label is not None]
  return Rows(
    id=np.concatenate([part.id for part in parts]),
    path=[path for part in parts for path in part.path],
    label=np.concatenate(labels) if labels else None,
    vectors={
      name: np.concatenate([part.vectors[name] for part in parts])
      for name in parts[0].vectors
    },
  )


def cut(rows: Rows, start: int, stop: int) -> Rows:
  """Rows [start, stop) of them."""
  part = slice(start, stop)
  return Rows(
    rows.id[part],
    rows.path[part],
    None if rows.label is None else rows.label[part],
    {name: values[part] for name, values in rows.vectors.items()},
  )


def _schema(identity: Identity) -> Any:
  arrow = parquet_schema.pyarrow()
  number = getattr(arrow, identity.dtype)()
  fields = [('id', arrow.int64()), ('path', arrow.string())]
  fields += [
    (name, arrow.list_(arrow.field('element', number), width))
    for name, width in identity.dims.items()
  ]
  if identity.num_classes:
    fields.append(('label', arrow.int64()))
  return arrow.schema(fields)


def _table(rows: Rows, identity: Identity, schema: Any) -> Any:
  arrow = parquet_schema.pyarrow()
  names = [stored_name(path) for path in rows.path]
  columns: dict[str, Any] = {
    'id': arrow.array(rows.id, arrow.int64()),
    'path': arrow.array(names, arrow.string()),
  }
  for name in identity.dims:
    flat = np.ascontiguousarray(rows.vectors[name], identity.dtype).reshape(-1)
    columns[name] = arrow.FixedSizeListArray.from_arrays(
      arrow.array(flat), type=schema.field(name).type
    )
  if identity.num_classes:
    columns['label'] = arrow.array(rows.label, arrow.int64())
  return arrow.table(columns, schema=schema)


def stored_name(path: str) -> str:
  """As Parquet can hold it: names of files need not be valid text."""
  return path.encode('utf-8', 'backslashreplace').decode()


def from_table(table: Any, *, path: str) -> Rows:
  """Rows of a table that a shard's schema describes.

  Raises:
    ValueError: If something is missing in it.
  """
  vectors, label = {}, None
  names: list[str] = []
  for name in table.column_names:
    column = table.column(name).combine_chunks()
    if column.null_count:
      raise ValueError(f'{path}: column {name!r} has missing values')
    if name == 'path':
      names = column.to_pylist()
    elif name == 'label':
      label = column.to_numpy(zero_copy_only=False)
    elif name != 'id':
      flat = column.flatten()
      if flat.null_count:
        raise ValueError(f'{path}: column {name!r} has missing values')
      values = flat.to_numpy(zero_copy_only=False).astype(np.float32)
      if not np.isfinite(values).all():
        raise ValueError(
          f'{path}: column {name!r} holds numbers that are not finite, which '
          'simclr_jax.embed never writes: nothing could be compared with them'
        )
      vectors[name] = values.reshape(table.num_rows, -1)
  ids = table.column('id').to_numpy()
  return Rows(ids, names, label, vectors)


def check_rows(
  rows: Rows, identity: Identity, shard: int, *, path: str
) -> None:
  """Raises ValueError unless ids and labels are such as this shard can have."""
  span = identity.span(shard)
  if (np.diff(rows.id) <= 0).any():
    raise ValueError(f'{path}: its ids do not rise, so they name no pictures')
  first, last = (identity.first_id + i for i in (span.start, span.stop - 1))
  if rows.id[0] < first or rows.id[-1] > last:
    raise ValueError(
      f'{path}: its ids are not those of its file, {first} to {last}'
    )
  if rows.label is None:
    return
  wrong = (rows.label < NO_LABEL) | (rows.label >= identity.num_classes)
  if wrong.any():
    raise ValueError(
      f"{path}: column 'label' holds {rows.label[wrong][0]}, but there are "
      f'{identity.num_classes} classes'
    )
