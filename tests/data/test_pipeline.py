"""Batches: what stands in them, that nothing else decides it, and errors."""

from __future__ import annotations

import dataclasses
import io
import itertools
import time

import numpy as np
from PIL import Image
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data as data_lib
from simclr_jax.data import boxes, draws, order, pipeline, stream, views
from simclr_jax.data.lazy_tf import tf
from simclr_jax.data.source import Example, Source

_DATA = config_lib.DataConfig(
  source='procedural', image_size=16, num_workers=2, prefetch_batches=1
)
# Enough draws to see a difference; the jitter's graph is slow to build.
_AUGMENT = config_lib.AugmentConfig(blur_prob=0.0, jitter_prob=0.0)
_SEED = 3


def _source(n=22):
  return data_lib.make_source(_DATA, f'train[:{n}]')


def _train(source, *, data=_DATA, augment=_AUGMENT, **arguments):
  arguments = {'batch_size': 8, 'seed': _SEED, 'num_steps': 4, **arguments}
  return list(
    pipeline.train_batches(source, data=data, augment=augment, **arguments)
  )


def _equal(a, b):
  return len(a) == len(b) and all(
    x.keys() == y.keys()
    and all(x[k].dtype == y[k].dtype and np.array_equal(x[k], y[k]) for k in x)
    for x, y in zip(a, b, strict=True)
  )


def _jpeg(number, *, size=(24, 20)):
  rng = np.random.Generator(np.random.PCG64(number))
  small = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
  out = io.BytesIO()
  Image.fromarray(small).resize(size, 2).save(out, 'JPEG')
  return out.getvalue()


def _memory(images, *, encoded):
  """Source of given images with labels 0, 1, ..."""
  return Source(
    name='memory',
    num_examples=len(images),
    num_classes=len(images),
    encoded=encoded,
    read=lambda i: Example(images[i], i),
    example_id=lambda i: f'picture-{i}',
    fingerprint='',
  )


def test_batches_hold_what_the_order_says():
  source = _source()
  batches = _train(source, num_steps=6)
  position = 0
  for batch in batches:
    assert batch['views'].shape == (8, 2, 16, 16, 3)
    assert batch['views'].dtype == np.float32
    assert batch['label'].dtype == np.int32
    assert batch['index'].dtype == np.int64
    assert batch['views'].min() >= 0 and batch['views'].max() <= 1
    for index, label in zip(batch['index'], batch['label'], strict=True):
      epoch, place = divmod(position, 22)
      assert index == order.permutation(_SEED, epoch, 22)[place]
      assert label == source.read(int(index)).label
      position += 1


def test_every_epoch_is_a_permutation_across_batches():
  indices = np.concatenate(
    [b['index'] for b in _train(_source(), num_steps=11)]
  )
  epochs = indices.reshape(4, 22)
  for epoch in epochs:
    assert sorted(epoch) == list(range(22))
  assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize('sigma_per', ['image', 'batch'])
def test_views_are_those_of_the_view_function(sigma_per):
  source = _source()
  augment = config_lib.AugmentConfig(blur_sigma_per=sigma_per)
  data = dataclasses.replace(_DATA, image_size=32)
  (batch,) = _train(
    source, data=data, augment=augment, start_step=5, num_steps=1
  )
  arguments = {'image_size': 32, 'num_views': 2}
  view_fn = tf.function(
    views.make_view_fn(augment, **arguments), autograph=False
  )
  crop_fn = views.make_crop_fn(augment, **arguments)
  (cropped,) = pipeline.crop_batches(
    source,
    data=data,
    augment=augment,
    batch_size=8,
    seed=_SEED,
    start_step=5,
    num_steps=1,
  )
  np.testing.assert_array_equal(batch['index'], cropped['index'])
  np.testing.assert_array_equal(batch['label'], cropped['label'])
  for row in range(8):
    index = int(batch['index'][row])
    epoch = (5 * 8 + row) // 22
    image = source.read(index).image
    drawn = draws.draw_views(
      augment,
      order.example_words(_SEED, epoch, index=index)[None],
      batch_words=order.batch_words(_SEED, 5)[None],
      sizes=np.array([image.shape[:2]]),
      num_views=2,
    )[0]
    np.testing.assert_array_equal(cropped['draws'][row], drawn)
    # The graph may fuse differently outside tf.data.
    want = view_fn(image, drawn)
    np.testing.assert_allclose(batch['views'][row], want, atol=1e-5)
    want = crop_fn(image, drawn).numpy().astype(int)
    # Halves may round either way.
    assert np.abs(cropped['crops'][row] - want).max() <= 1
    assert (cropped['crops'][row] == want).mean() > 0.999


