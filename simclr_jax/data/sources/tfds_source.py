"""Any prepared TFDS data set, by name, with random access.

TFDS says which records of which files make up a split; the records are then
read one by one, through an index of TFRecord files or through array_record.
The data set's own code is not needed, only its prepared files.
"""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import hashlib
import os
from typing import Any, NamedTuple

from etils import epath
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import retries
from simclr_jax.data import (
  cache,
  deep_images,
  plain_image,
  record_files,
  split_names,
  tfrecord_index,
)
from simclr_jax.data.lazy_tf import tf, tfds
from simclr_jax.data.source import NO_LABEL, Example, Source

# (file, record in the file) -> its bytes.
ReadRecordFn = Callable[[int, int], bytes]
_SAMPLED = 64  # 16-bit images whose values are looked at before training.


class _Spans(NamedTuple):
  """A split as spans of records: span k is records [skip, skip + take)."""

  paths: list[str]
  stamps: list[tuple[int, ...]]  # bytes first
  skip: np.ndarray  # int64 [k]
  take: np.ndarray  # int64 [k]
  in_file: np.ndarray  # int64 [k], records of the whole file

  @property
  def starts(self) -> np.ndarray:
    """int64 [k], example at which each span starts."""
    return np.cumsum(self.take) - self.take


class _Features(NamedTuple):
  """How to read an example; `plain` says that TensorFlow decodes it as is."""

  image_key: str
  label_key: str
  num_classes: int
  class_names: tuple[str, ...]
  plain: bool


def make(
  data: config_lib.DataConfig,
  split: str,
  *,
  workdir: epath.PathLike | None = None,
) -> Source:
  """Source of a split of a TFDS data set.

  Args:
    data: Reads `name` ('cifar10', 'imagenet2012_subset/1pct', 'a/b:1.0.0'),
      `data_dir`, `image_key`, `label_key` and `bits`.
    split: TFDS syntax: 'train', 'train[:10%]', 'train+test'.
    workdir: Where the index of TFRecord files is kept, see `cache.folder`.

  Raises:
    ValueError: If the data set is not prepared, split or feature is unknown, or
      a file is missing or damaged.
  """
  builder = _load_builder(data)
  features = _find_features(builder, data)
  spans = _find_spans(builder, split, data)
  read_record = _make_reader(builder, spans, workdir=workdir)
  starts = spans.starts
  highest = np.zeros(0, np.int64)

  def locate(i: int) -> tuple[int, int]:
    # The last of equal starts: the spans before it are empty.
    span = int(np.searchsorted(starts, i, side='right')) - 1
    return span, int(spans.skip[span] + i - starts[span])

  def example_id(i: int) -> str:
    span, record = locate(i)
    return f'{os.path.basename(spans.paths[span])} record {record}'

  if not features.plain:
    highest = _sample_highest(
      int(spans.take.sum()), lambda i: read_record(*locate(i)), features
    )
    deep_images.check_range(f'{data.name}/{split}', highest, bits=data.bits)
  return Source(
    name=f'{data.name}/{split}',
    num_examples=int(spans.take.sum()),
    num_classes=features.num_classes,
    encoded=True,
    read=lambda i: _parse(read_record(*locate(i)), features, bits=data.bits),
    example_id=example_id,
    fingerprint=_fingerprint(
      builder, spans, features, tag=deep_images.tag(highest, data.bits)
    ),
    class_names=features.class_names,
    stamp=repr(spans.stamps),
  )


def _load_builder(data: config_lib.DataConfig) -> Any:
  """The builder of the prepared files; never downloads or prepares."""
  try:
    return tfds.core.read_only_builder.builder_from_files(
      data.name, data_dir=data.data_dir or None
    )
  except tfds.core.DatasetNotFoundError as error:
    retries.is_dir(data.data_dir)  # raises where the disk does not answer
    where = data.data_dir or "TFDS's default (~/tensorflow_datasets)"
    option = f' --data_dir={data.data_dir}' if data.data_dir else ''
    raise ValueError(
      f'config.data.name = {data.name!r} is not prepared in {where}; prepare '
      f'it with `tfds build {data.name}{option}` (data sets that TFDS cannot '
      'download, such as imagenet2012, want their archives in '
      'DATA_DIR/downloads/manual first), or name the folder that holds it in '
      'config.data.data_dir'
    ) from error
  except (ValueError, OSError, KeyError) as error:
    if retries.may_pass(error):
      raise
    raise ValueError(
      f'config.data.name = {data.name!r} cannot be opened in '
      f'{data.data_dir or "the default data_dir of TFDS"}: {error}'
    ) from error


def _find_features(builder: Any, data: config_lib.DataConfig) -> _Features:
  """Checks that the image and label features are what they should be."""
  known = builder.info.features
  for field, key in (('image', data.image_key), ('label', data.label_key)):
    if key not in known and not (field == 'label' and not key):
      none = ", or '' for none" if field == 'label' else ''
      raise ValueError(
        f'config.data.{field}_key = {key!r} is not a feature of {data.name}; '
        f'its features: {", ".join(sorted(known))}{none}'
      )
  image = known[data.image_key]
  if not isinstance(image, tfds.features.Image):
    raise ValueError(
      f'config.data.image_key = {data.image_key!r} is {image}, not an image'
    )
  if np.dtype(image.np_dtype) not in (np.uint8, np.uint16):
    raise ValueError(
      f'config.data.image_key = {data.image_key!r} holds {image.np_dtype} '
      'images; only 8- and 16-bit ones can be read'
    )
  plain = np.dtype(image.np_dtype) == np.uint8 and image.shape[-1] in (1, 3)
  if not data.label_key:
    return _Features(data.image_key, '', 0, (), plain)
  label = known[data.label_key]
  if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
    raise ValueError(
      f'config.data.label_key = {data.label_key!r} is {label}, not a class '
      "with a known number of values; name another feature or '' for none"
    )
  names = tuple(label.names or ())
  return _Features(
    data.image_key, data.label_key, int(label.num_classes), names, plain
  )


