"""Pictures in Parquet files: Hugging Face's, or those of `simclr_jax.prepare`.

Files and splits by `parquet_layout.py`, columns by `parquet_schema.py`, random
access by `parquet_blob.py`. Reading needs pyarrow, and that only to convert a
file for random access; never TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
import os

from absl import logging
from etils import epath
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import cache, deep_images, plain_image
from simclr_jax.data.source import NO_LABEL, Example, Source
from simclr_jax.data.sources import (
  parquet_blob,
  parquet_files,
  parquet_layout,
  slices,
)

_SHOWN = 5  # entries of a list in a message


@dataclasses.dataclass(frozen=True)
class _Table:
  """The rows of a split; nothing open, so that it can be pickled.

  Attributes:
    files: Paths below the root.
    blobs: Where the pictures of each file are.
    file: int32 [n], place in `files`.
    row: int64 [n], row of the file.
    offset: int64 [n], byte in the blob.
    size: int64 [n], bytes.
    label: int64 [n].
    plain: bool [n].
    highest: uint16 [n], see `plain_image.Inspection`.
    bits: `config.data.bits`.
    names: uint8, stored names one behind the other; empty where none are.
    name_end: int64 [n], where each ends; [0] where none are stored.
    name_size: int64 [n], bytes of each; [0] where none are stored.
  """

  files: tuple[str, ...]
  blobs: tuple[str, ...]
  file: np.ndarray
  row: np.ndarray
  offset: np.ndarray
  size: np.ndarray
  label: np.ndarray
  plain: np.ndarray
  highest: np.ndarray
  bits: int
  names: np.ndarray
  name_end: np.ndarray
  name_size: np.ndarray

  def read(self, i: int) -> Example:
    """Example i; from any thread and process."""
    encoded = parquet_blob.read(
      self.blobs[self.file[i]], int(self.offset[i]), size=int(self.size[i])
    )
    if not self.plain[i]:
      encoded = plain_image.to_plain(encoded, self.bits)
    return Example(encoded, int(self.label[i]))

  def label_of(self, i: int) -> int:
    """Label of example i."""
    return int(self.label[i])

  def example_id(self, i: int) -> str:
    """The stored name, else file and row."""
    if len(self.name_end):
      end = int(self.name_end[i])
      return self.names[end - int(self.name_size[i]) : end].tobytes().decode()
    return f'{self.files[self.file[i]]} row {self.row[i]}'


def make(
  data: config_lib.DataConfig,
  split: str,
  *,
  workdir: epath.PathLike | None = None,
) -> Source:
  """Source of a split of a folder of Parquet files, or of a single one.

  Args:
    data: Reads `path`, `image_key`, `label_key`, `bits`, `max_bad_fraction`
      and, because the classes of both splits must be the same, `train_split`
      and `test_split`.
    split: As the files are named: 'train', 'train[:80%]', 'test[:500]'. A part
      counts rows, those that cannot be read too.
    workdir: Not used: the conversion is as large as the data, so that all runs
      share the one in the user's cache folder.

  Raises:
    ValueError: If files, columns or the split are missing or damaged, labels
      are impossible, or too many pictures cannot be read.
  """
  del workdir
  root, splits = parquet_layout.find(data.path)
  name, named = split.split('[')[0].strip(), os.path.join(data.path, split)
  chosen = parquet_layout.choose(data, splits, split=split)
  files = parquet_files.open_all(root, chosen, data=data)
  total = sum(file.num_rows for file in files)
  _, part = slices.parse(split, {name: total})
  touched, first = _touched(files, part)
  indices = parquet_blob.convert(
    [file.full for file in touched],
    columns=files[0].columns,
    cache_folder=cache.folder(None),
  )
  rows = np.arange(part.start - first, part.stop - first)
  table, skipped, crcs = _take(touched, indices, rows, bits=data.bits)
  _check_skipped(data, split, skipped, total=len(part))
  train, test = (
    files
    if (key := other.split('[')[0].strip()) == name
    else parquet_files.open_all(root, splits.get(key, ()), data=data)
    for other in (data.train_split, data.test_split)
  )
  parquet_files.check_classes([*files, *train, *test])
  classes = parquet_files.find_classes([*files, *train])
  if (table.label == NO_LABEL).all():
    classes = parquet_files.Classes(0, ())
  _check_labels(table, classes)
  deep_images.check_range(named, table.highest, bits=data.bits)
  return Source(
    name=named,
    num_examples=len(table.row),
    num_classes=classes.num_classes,
    encoded=True,
    read=table.read,
    example_id=table.example_id,
    fingerprint=_fingerprint(table, crcs, classes),
    class_names=classes.names,
    skipped=skipped,
    label_fn=table.label_of,
  )


def check_split(data: config_lib.DataConfig, split: str) -> None:
  """Raises ValueError where there is no such split."""
  _, splits = parquet_layout.find(data.path)
  parquet_layout.choose(data, splits, split=split)


def _touched(
  files: Sequence[parquet_files.OpenFile], part: range
) -> tuple[list[parquet_files.OpenFile], int]:
  """The files that `part` has rows of, and the first row of the first."""
  stops = np.cumsum([file.num_rows for file in files])
  low = int(np.searchsorted(stops, part.start, side='right'))
  high = int(np.searchsorted(stops, part.stop, side='left'))
  return list(files[low : high + 1]), int(stops[low]) - files[low].num_rows


def _take(
  files: Sequence[parquet_files.OpenFile],
  indices: Sequence[parquet_blob.Index],
  rows: np.ndarray,
  *,
  bits: int,
) -> tuple[_Table, tuple[tuple[str, str], ...], np.ndarray]:
  """Table of `rows` of all files, without the bad ones; those; checksums."""
  counts = [len(index.sizes) for index in indices]
  file = np.repeat(np.arange(len(files), dtype=np.int32), counts)
  row = np.concatenate([np.arange(count) for count in counts])
  offset = np.concatenate([np.cumsum(x.sizes) - x.sizes for x in indices])
  starts = np.cumsum(counts) - counts
  reasons = {
    int(start + bad): why
    for start, index in zip(starts, indices, strict=True)
    for bad, why in zip(index.bad_rows, index.reasons, strict=True)
  }
  bad = np.array(sorted(reasons), np.int64)
  skipped = tuple(
    (f'{files[file[i]].full} row {row[i]}', reasons[int(i)])
    for i in bad[np.isin(bad, rows)]
  )
  rows = rows[~np.isin(rows, bad)]

  def column(name: str) -> np.ndarray:
    return np.concatenate([getattr(index, name) for index in indices])

  name_size = column('name_sizes')
  named = len(name_size) > 0
  name_end = np.cumsum(name_size)
  table = _Table(
    files=tuple(f.path for f in files),
    blobs=tuple(index.blob for index in indices),
    file=file[rows],
    row=row[rows],
    offset=offset[rows],
    size=column('sizes')[rows],
    label=column('labels')[rows],
    plain=column('plain')[rows],
    highest=column('highest')[rows],
    bits=bits,
    names=column('names'),
    name_end=name_end[rows] if named else name_end,
    name_size=name_size[rows] if named else name_size,
  )
  return table, skipped, column('crcs')[rows]


def _check_skipped(
  data: config_lib.DataConfig,
  split: str,
  skipped: Sequence[tuple[str, str]],
  *,
  total: int,
) -> None:
  if not skipped:
    return
  examples = '\n'.join(f'  {name}: {why}' for name, why in skipped[:_SHOWN])
  found = f'{len(skipped)} of {total} pictures of {data.path} ({split})'
  if len(skipped) > data.max_bad_fraction * total or len(skipped) == total:
    raise ValueError(
      f'{found} cannot be read, more than config.data.max_bad_fraction = '
      f'{data.max_bad_fraction:g}; repair them, or raise it to train without '
      f'them. The first:\n{examples}'
    )
  logging.warning('%s cannot be read and are skipped:\n%s', found, examples)


def _check_labels(table: _Table, classes: parquet_files.Classes) -> None:
  if wrong := np.flatnonzero(table.label >= classes.num_classes).tolist():
    i = wrong[0]
    raise ValueError(
      f'{table.example_id(i)} has label {table.label[i]}, but there are '
      f'{classes.num_classes} classes, from 0'
    )
  if classes.num_classes:
    absent = classes.num_classes - len(np.unique(table.label[table.label >= 0]))
    if absent:
      logging.info(
        '%d of %d classes have no picture', absent, classes.num_classes
      )


def _fingerprint(
  table: _Table, crcs: np.ndarray, classes: parquet_files.Classes
) -> str:
  """Hash of contents, labels and order, however they lie in files."""
  tag = deep_images.tag(table.highest, table.bits)
  digest = hashlib.sha256(repr(classes).encode() + tag)
  for array in (table.size, crcs, table.label):
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()