def test_an_example_gets_new_views_each_epoch_and_seed():
  source = _source(8)
  first, second = _train(source, num_steps=2)
  (other,) = _train(source, num_steps=1, seed=_SEED + 1)

  def views_of(batch, index):
    return batch['views'][batch['index'] == index][0]

  for index in range(8):
    a, b, c = (views_of(batch, index) for batch in (first, second, other))
    assert not np.array_equal(a[0], a[1])
    assert not np.array_equal(a, b) and not np.array_equal(a, c)


def test_a_restart_changes_nothing():
  source = _source()
  whole = _train(source, num_steps=6)
  assert _equal(_train(source, start_step=4, num_steps=2), whole[4:])


def _slow(source, which):
  def read(i):
    time.sleep(0.05 * (i in which))
    return source.read(i)

  return dataclasses.replace(source, read=read)


@pytest.mark.parametrize('workers', [0, 1, 8])
def test_workers_change_nothing(workers):
  images = [_jpeg(n, size=(20 + n, 30 - n)) for n in range(13)]
  source = _memory(images, encoded=True)
  few = _train(source)
  # The first chunk takes longest: a later one would overtake it if it could.
  late = set(order.permutation(_SEED, 0, 13)[:8].tolist())
  source = _slow(source, late)
  data = dataclasses.replace(_DATA, num_workers=workers, prefetch_batches=3)
  assert _equal(_train(source, data=data), few)


@pytest.mark.parametrize('num_hosts', [2, 4])
def test_hosts_share_the_same_global_batch(num_hosts):
  source = _source()
  whole = _train(source)
  parts = [
    _train(source, host_index=k, num_hosts=num_hosts) for k in range(num_hosts)
  ]
  joined = [
    {k: np.concatenate([part[k] for part in step]) for k in step[0]}
    for step in zip(*parts, strict=True)
  ]
  assert _equal(joined, whole)


def test_number_of_views():
  (batch,) = _train(_source(), num_steps=1, num_views=3)
  assert batch['views'].shape == (8, 3, 16, 16, 3)
  # The first views do not depend on how many there are.
  (two,) = _train(_source(), num_steps=1)
  np.testing.assert_allclose(batch['views'][:, :2], two['views'], atol=1e-6)


def test_without_a_number_of_steps_there_is_no_end():
  batches = pipeline.train_batches(
    _source(8), data=_DATA, augment=_AUGMENT, batch_size=8, seed=0
  )
  assert len(list(itertools.islice(batches, 20))) == 20


def test_arrays_of_mixed_sizes():
  images = [_source().read(n).image[: 20 + n % 7] for n in range(10)]
  source = _memory(images, encoded=False)
  (batch,) = pipeline.eval_batches(
    source, data=_DATA, eval_config=config_lib.EvalConfig(batch_size=10)
  )
  eval_fn = views.make_eval_fn(config_lib.EvalConfig(), image_size=16)
  for n, image in enumerate(images):
    box = boxes.eval_boxes(image.shape[:2], crop_fraction=0.875, image_size=16)
    want = eval_fn(image, box)
    np.testing.assert_allclose(batch['image'][n], want, atol=1e-6)


@pytest.mark.parametrize(
  ('arguments', 'match'),
  [
    ({'batch_size': 9, 'num_hosts': 2}, 'does not divide over 2 hosts.*8|10'),
    ({'batch_size': 0}, 'at least 1'),
    ({'host_index': 2, 'num_hosts': 2}, 'host 2 of 2'),
    ({'start_step': -1}, 'start_step'),
  ],
)
def test_impossible_numbers(arguments, match):
  with pytest.raises(ValueError, match=match):
    _train(_source(), **arguments)


def test_eval_refuses_a_batch_that_does_not_divide():
  with pytest.raises(ValueError, match=r'config.eval.batch_size = 9'):
    pipeline.eval_batches(
      _source(),
      data=_DATA,
      eval_config=config_lib.EvalConfig(batch_size=9),
      num_hosts=2,
    )


def _failing(source, bad, error):
  def read(i):
    if i == bad:
      raise error
    return source.read(i)

  return dataclasses.replace(source, read=read)


