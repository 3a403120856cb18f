"""A plan's examples through tf.data: read, decoded, mapped, batched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import retries
from simclr_jax.data import background, reading, views
from simclr_jax.data.lazy_tf import tf
from simclr_jax.data.plan import Plan
from simclr_jax.data.source import Batch, Source

# (image uint8 [H, W, 3], decided [...]) -> {name: tensor} of one row.
ImageFn = Callable[[Any, Any], dict[str, Any]]

# Examples read by one call into Python: what a call costs is shared, above all
# that of the draws, while a batch still spreads over all workers.
_CHUNK = 32
# Chunks read at once, each of which is held until its turn.
_MOST_READS = 16


def view_stream(
  source: Source,
  plan: Plan,
  *,
  data: config_lib.DataConfig,
  augment: config_lib.AugmentConfig,
  num_views: int,
) -> Iterator[Batch]:
  """Batches of 'views', 'label', 'index', see `pipeline.train_batches`.

  Raises:
    ValueError: While iterating, if an example cannot be read or decoded; with
      its index and name.
    RuntimeError: While iterating, if the pipeline fails otherwise.
  """
  side = data.image_size
  view_fn = views.make_view_fn(augment, image_size=side, num_views=num_views)

  def to_row(image: Any, view_draws: Any) -> dict[str, Any]:
    made = view_fn(image, view_draws)
    return {'views': tf.ensure_shape(made, [num_views, side, side, 3])}

  return _make_stream(source, plan, to_row=to_row, data=data)


def crop_stream(
  source: Source,
  plan: Plan,
  *,
  data: config_lib.DataConfig,
  augment: config_lib.AugmentConfig,
  num_views: int,
) -> Iterator[Batch]:
  """Batches of 'crops', 'draws', 'label', 'index', `pipeline.crop_batches`."""
  side = data.image_size
  crop_fn = views.make_crop_fn(augment, image_size=side, num_views=num_views)

  def to_row(image: Any, view_draws: Any) -> dict[str, Any]:
    made = crop_fn(image, view_draws)
    made = tf.ensure_shape(made, [num_views, side, side, 3])
    return {'crops': made, 'draws': view_draws}

  return _make_stream(source, plan, to_row=to_row, data=data)


def eval_stream(
  source: Source,
  plan: Plan,
  *,
  data: config_lib.DataConfig,
  eval_config: config_lib.EvalConfig,
) -> Iterator[Batch]:
  """Batches of 'image', 'label', 'index'; the last may be short."""
  side = data.image_size
  eval_fn = views.make_eval_fn(eval_config, image_size=side)

  def to_row(image: Any, box: Any) -> dict[str, Any]:
    return {'image': tf.ensure_shape(eval_fn(image, box), [side, side, 3])}

  return _make_stream(source, plan, to_row=to_row, data=data)


def _make_stream(
  source: Source, plan: Plan, *, to_row: ImageFn, data: config_lib.DataConfig
) -> Iterator[Batch]:
  away: dict[int, retries.DataAway] = {}
  dataset = _make_dataset(source, plan, to_row=to_row, data=data, away=away)
  return _name_errors(dataset, source, plan, away=away)


def _name_errors(
  dataset: Any, source: Source, plan: Plan, *, away: dict[int, retries.DataAway]
) -> Iterator[Batch]:
  """Batches as NumPy arrays; an error names the example it comes from."""
  held = [dataset.as_numpy_iterator()]
  try:
    yield from _next_batches(held, source, plan, away=away)
  finally:
    # Its destructor joins threads; whoever goes on must not wait for them.
    background.run_aside(held.clear)


def _next_batches(
  held: list[Any],
  source: Source,
  plan: Plan,
  *,
  away: dict[int, retries.DataAway],
) -> Iterator[Batch]:
  # Order is deterministic, so what fails is in the next batch, or was read in
  # one chunk with its end.
  for start in range(plan.local.start, plan.local.stop, plan.rows):
    try:
      batch: Batch = next(held[0], {})
    except tf.errors.OpError as error:
      stop = min(start + plan.rows + _CHUNK, plan.local.stop)
      for at in range(start, stop):
        _check_readable(source, plan, at)
      # Every example can be read: it is something else, or has gone away.
      raise RuntimeError(
        f'the input pipeline of {source.name} failed: {error.message}'
      ) from error
    if away and min(away) < start + plan.rows:
      raise away[min(away)]
    yield batch


def _make_dataset(
  source: Source,
  plan: Plan,
  *,
  to_row: ImageFn,
  data: config_lib.DataConfig,
  away: dict[int, retries.DataAway],
) -> Any:
  """tf.data.Dataset of batches.

  `away` is given the failure of each chunk that could not be read, by its first
  position. The chunk is empty then and ends the batches: TensorFlow would print
  an exception with its traceback, and hand on neither its type nor its text.
  """
  decided = plan.decide(np.zeros(0, np.int64), np.zeros((0, 2), np.int64))
  dtypes = [tf.string, tf.int32, tf.int32, tf.int64, decided.dtype]
  shapes = [[None], [None, 3], [None], [None], [None, *decided.shape[1:]]]

  def read_columns(local: np.ndarray) -> list[np.ndarray]:
    try:
      return _to_columns(reading.read_chunk(source, plan, local))
    except retries.DataAway as error:
      away[int(local[0])] = error
      return _to_columns(reading.read_chunk(source, plan, local[:0]))

  def read(positions: Any) -> tuple[Any, ...]:
    columns = tf.numpy_function(read_columns, [positions], dtypes)
    for column, shape in zip(columns, shapes, strict=True):
      column.set_shape(shape)
    return tuple(columns)

  def to_decoded_row(
    content: Any, shape: Any, label: Any, index: Any, decided: Any
  ) -> dict[str, Any]:
    if source.encoded:
      image = decode(content)
    else:
      image = tf.reshape(tf.io.decode_raw(content, tf.uint8), shape)
      image = tf.ensure_shape(image, [None, None, 3])
    return {**to_row(image, decided), 'label': label, 'index': index}

  options = tf.data.Options()
  options.deterministic = True
  if data.num_workers:
    # Else the calls would share as many threads as there are cores.
    options.threading.private_threadpool_size = data.num_workers
  # Its thread sleeps for up to a minute, and the iterator's destructor waits
  # until it wakes: the end of a run, or of a program, would be that late.
  options.autotune.enabled = False
  parallel = data.num_workers or background.num_cores()
  # The functions hold no Python control flow over tensors to convert.
  plainly = tf.autograph.experimental.do_not_convert
  return (
    tf.data.Dataset.range(plan.local.start, plan.local.stop)
    .batch(_CHUNK)
    .map(plainly(read), num_parallel_calls=min(parallel, _MOST_READS))
    .take_while(plainly(lambda content, *_: tf.size(content) > 0))
    .unbatch()
    .map(plainly(to_decoded_row), num_parallel_calls=parallel)
    .batch(plan.rows)
    .prefetch(data.prefetch_batches)
    .with_options(options)
  )


def _to_columns(chunk: reading.Chunk) -> list[np.ndarray]:
  """What tf.numpy_function can carry.

  Bytes [k] (encoded, or the pixels of an array), int32 [k, 3] shapes of arrays,
  then labels, indices and what was decided.
  """
  contents = np.empty(len(chunk.images), object)
  shapes = np.zeros((len(chunk.images), 3), np.int32)
  for row, image in enumerate(chunk.images):
    if isinstance(image, np.ndarray):
      shapes[row] = image.shape
      image = image.tobytes()
    contents[row] = image
  return [contents, shapes, chunk.labels, chunk.indices, chunk.decided]


def _check_readable(source: Source, plan: Plan, position: int) -> None:
  """Raises a ValueError that names the example if it cannot be used."""
  chunk = reading.read_chunk(source, plan, np.array([position]))
  if source.encoded:
    try:
      decode(tf.constant(chunk.images[0]))
    except tf.errors.OpError as error:
      raise ValueError(
        reading.describe_failure(source, int(chunk.indices[0]), error=error)
      ) from error


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
