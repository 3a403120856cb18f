"""The files of a Parquet data set taken together: rows, columns, classes."""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import NamedTuple

from simclr_jax import config as config_lib
from simclr_jax.data.source import MAX_CLASSES, NO_LABEL
from simclr_jax.data.sources import parquet_layout, parquet_schema


class OpenFile(NamedTuple):
  """What the end of a Parquet file says; nothing stays open.

  Attributes:
    path: Below the root.
    full: With the root.
    num_rows: Pictures.
    columns: What to read.
  """

  path: str
  full: str
  num_rows: int
  columns: parquet_schema.Columns


class Classes(NamedTuple):
  """Classes of a data set; `names` is empty where the files have none."""

  num_classes: int
  names: tuple[str, ...]


def open_all(
  root: str,
  files: Sequence[parquet_layout.File],
  *,
  data: config_lib.DataConfig,
) -> list[OpenFile]:
  """Rows and columns of the files of a split, which must agree."""
  opened: list[OpenFile] = []
  for file in files:
    full = os.path.join(root, file.path)
    handle = parquet_schema.open_file(full)
    columns = parquet_schema.find_columns(handle, full, data=data)
    opened.append(OpenFile(file.path, full, handle.metadata.num_rows, columns))
    handle.close()
    if columns != opened[0].columns:
      raise ValueError(
        f'{opened[0].full} and {full} differ: {opened[0].columns} and '
        f'{columns}; files of one split must have the same columns and classes'
      )
  promised = opened[0].columns.num_examples
  rows = sum(file.num_rows for file in opened)
  if promised and promised != rows:
    raise ValueError(
      f'the files of {os.path.join(root, files[0].path)} hold {rows} rows, '
      f'their metadata promises {promised}: some are of another writing; '
      'prepare the data set again'
    )
  return opened


def find_classes(files: Sequence[OpenFile]) -> Classes:
  """Classes of the data set, from both splits that the config names.

  Taken together, so that a class missing from one split does not change their
  number in the other.
  """
  names = {
    f.columns.class_names: f.full for f in files if f.columns.class_names
  }
  if len(names) > 1:
    (first, one), (second, other) = list(names.items())[:2]
    raise ValueError(
      f'{one} and {other} number their classes differently '
      f'({_differing(first, second)}); accuracy would be that of wrong labels'
    )
  if names:
    (only,) = names
    return Classes(len(only), only)
  promised = max(file.columns.num_classes for file in files)
  if promised:
    return Classes(promised, ())
  labelled = [file for file in files if file.columns.label]
  largest = [_largest_label(file) for file in labelled]
  for file, label in zip(labelled, largest, strict=True):
    if label >= MAX_CLASSES:
      raise ValueError(
        f'{file.full}: config.data.label_key = {file.columns.label!r} holds '
        f'{label}; labels number the classes from 0, and there are at most '
        f"{MAX_CLASSES:,}: name another column, or '' for none"
      )
  return Classes(max(largest, default=NO_LABEL) + 1, ())


def _differing(first: Sequence[str], second: Sequence[str]) -> str:
  for i, (a, b) in enumerate(zip(first, second, strict=False)):
    if a != b:
      return f'class {i} is {a!r} in one and {b!r} in the other'
  return f'{len(first)} and {len(second)} classes'


def _largest_label(file: OpenFile) -> int:
  """From the label column alone, which is small."""
  compute = parquet_schema.pyarrow('pyarrow.compute')
  handle = parquet_schema.open_file(file.full)
  try:
    labels = handle.read(columns=[file.columns.label]).column(0)
  except (OSError, parquet_schema.pyarrow().ArrowException) as error:
    parquet_schema.check_content(error, file.full)
    raise ValueError(f'{file.full} is damaged: {error}') from error
  finally:
    handle.close()
  largest = compute.max(labels).as_py()
  return NO_LABEL if largest is None else int(largest)
