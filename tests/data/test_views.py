"""Views from a config and what was drawn: which steps, in which order."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.data import boxes, crops, draws, ops, views
from simclr_jax.data.lazy_tf import tf

BATCH_WORDS = np.array([11, 12], np.uint32)
OFF = config_lib.AugmentConfig(
  crop_sampler='none',
  flip_prob=0.0,
  jitter_prob=0.0,
  gray_prob=0.0,
  blur_prob=0.0,
)
EVERYTHING = config_lib.AugmentConfig(solarize_prob=0.3)
TORCHVISION = dataclasses.replace(
  EVERYTHING,
  crop_sampler='torchvision',
  color_ops='torchvision',
  brightness_mode='additive',
  jitter_order='fixed',
  resize='bilinear',
)


def make_words(num, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 2**32, (num, 2), np.uint32)


def make_image(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def draw(augment, image, words, *, num_views=2):
  """What is drawn for the words of one image, float32 [n, V, 17]."""
  return draws.draw_views(
    augment,
    words,
    batch_words=np.broadcast_to(BATCH_WORDS, words.shape),
    sizes=np.broadcast_to(image.shape[:2], (len(words), 2)),
    num_views=num_views,
  )


def run(view_fn, image, drawn):
  """Views [n, V, H, W, 3], made inside tf.data."""
  image = tf.constant(image)
  dataset = tf.data.Dataset.from_tensor_slices(drawn)
  dataset = dataset.map(lambda d: view_fn(image, d), num_parallel_calls=2)
  return next(iter(dataset.batch(len(drawn)))).numpy()


def run_eagerly(view_fn, image, drawn):
  """The same without a graph: quick for a few."""
  return np.stack([view_fn(image, each) for each in drawn])


@pytest.mark.parametrize('augment', [EVERYTHING, TORCHVISION, OFF])
def test_shape_range_and_determinism(augment):
  view_fn = views.make_view_fn(augment, image_size=24, num_views=2)
  image, words = make_image(40, 31), make_words(40)
  drawn = draw(augment, image, words)
  made = run(view_fn, image, drawn)
  assert made.shape == (40, 2, 24, 24, 3) and made.dtype == np.float32
  assert made.min() >= 0 and made.max() <= 1
  # Neither the place in the batch nor the number of views changes a view.
  fewer = views.make_view_fn(augment, image_size=24, num_views=1)
  again = run_eagerly(fewer, image, drawn[::-1, :1])
  np.testing.assert_allclose(made[::-1, :1], again, atol=1e-5)
  np.testing.assert_array_equal(
    again, run_eagerly(fewer, image, drawn[::-1, :1])
  )
  if augment is not OFF:
    flat = made.reshape(80, -1)
    assert len(np.unique(flat, axis=0)) == 80


def test_float_images_give_the_same_views():
  view_fn = views.make_view_fn(EVERYTHING, image_size=24, num_views=2)
  image = make_image(40, 31)
  drawn = draw(EVERYTHING, image, make_words(8))
  made = run_eagerly(view_fn, image, drawn)
  as_float = run_eagerly(view_fn, image.astype(np.float32) / 255, drawn)
  np.testing.assert_allclose(made, as_float, atol=1e-5)


def test_size_unknown_to_the_graph():
  view_fn = views.make_view_fn(EVERYTHING, image_size=20, num_views=2)
  eval_fn = views.make_eval_fn(config_lib.EvalConfig(), image_size=40)

  @tf.function(
    input_signature=[
      tf.TensorSpec([None, None, 3], tf.uint8),
      tf.TensorSpec([2, draws.NUM_COLUMNS]),
      tf.TensorSpec([4], tf.int32),
    ]
  )
  def both(image, drawn, box):
    return view_fn(image, drawn), eval_fn(image, box)

  shapes = both.get_concrete_function().output_shapes
  assert [tuple(s) for s in shapes] == [(2, 20, 20, 3), (40, 40, 3)]
  for size in [(1, 1), (25, 60), (301, 7)]:
    image = make_image(*size)
    drawn = draw(EVERYTHING, image, make_words(1))
    box = boxes.eval_boxes(size, crop_fraction=0.875, image_size=40)
    made, _ = both(image, drawn[0], box)
    assert np.isfinite(made).all()


def expected_view(augment, image, packed, *, size):
  """One view written out step by step."""
  d = draws.unpack(packed)
  view = crops.crop_and_resize(
    tf.constant(image),
    tf.constant(d.box, tf.int32),
    size=size,
    method=augment.resize,
  ).numpy()
  if d.flip:
    view = view[:, ::-1]
  if d.jitter:
    steps = [
      lambda x: x * d.brightness,
      lambda x: (x - x.mean((0, 1))) * d.contrast + x.mean((0, 1)),
      lambda x: tf.image.adjust_saturation(x, d.saturation).numpy(),
      lambda x: tf.image.adjust_hue(x, d.hue).numpy(),
    ]
    for place in d.order.astype(int):
      view = np.clip(steps[place](view), 0, 1)
  if d.gray:
    view = np.repeat(view @ np.float32([[0.2989], [0.587], [0.114]]), 3, -1)
  view = np.clip(view, 0, 1)
  if d.blur_sigma:
    view = ops.gaussian_blur(
      tf.constant(view), d.blur_sigma, radius=draws.blur_radius(size)
    )
    view = np.clip(view, 0, 1)
  if d.solarize:
    view = np.where(view < augment.solarize_threshold, view, 1 - view)
  return view


def test_steps_in_the_official_order():
  augment = dataclasses.replace(
    EVERYTHING, gray_prob=0.5, solarize_prob=0.5, jitter_strength=0.7
  )
  view_fn = views.make_view_fn(augment, image_size=40, num_views=2)
  image = make_image(47, 60)
  drawn = draw(augment, image, make_words(12, seed=3))
  made = run_eagerly(view_fn, image, drawn)
  for i, index in itertools.product(range(12), range(2)):
    expected = expected_view(augment, image, drawn[i, index], size=40)
    # A pixel at the threshold may fall to either side of it by rounding.
    differs = np.abs(made[i, index] - expected) > 1e-4
    assert differs.mean() < 1e-3, (i, index)


def test_a_subset_of_the_operations_in_their_drawn_order():
  augment = dataclasses.replace(
    OFF, jitter_prob=1.0, saturation=0.0, hue=0.0, contrast=0.8
  )
  image = make_image(20, 20)
  drawn = draw(augment, image, make_words(12))
  view_fn = views.make_view_fn(augment, image_size=20, num_views=2)
  made = run_eagerly(view_fn, image, drawn).reshape(24, 20, 20, 3)
  named = draws.unpack(drawn.reshape(24, draws.NUM_COLUMNS))
  assert {tuple(o) for o in named.order[:, :2]} == {(0, 1), (1, 0)}
  for row in range(24):
    x = image / 255
    for place in named.order[row, :2]:
      if place == 0:
        x = x * named.brightness[row]
      else:
        mean = x.mean((0, 1))
        x = (x - mean) * named.contrast[row] + mean
      x = np.clip(x, 0, 1)
    np.testing.assert_allclose(made[row], x, atol=1e-5)


def test_hybrid_crops_are_the_rounded_start_of_views():
  augment = dataclasses.replace(EVERYTHING, flip_prob=0.0, jitter_prob=0.0)
  augment = dataclasses.replace(
    augment, gray_prob=0.0, blur_prob=0.0, solarize_prob=0.0
  )
  image = make_image(47, 60)
  drawn = draw(augment, image, make_words(6))
  whole = views.make_view_fn(augment, image_size=24, num_views=2)
  part = views.make_crop_fn(EVERYTHING, image_size=24, num_views=2)
  expected = run_eagerly(whole, image, drawn)
  got = run_eagerly(part, image, drawn)
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got, np.rint(expected * 255))
  assert len(np.unique(got)) > 250


def operations(augment):
  """Counts of the operations in the graph of one view, branches included."""
  view_fn = views.make_view_fn(augment, image_size=20, num_views=1)
  graph = (
    tf.function(view_fn)
    .get_concrete_function(
      tf.TensorSpec([None, None, 3], tf.uint8),
      tf.TensorSpec([1, draws.NUM_COLUMNS]),
    )
    .graph.as_graph_def()
  )
  nodes = list(graph.node)
  for function in graph.library.function:
    nodes.extend(function.node_def)
  return collections.Counter(node.op for node in nodes)


def test_without_augmentation_only_the_resize_is_left():
  counts = operations(OFF)
  assert not any(
    op.startswith(('Stateless', 'If', 'Case', 'Slice')) for op in counts
  )


def test_what_cannot_happen_leaves_no_operation():
  everything = operations(EVERYTHING)
  for change, gone in [
    ({'crop_sampler': 'none'}, 'Slice'),
    ({'flip_prob': 0.0}, 'ReverseV2'),
    ({'jitter_prob': 0.0}, 'AdjustHue'),
    ({'jitter_strength': 0.0}, 'AdjustHue'),
    ({'jitter_order': 'fixed'}, 'Case'),
    ({'hue': 0.0}, 'AdjustHue'),
    ({'saturation': 0.0}, 'AdjustSaturation'),
    ({'contrast': 0.0, 'gray_prob': 0.0}, 'AdjustContrastv2'),
    ({'blur_prob': 0.0}, 'DepthwiseConv2dNative'),
    ({'solarize_prob': 0.0}, 'Less'),
  ]:
    counts = operations(dataclasses.replace(EVERYTHING, **change))
    found = {op.removeprefix('Stateless') for op in counts}
    there = {op.removeprefix('Stateless') for op in everything}
    assert gone in there and gone not in found, (change, sorted(counts))


def test_whole_image_without_crop():
  view_fn = views.make_view_fn(OFF, image_size=16, num_views=2)
  image = make_image(16, 16)
  made = view_fn(image, draw(OFF, image, make_words(1))[0])
  np.testing.assert_allclose(made, np.stack([image / 255] * 2), atol=1e-6)


def eval_box(image, side, fraction=0.875):
  return boxes.eval_boxes(
    image.shape[:2], crop_fraction=fraction, image_size=side
  )


@pytest.mark.parametrize('name', ['300x200', '257x401', '32x32'])
def test_official_eval_crop(golden, name):
  data = golden('augment')
  eval_fn = views.make_eval_fn(config_lib.EvalConfig(), image_size=64)
  source = data[f'eval_src_flower_{name}']
  got = eval_fn(source, eval_box(source, 64))
  np.testing.assert_allclose(got, data[f'eval64_flower_{name}'], atol=3e-4)


@pytest.mark.parametrize('name', ['cifar0', 'cifar1', 'cifar2'])
def test_official_eval_of_small_images(golden, name):
  data = golden('augment')
  source = data[f'eval_src_{name}']
  eval_fn = views.make_eval_fn(config_lib.EvalConfig(), image_size=32)
  got = eval_fn(source, eval_box(source, 32))
  np.testing.assert_allclose(got, data[f'eval32_nocrop_{name}'], atol=1e-6)
  box = boxes.centre_boxes(np.array([32, 32]), fraction=0.875)
  cropped = crops.crop_and_resize(
    tf.constant(source), box, size=32, method='bicubic'
  )
  np.testing.assert_allclose(
    ops.clip(cropped), data[f'eval32_crop_{name}'], atol=3e-4
  )


def test_small_eval_images_keep_their_aspect():
  image = make_image(20, 30)
  eval_fn = views.make_eval_fn(config_lib.EvalConfig(), image_size=20)
  got = eval_fn(image, eval_box(image, 20))
  np.testing.assert_allclose(got, image[:, 5:25] / 255, atol=1e-6)


def test_eval_resize_method_and_range():
  image = make_image(90, 100)
  made = {}
  for method in ('bicubic', 'bilinear'):
    eval_config = config_lib.EvalConfig(resize=method)
    eval_fn = views.make_eval_fn(eval_config, image_size=40)
    made[method] = eval_fn(image, eval_box(image, 40, fraction=1.0))
    assert made[method].numpy().min() >= 0 and made[method].numpy().max() <= 1
  assert np.abs(made['bicubic'] - made['bilinear']).max() > 0.01