def check_split(data: config_lib.DataConfig, split: str) -> None:
  """Raises ValueError where there is no such split."""
  _instructions(_load_builder(data), split, data)


def _instructions(
  builder: Any, split: str, data: config_lib.DataConfig
) -> list[Any]:
  """TFDS's own list of the files and records of a split."""
  try:
    return list(builder.info.splits[split].file_instructions)
  except (ValueError, KeyError, AssertionError) as error:
    known = list(builder.info.splits)
    advice = split_names.advice(data, split, known)
    raise ValueError(
      f'{split!r} is not a split of {builder.info.full_name}: {error}; known: '
      f'{", ".join(known)}, parts such as '
      "'train[:10%]' and sums such as 'train+test'"
      + (f'; {advice}' if advice else '')
    ) from error


def _find_spans(
  builder: Any, split: str, data: config_lib.DataConfig
) -> _Spans:
  """Files and records of a split.

  Raises:
    ValueError: If the split is unknown, empty or one of its files is missing.
  """
  instructions = _instructions(builder, split, data)
  spans = _Spans(
    paths=[str(part.filename) for part in instructions],
    stamps=[tfrecord_index.stamp(str(part.filename)) for part in instructions],
    skip=np.array([part.skip for part in instructions], np.int64),
    take=np.array([part.take for part in instructions], np.int64),
    in_file=np.array(
      [part.examples_in_shard for part in instructions], np.int64
    ),
  )
  if not spans.take.sum():
    raise ValueError(
      f'split {split!r} of {builder.info.full_name} has no examples'
    )
  return spans


def _make_reader(
  builder: Any, spans: _Spans, *, workdir: epath.PathLike | None
) -> ReadRecordFn:
  """Random access for the file format of the data set."""
  file_format = builder.info.file_format.value
  if file_format == 'tfrecord':
    return _read_tfrecord(spans, workdir=workdir)
  if file_format == 'array_record':
    return _read_array_record(spans)
  raise ValueError(
    f'{builder.info.full_name} is stored as {file_format!r}, which has no '
    'random access here; prepare it again with '
    '`tfds build --file_format=array_record`'
  )


def _read_tfrecord(
  spans: _Spans, *, workdir: epath.PathLike | None
) -> ReadRecordFn:
  # A file may stand in several spans ('train[:10]+train[20:]').
  unique = sorted(set(spans.paths))
  indexed = tfrecord_index.load_or_build(
    unique, cache_folder=cache.folder(workdir)
  )
  by_path = dict(zip(unique, indexed, strict=True))
  shards = [by_path[path] for path in spans.paths]
  for shard, wanted in zip(shards, spans.in_file, strict=True):
    _check_count(shard.path, len(shard.offsets), wanted=int(wanted))
  return lambda span, record: tfrecord_index.read_record(shards[span], record)


def _read_array_record(spans: _Spans) -> ReadRecordFn:
  record_files.forget()
  for path, wanted in zip(spans.paths, spans.in_file, strict=True):
    _check_count(path, record_files.count(path), wanted=int(wanted))
  return lambda span, record: record_files.read(spans.paths[span], record)


def _check_count(path: str, found: int, *, wanted: int) -> None:
  if found != wanted:
    raise ValueError(
      f'{path} holds {found} records, dataset_info.json promises {wanted}: the '
      'file is damaged or of another version; prepare it again'
    )


def _sample_highest(
  num_examples: int, read_fn: Callable[[int], bytes], features: _Features
) -> np.ndarray:
  """Largest value of some images; one that is damaged is left to the reader."""
  rows = np.linspace(0, num_examples - 1, _SAMPLED).astype(np.int64)
  stored = features._replace(plain=True, label_key='')
  highest = []
  for i in np.unique(rows).tolist():
    with contextlib.suppress(Exception):
      image = _parse(read_fn(i), stored, bits=deep_images.STORED).image
      highest.append(plain_image.inspect(bytes(image)).highest)
  return np.array(highest, np.int64)


def _parse(record: bytes, features: _Features, *, bits: int) -> Example:
  """Encoded image and label of a serialised tf.train.Example."""
  values = tf.train.Example.FromString(record).features.feature
  image = values[features.image_key].bytes_list.value[0]
  if not features.plain:
    image = plain_image.to_plain(image, bits)
  if not features.label_key:
    return Example(image, NO_LABEL)
  label = int(values[features.label_key].int64_list.value[0])
  if not NO_LABEL <= label < features.num_classes:
    raise ValueError(
      f'its label is {label}, and there are {features.num_classes} classes'
    )
  return Example(image, label)


def _fingerprint(
  builder: Any, spans: _Spans, features: _Features, *, tag: bytes
) -> str:
  """Hash of names and sizes of files, the records taken, and the features."""
  digest = hashlib.sha256(tag)
  digest.update(f'{builder.info.full_name} {features}'.encode())
  for path, stamp, skip, take in zip(
    spans.paths, spans.stamps, spans.skip, spans.take, strict=True
  ):
    digest.update(f'{os.path.basename(path)} {stamp[0]} {skip} {take}'.encode())
  return digest.hexdigest()
