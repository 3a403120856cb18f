"""Examples at given positions: read, decoded, mapped, batched in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data.lazy_tf import tf
from simclr_jax.data.source import Example, Source

Batch = dict[str, np.ndarray]
# Local positions [k] -> example indices [k], then any words [k, 2].
LocateFn = Callable[[np.ndarray], tuple[np.ndarray, ...]]

# Examples read by one call into Python: what a call costs is shared (measured
# on CIFAR-10: 4 100 images per CPU second against 2 700 one by one, without
# augmentation), while a batch still spreads over all workers.
_CHUNK = 8


def make_stream(
  source: Source,
  locate: LocateFn,
  *,
  to_row: Callable[..., Any],
  data: config_lib.DataConfig,
  local: range,
  rows: int,
) -> Iterator[Batch]:
  """Batches of `rows` examples (the last may be shorter) as NumPy arrays.

  Args:
    source: Images.
    locate: Says which example stands at a local position, with which words.
    to_row: TensorFlow function (image uint8 [H, W, 3], label, index, words...)
      -> dict of one row; no Python control flow over tensors.
    data: Reads `num_workers` and `prefetch_batches`.
    local: Positions to go through, in order.
    rows: Batch of this host.

  Raises:
    ValueError: While iterating, if an example cannot be read or decoded; with
      its index and name.
    RuntimeError: While iterating, if the pipeline fails otherwise.
  """
  dataset = _make_dataset(
    source, locate, to_row=to_row, data=data, local=local, rows=rows
  )
  return _name_errors(dataset, source, locate=locate, local=local, rows=rows)


def _name_errors(
  dataset: Any, source: Source, *, locate: LocateFn, local: range, rows: int
) -> Iterator[Batch]:
  """Batches as NumPy arrays; an error names the example it comes from."""
  iterator = dataset.as_numpy_iterator()
  # Order is deterministic, so what fails is in the next batch, or was read in
  # one chunk with its end.
  for start in range(local.start, local.stop, rows):
    try:
      batch = next(iterator)
    except tf.errors.OpError as error:
      stop = min(start + rows + _CHUNK, local.stop)
      for index in locate(np.arange(start, stop))[0]:
        _check_readable(source, int(index))
      # Every example can be read: it is something else, or has gone away.
      raise RuntimeError(
        f'the input pipeline of {source.name} failed: {error.message}'
      ) from error
    yield batch


def _make_dataset(
  source: Source,
  locate: LocateFn,
  *,
  to_row: Callable[..., Any],
  data: config_lib.DataConfig,
  local: range,
  rows: int,
) -> Any:
  """tf.data.Dataset of batches of `rows` over local positions."""
  read_chunk = _make_read_chunk(source, locate)
  num_words = len(locate(np.array([local.start]))) - 1
  dtypes = [tf.string, tf.int32, tf.int32, tf.int64] + num_words * [tf.uint32]
  shapes = [[None], [None, 3], [None], [None]] + num_words * [[None, 2]]

  def read(positions: Any) -> tuple[Any, ...]:
    columns = tf.numpy_function(read_chunk, [positions], dtypes)
    for column, shape in zip(columns, shapes, strict=True):
      column.set_shape(shape)
    return tuple(columns)

  def to_decoded_row(content: Any, shape: Any, *rest: Any) -> Any:
    if source.encoded:
      return to_row(decode(content), *rest)
    image = tf.reshape(tf.io.decode_raw(content, tf.uint8), shape)
    return to_row(tf.ensure_shape(image, [None, None, 3]), *rest)

  options = tf.data.Options()
  options.deterministic = True
  if data.num_workers:
    # Else the calls would share as many threads as there are cores.
    options.threading.private_threadpool_size = data.num_workers
  parallel = data.num_workers or tf.data.AUTOTUNE
  # The functions hold no Python control flow over tensors to convert.
  plainly = tf.autograph.experimental.do_not_convert
  return (
    tf.data.Dataset.range(local.start, local.stop)
    .batch(_CHUNK)
    .map(plainly(read), num_parallel_calls=parallel)
    .unbatch()
    .map(plainly(to_decoded_row), num_parallel_calls=parallel)
    .batch(rows)
    .prefetch(data.prefetch_batches)
    .with_options(options)
  )


def _make_read_chunk(
  source: Source, locate: LocateFn
) -> Callable[[np.ndarray], list[np.ndarray]]:
  """Function for tf.numpy_function: local positions [k] -> columns.

  Columns: bytes [k] (encoded, or the pixels of an array), int32 [k, 3] shapes
  of arrays, int32 [k] labels, then those of `locate`.
  """

  def read_chunk(positions: np.ndarray) -> list[np.ndarray]:
    index, *words = locate(positions)
    contents = np.empty(len(index), object)
    shapes = np.zeros((len(index), 3), np.int32)
    labels = np.empty(len(index), np.int32)
    for row, i in enumerate(index.tolist()):
      image, labels[row] = _read(source, i)
      if isinstance(image, np.ndarray):
        shapes[row] = image.shape
        image = image.tobytes()
      contents[row] = image
    return [contents, shapes, labels, index, *words]

  return read_chunk


def _read(source: Source, index: int) -> Example:
  """Example, or a ValueError that names it."""
  try:
    return source.read(index)
  except Exception as error:
    raise ValueError(_describe_failure(source, index, error=error)) from error


def _check_readable(source: Source, index: int) -> None:
  """Raises a ValueError that names the example if it cannot be used."""
  image, _ = _read(source, index)
  if source.encoded:
    try:
      decode(tf.constant(image))
    except tf.errors.OpError as error:
      raise ValueError(_describe_failure(source, index, error=error)) from error


def _describe_failure(source: Source, index: int, *, error: Exception) -> str:
  reason = getattr(error, 'message', str(error))
  return (
    f'example {index} of {source.name} ({source.example_id(index)}) cannot be '
    f'read: {type(error).__name__}: {reason}'
  )


def decode(encoded: Any) -> Any:
  """Encoded bytes (scalar string) -> uint8 [H, W, 3] of their own size.

  The accurate DCT makes JPEGs equal to Pillow's, bit for bit; TensorFlow's
  default is faster by a hair and off by up to 4 levels.
  """
  return tf.cond(
    tf.equal(tf.strings.substr(encoded, 0, 3), b'\xff\xd8\xff'),
    lambda: tf.io.decode_jpeg(
      encoded, channels=3, dct_method='INTEGER_ACCURATE'
    ),
    lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
  )
