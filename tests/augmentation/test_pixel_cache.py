"""Pixels on the devices are those of the source, batches those asked for."""

import dataclasses
import io
import re

import jax
import numpy as np
from PIL import Image
import pytest

from simclr_jax import augmentation, data
from simclr_jax import config as config_lib
from simclr_jax.augmentation import canvas, device_memory, pixel_cache
from simclr_jax.data import plan as plan_lib
from simclr_jax.data.source import Example, Source
from simclr_jax.training import mesh as mesh_lib

DATA = config_lib.DataConfig(source='digits', image_size=8)


@pytest.fixture(scope='module')
def digits():
  return data.make_source(DATA, 'train[:203]')


def make_source(images, *, encoded=False, labels=None):
  labels = np.arange(len(images)) if labels is None else labels
  return Source(
    name='pictures',
    num_examples=len(images),
    num_classes=2,
    encoded=encoded,
    read=lambda i: Example(images[i], int(labels[i])),
    example_id=lambda i: f'picture {i}',
    fingerprint='x',
  )


def encode(image, kind):
  out = io.BytesIO()
  Image.fromarray(image).save(out, kind)
  return out.getvalue()


def test_batches_are_the_rows_asked_for(digits):
  expected = np.stack([digits.read(i).image for i in range(203)])
  index = np.random.default_rng(0).integers(0, 203, 32).astype(np.int32)
  index[:4] = [0, 202, 202, 101]  # ends, twice the same
  for count in (1, 8, 4, 8):
    mesh = mesh_lib.make_mesh(jax.devices()[:count])
    with jax.set_mesh(mesh):
      at = jax.device_put(index, mesh_lib.batch_sharding(mesh))
      for placement in ('replicated', 'sharded'):
        cache = augmentation.build_cache(
          digits,
          data=dataclasses.replace(DATA, device_cache=placement),
          mesh=mesh,
        )
        assert cache.pixels.placement == placement
        taken = cache.take(at)
        assert taken.dtype == np.uint8
        assert taken.sharding.spec[0] == 'data'
        np.testing.assert_array_equal(taken, expected[index])
        np.testing.assert_array_equal(
          cache.labels, [digits.read(i).label for i in range(203)]
        )
        np.testing.assert_array_equal(cache.sizes, np.full((203, 2), 8))


def collectives(text):
  """(kind, type and shape) of what the program exchanges."""
  return [
    (kind, dtype, int(np.prod([int(n) for n in shape.split(',') if n])))
    for dtype, shape, kind in re.findall(
      r'= (\w+)\[([\d,]*)\]\S* (all-\w+|reduce-scatter|collective-\w+)\(', text
    )
  ]


def test_what_moves_between_devices(digits):
  mesh = mesh_lib.make_mesh()
  with jax.set_mesh(mesh):
    at = jax.device_put(
      np.arange(64, dtype=np.int32), mesh_lib.batch_sharding(mesh)
    )
    moved = {}
    for placement in ('replicated', 'sharded'):
      cache = augmentation.build_cache(
        digits,
        data=dataclasses.replace(DATA, device_cache=placement),
        mesh=mesh,
      )
      take = jax.jit(lambda pixels, index: pixels.take(index))
      program = take.lower(cache.pixels, at).compile().as_text()
      moved[placement] = collectives(program)
      held = {s.data.shape[0] for s in cache.pixels.rows.addressable_shards}
      assert held == {203 if placement == 'replicated' else 26}
  assert moved['replicated'] == []
  # Indices to everyone; of the pixels, bytes to whom they belong.
  kinds = sorted(moved['sharded'])
  assert [kind for kind, _, _ in kinds] == ['all-gather', 'reduce-scatter']
  assert kinds[0][1:] == ('s32', 64)
  assert kinds[1][1] == 'u8' and kinds[1][2] == 64 * 192 // 8


def test_index_batches_follow_the_plan(digits):
  mesh = mesh_lib.make_mesh()
  augment = config_lib.AugmentConfig(blur_prob=0.0)
  plan = plan_lib.train_plan(
    digits,
    augment=augment,
    image_size=8,
    batch_size=48,
    seed=3,
    start_step=5,
    num_steps=2,
    host_index=1,
    num_hosts=2,
  )
  with jax.set_mesh(mesh):
    cache = augmentation.build_cache(digits, data=DATA, mesh=mesh)
  batches = list(augmentation.index_batches(plan, cache))
  assert len(batches) == 2
  for number, batch in enumerate(batches):
    local = np.arange((5 + number) * 24, (6 + number) * 24)
    index = plan.locate(local)
    np.testing.assert_array_equal(batch['index'], index)
    assert batch['index'].dtype == batch['label'].dtype == np.int32
    np.testing.assert_array_equal(
      batch['label'], [digits.read(int(i)).label for i in index]
    )
    np.testing.assert_array_equal(
      batch['draws'], plan.decide(local, np.full((24, 2), 8))
    )


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_pictures_of_any_size_on_a_canvas(kind):
  shapes = [(10, 10), (6, 9), (40, 20), (15, 30), (100, 3), (10, 4)]
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in shapes]
  source = make_source([encode(x, kind) for x in images], encoded=True)
  cache = augmentation.build_cache(
    source,
    data=dataclasses.replace(DATA, canvas_size=10, num_workers=2),
    mesh=mesh_lib.make_mesh(),
  )
  np.testing.assert_array_equal(
    cache.sizes, [(10, 10), (6, 9), (10, 5), (5, 10), (10, 1), (10, 4)]
  )
  rows = np.asarray(cache.pixels.rows).reshape(-1, 10, 10, 3)
  for place, image in enumerate(images):
    height, width = cache.sizes[place]
    got = rows[place, :height, :width]
    decoded = canvas.decode(source, place, source.read(place))
    assert decoded.shape == image.shape
    if image.shape[:2] == (height, width):
      np.testing.assert_array_equal(got, decoded)
    elif place in (2, 3):  # shrunk by whole factors: means of blocks
      factor = image.shape[0] // height
      blocks = decoded.reshape(height, factor, width, factor, 3)
      # Pillow rounds after the rows and again after the columns.
      np.testing.assert_allclose(got, blocks.mean((1, 3)), atol=1.01)
    rest = rows[place].copy()
    rest[:height, :width] = 0
    assert not rest.any()


