"""Rows of a Parquet file: pictures, labels and names, checked.

Every function names file and row in what it raises.
"""

from __future__ import annotations

from collections.abc import Iterator
import hashlib
from typing import Any, NamedTuple

import numpy as np

from simclr_jax.data import plain_image
from simclr_jax.data.source import NO_LABEL
from simclr_jax.data.sources import parquet_schema

_BATCH = 256  # rows decoded at a time


def batches(path: str, columns: parquet_schema.Columns) -> Iterator[Any]:
  """Record batches of the wanted columns; an error names the file."""
  wanted = [columns.image, *filter(None, (columns.label, columns.id))]
  arrow_error = parquet_schema.pyarrow().ArrowException
  with parquet_schema.open_file(path) as file:
    found = file.iter_batches(batch_size=_BATCH, columns=wanted)
    while True:
      try:
        batch = next(found, None)
      except (OSError, arrow_error) as error:
        parquet_schema.check_content(error, path)
        raise ValueError(
          f'{path} is damaged: {error}; fetch or write it again'
        ) from error
      if batch is None:
        return
      yield batch


def pictures(
  batch: Any, path: str, *, start: int, columns: parquet_schema.Columns
) -> list[bytes]:
  """Encoded pictures of a batch.

  Raises:
    ValueError: If one is missing; `start` is the row of the first.
  """
  column = batch.column(columns.image)
  paths: list[str | None] = [None] * len(column)
  if columns.nested:
    # Of a missing struct every field is missing.
    kinds = [column.type.field(i).name for i in range(column.type.num_fields)]
    fields = dict(zip(kinds, column.flatten(), strict=True))
    column = fields['bytes']
    if 'path' in fields:
      paths = fields['path'].to_pylist()
  found: list[bytes] = column.to_pylist()
  for i, picture in enumerate(found):
    if picture is None:
      only = f' but the path {paths[i]!r} of a file' if paths[i] else ''
      raise ValueError(
        f'row {start + i} of {path} has no picture{only}: pictures must lie in '
        f'the column {columns.image!r} itself (Hugging Face embeds them when '
        'it writes Parquet by push_to_hub); for files use '
        "config.data.source='folder'"
      )
  return found


class Examined(NamedTuple):
  """See `plain_image.Inspection`; `why` says why it cannot be read."""

  plain: bool = False
  highest: int = 0
  why: str = ''


def examine(picture: bytes, checked: bool) -> Examined:
  """Decodes an image, unless that was done when it was written."""
  if checked:
    return Examined(plain=True)
  try:
    found = plain_image.inspect(picture)
    return Examined(found.plain, found.highest)
  except MemoryError:
    raise
  # Pillow's decoders raise nearly every built-in exception for damaged data;
  # each is a reason why this picture cannot be read, and is reported as such.
  except Exception as error:
    text = f'{type(error).__name__}: {error}'.split(' file <_io.')[0]
    return Examined(why=' '.join(text.split()))


def labels(
  batch: Any, path: str, *, columns: parquet_schema.Columns
) -> np.ndarray:
  """int64 [k], NO_LABEL where a row has none.

  Raises:
    ValueError: If one is below NO_LABEL.
  """
  if not columns.label:
    return np.full(batch.num_rows, NO_LABEL, np.int64)
  values = batch.column(columns.label).to_pylist()
  try:
    found = np.array([NO_LABEL if v is None else v for v in values], np.int64)
  except OverflowError as error:
    raise ValueError(
      f'{path}: config.data.label_key = {columns.label!r} holds '
      f'{max(v or 0 for v in values)}, which is no class'
    ) from error
  if len(found) and found.min() < NO_LABEL:
    raise ValueError(
      f'{path}: config.data.label_key = {columns.label!r} holds '
      f'{found.min()}; labels must be integers from 0 (-1 for none)'
    )
  return found


def names(batch: Any, columns: parquet_schema.Columns) -> list[bytes]:
  """Stored names in UTF-8; none at all where there is no such column."""
  if not columns.id:
    return []
  values = batch.column(columns.id).to_pylist()
  return [str(v).encode('utf-8', 'backslashreplace') for v in values]


def digest(sizes: np.ndarray, crcs: np.ndarray) -> str:
  """Of all pictures of a file, from their sizes and CRC-32s in order."""
  columns = sizes.astype('<i8').tobytes() + crcs.astype('<u4').tobytes()
  return hashlib.sha256(columns).hexdigest()