@pytest.mark.parametrize('bad', [0, 6, 12])
def test_an_error_while_reading_names_the_example(bad):
  source = _failing(
    _memory([_jpeg(n) for n in range(13)], encoded=True),
    bad,
    FileNotFoundError('it went away'),
  )
  with pytest.raises(
    ValueError,
    match=rf'example {bad} of memory \(picture-{bad}\).*it went away',
  ):
    # A small batch, so that a chunk of reads spans several.
    _train(source, batch_size=2, num_steps=7)


def test_an_error_while_decoding_names_the_example():
  images = [_jpeg(n) for n in range(13)]
  images[4] = images[4][:200]
  with pytest.raises(ValueError, match=r'example 4 of memory \(picture-4\)'):
    _train(_memory(images, encoded=True), num_steps=2)


@pytest.mark.parametrize(
  ('bad', 'come'),
  [
    (_jpeg(50)[:300], 6),  # found when it is decoded
    (b'nothing', 4),  # found when the chunk of 32 that it is in is read
  ],
)
def test_batches_before_the_error_still_come(bad, come):
  images = [_jpeg(n) for n in range(64)]
  images[50] = bad
  batches = pipeline.eval_batches(
    _memory(images, encoded=True),
    data=_DATA,
    eval_config=config_lib.EvalConfig(batch_size=8),
  )
  for _ in range(come):
    next(batches)
  with pytest.raises(ValueError, match='picture-50'):
    list(batches)


def test_jpegs_decode_as_pillow_does():
  for quality in (30, 75, 95):
    for subsampling in (0, 1, 2):
      image = Image.open(
        io.BytesIO(_jpeg(quality + subsampling, size=(61, 43)))
      )
      out = io.BytesIO()
      image.save(out, 'JPEG', quality=quality, subsampling=subsampling)
      want = np.asarray(Image.open(io.BytesIO(out.getvalue())))
      found = stream.decode(tf.constant(out.getvalue())).numpy()
      assert np.array_equal(found, want)


@pytest.mark.parametrize('num_hosts', [1, 2, 3])
@pytest.mark.parametrize(
  ('n', 'per_host'), [(1, 1), (1, 4), (7, 1), (8, 4), (11, 2), (23, 5), (24, 6)]
)
def test_evaluation_sees_every_example_once(n, per_host, num_hosts):
  source = _source(n)
  batch_size = per_host * num_hosts
  hosts = [
    list(
      pipeline.eval_batches(
        source,
        data=_DATA,
        eval_config=config_lib.EvalConfig(batch_size=batch_size),
        host_index=k,
        num_hosts=num_hosts,
      )
    )
    for k in range(num_hosts)
  ]
  assert {len(batches) for batches in hosts} == {-(-n // batch_size)}
  seen = []
  for step in zip(*hosts, strict=True):
    for batch in step:
      mask = batch['mask']
      assert mask.dtype == bool
      assert all(len(values) == per_host for values in batch.values())
      assert np.all(batch['image'][~mask] == 0)
      assert np.all(batch['label'][~mask] == -1)
      assert np.all(batch['index'][~mask] == -1)
      seen += batch['index'][mask].tolist()
      for index, label in zip(
        batch['index'][mask], batch['label'][mask], strict=True
      ):
        assert label == index % 8
  # In the order of the source, so that hosts' rows join to a global batch.
  assert seen == list(range(n))


def test_evaluation_images_are_those_of_the_eval_function():
  source = _source(5)
  (batch,) = pipeline.eval_batches(
    source, data=_DATA, eval_config=config_lib.EvalConfig(batch_size=8)
  )
  eval_fn = views.make_eval_fn(config_lib.EvalConfig(), image_size=16)
  for n in range(5):
    image = source.read(n).image
    box = boxes.eval_boxes(image.shape[:2], crop_fraction=0.875, image_size=16)
    want = eval_fn(image, box)
    np.testing.assert_allclose(batch['image'][n], want, atol=1e-6)


def test_cifar10_passes_through_unchanged(cifar10_dir, tmp_path):
  data = config_lib.DataConfig(
    name='cifar10', data_dir=cifar10_dir, image_size=32
  )
  source = data_lib.make_source(data, 'test[:50]', workdir=str(tmp_path))
  batches = list(
    pipeline.eval_batches(
      source, data=data, eval_config=config_lib.EvalConfig(batch_size=32)
    )
  )
  images = np.concatenate([b['image'][b['mask']] for b in batches])
  for n, image in enumerate(images):
    stored = np.asarray(Image.open(io.BytesIO(source.read(n).image)))
    np.testing.assert_allclose(image, stored / 255, atol=1e-6)