def test_images_of_several_sizes_need_a_canvas():
  images = [np.zeros((4, 4, 3), np.uint8)] * 5 + [np.zeros((4, 6, 3), np.uint8)]
  with pytest.raises(ValueError, match=r'picture 5.*4 x 6.*canvas_size'):
    augmentation.build_cache(
      make_source(images), data=DATA, mesh=mesh_lib.make_mesh()
    )


def test_an_example_that_cannot_be_decoded_is_named():
  good = encode(np.zeros((4, 4, 3), np.uint8), 'PNG')
  source = make_source([good, good, b'\x89PNG\r\n\x1a\nnothing'], encoded=True)
  with pytest.raises(ValueError, match='picture 2'):
    augmentation.build_cache(source, data=DATA, mesh=mesh_lib.make_mesh())


def test_labels_may_be_absent():
  source = make_source([np.zeros((4, 4, 3), np.uint8)] * 3, labels=[-1] * 3)
  cache = augmentation.build_cache(source, data=DATA, mesh=mesh_lib.make_mesh())
  np.testing.assert_array_equal(cache.labels, [-1] * 3)


@pytest.mark.parametrize(
  ('wanted', 'num_bytes', 'chosen'),
  [
    ('auto', 250, 'replicated'),
    ('auto', 251, 'sharded'),
    ('auto', 6000, 'sharded'),
    ('auto', 6001, None),
    ('replicated', 750, 'replicated'),
    ('replicated', 751, None),
    ('sharded', 10, 'sharded'),
  ],
)
def test_placement_by_memory(monkeypatch, wanted, num_bytes, chosen):
  monkeypatch.setattr(device_memory, 'free_bytes', lambda mesh: 1000)
  mesh = mesh_lib.make_mesh()
  choose = lambda: device_memory.choose_placement(  # noqa: E731
    wanted, num_bytes=num_bytes, mesh=mesh, what='the pictures'
  )
  if chosen is not None:
    assert choose() == chosen
    return
  with pytest.raises(ValueError, match='the pictures does not fit') as error:
    choose()
  assert '1,000 bytes' in str(error.value)
  assert 'canvas_size' in str(error.value)
  assert ("device_cache='sharded'" in str(error.value)) == (
    wanted == 'replicated'
  )


def test_too_large_is_refused_before_anything_is_read(monkeypatch):
  monkeypatch.setattr(device_memory, 'free_bytes', lambda mesh: 1000)
  read = []

  def count(index):
    read.append(index)
    return Example(np.zeros((30, 30, 3), np.uint8), 0)

  source = dataclasses.replace(
    make_source([None] * 1000), num_examples=1000, read=count
  )
  with pytest.raises(ValueError, match='1,000 pictures of 30 x 30'):
    augmentation.build_cache(source, data=DATA, mesh=mesh_lib.make_mesh())
  assert read == [0]


def test_more_than_one_chunk(monkeypatch, digits):
  monkeypatch.setattr(pixel_cache, '_CHUNK_BYTES', 192 * 9)
  mesh = mesh_lib.make_mesh()
  with jax.set_mesh(mesh):
    for placement in ('replicated', 'sharded'):
      cache = augmentation.build_cache(
        digits,
        data=dataclasses.replace(DATA, device_cache=placement),
        mesh=mesh,
      )
      rows = np.asarray(cache.pixels.rows)[:203].reshape(203, 8, 8, 3)
      for i in (0, 8, 9, 25, 26, 202):
        np.testing.assert_array_equal(rows[i], digits.read(i).image)


def test_free_memory_of_this_machine():
  free = device_memory.free_bytes(mesh_lib.make_mesh())
  assert free is not None and free > 1 << 20


def test_sixteen_bits_keep_their_high_byte_as_everywhere():
  wide = np.array([[0x0100, 0x7F80], [0xFF00, 0x00FF]], np.uint16)
  source = make_source([encode(wide, 'PNG')], encoded=True)
  found = canvas.decode(source, 0, source.read(0))
  np.testing.assert_array_equal(found, np.repeat(wide[..., None] >> 8, 3, -1))
