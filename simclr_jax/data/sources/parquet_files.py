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
  if not files:
    return []
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


def check_classes(files: Sequence[OpenFile]) -> None:
  """Raises ValueError if a number means one class in a file, another in one.

  A held-out split may go on where the training split ends.
  """
  named = [file for file in files if file.columns.class_names]
  for file in named:
    longest = max(named, key=lambda f: len(f.columns.class_names))
    first, second = longest.columns.class_names, file.columns.class_names
    if second != first[: len(second)]:
      raise ValueError(
        f'{longest.full} and {file.full} number their classes differently '
        f'({_differing(first, second)}); accuracy would be that of wrong '
        'labels. Write them with the same class names, or train with '
        "--config.data.test_split=''"
      )


def find_classes(files: Sequence[OpenFile]) -> Classes:
  """Classes of the files of a split and of the training split.

  Taken together, so that a class missing from one split does not change their
  number in the other. Another held-out split is not asked: it does not change
  what is trained.
  """
  names = max((file.columns.class_names for file in files), key=len)
  if names:
    return Classes(len(names), names)
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
