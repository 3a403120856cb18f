"""The paper's input pipeline as one would first write it, for comparison.

Chen et al. 2020, appendix A, with the parameters of the official code
(data_util.py), straight in tf.data and tf.image: each of the two views decodes
the file and makes its own crop, flip, jitter in random order, grey and blur, in
one parallel map; depthwise convolutions blur; random numbers come from
TensorFlow's stateful generators. Nothing is tuned beyond AUTOTUNE and prefetch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools

import numpy as np

from simclr_jax.data.lazy_tf import tf

_LUMA_PROBABILITY = 0.2
_BLUR_PROBABILITY = 0.5


def plain_batches(
  pictures: Sequence[bytes],
  *,
  size: int,
  batch_size: int,
  strength: float,
  blur: bool,
) -> Iterator[np.ndarray]:
  """Endless float32 [b, 2, size, size, 3] of encoded pictures."""

  def to_views(encoded: tf.Tensor) -> tf.Tensor:
    views = [
      _make_view(encoded, size=size, strength=strength, blur=blur)
      for _ in range(2)
    ]
    return tf.stack(views)

  dataset = (
    tf.data.Dataset.from_tensor_slices(list(pictures))
    .repeat()
    .shuffle(len(pictures))
    .map(to_views, num_parallel_calls=tf.data.AUTOTUNE)
    .batch(batch_size, drop_remainder=True)
    .prefetch(tf.data.AUTOTUNE)
  )
  return dataset.as_numpy_iterator()


def _make_view(
  encoded: tf.Tensor, *, size: int, strength: float, blur: bool
) -> tf.Tensor:
  image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
  image = tf.image.convert_image_dtype(image, tf.float32)
  image = _random_crop(image, size=size)
  image = tf.image.random_flip_left_right(image)
  image = _sometimes(0.8, lambda x: _jitter(x, strength=strength), image)
  image = _sometimes(_LUMA_PROBABILITY, _drop_color, image)
  image = tf.clip_by_value(image, 0.0, 1.0)
  if blur:
    image = _sometimes(
      _BLUR_PROBABILITY, lambda x: _blur(x, taps=size // 10), image
    )
    image = tf.clip_by_value(image, 0.0, 1.0)
  return tf.ensure_shape(image, [size, size, 3])


def _random_crop(image: tf.Tensor, *, size: int) -> tf.Tensor:
  begin, extent, _ = tf.image.sample_distorted_bounding_box(
    tf.shape(image),
    tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
    min_object_covered=0.1,
    aspect_ratio_range=(3 / 4, 4 / 3),
    area_range=(0.08, 1.0),
    max_attempts=100,
    use_image_if_no_bounding_boxes=True,
  )
  crop = tf.image.crop_to_bounding_box(
    image, begin[0], begin[1], extent[0], extent[1]
  )
  return tf.image.resize(crop, [size, size], method='bicubic')


def _jitter(image: tf.Tensor, *, strength: float) -> tf.Tensor:
  """Brightness, contrast, saturation and hue, in random order."""
  most = 0.8 * strength
  lower, upper = max(0.0, 1 - most), 1 + most
  changes = (
    lambda x: x * tf.random.uniform([], lower, upper),
    lambda x: tf.image.random_contrast(x, lower, upper),
    lambda x: tf.image.random_saturation(x, lower, upper),
    lambda x: tf.image.random_hue(x, 0.2 * strength),
  )
  order = tf.random.shuffle(tf.range(len(changes)))
  for place in range(len(changes)):
    branches = [functools.partial(change, image) for change in changes]
    image = tf.clip_by_value(tf.switch_case(order[place], branches), 0.0, 1.0)
  return image


def _drop_color(image: tf.Tensor) -> tf.Tensor:
  return tf.tile(tf.image.rgb_to_grayscale(image), [1, 1, 3])


def _blur(image: tf.Tensor, *, taps: int) -> tf.Tensor:
  """Depthwise, down and across, sigma uniform in [0.1, 2]."""
  radius = taps // 2
  sigma = tf.random.uniform([], 0.1, 2.0)
  offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
  weights = tf.exp(-tf.square(offsets) / (2 * tf.square(sigma)))
  weights = weights / tf.reduce_sum(weights)
  images = image[None]
  for shape in ([-1, 1, 1, 1], [1, -1, 1, 1]):
    kernel = tf.tile(tf.reshape(weights, shape), [1, 1, 3, 1])
    images = tf.nn.depthwise_conv2d(images, kernel, [1, 1, 1, 1], 'SAME')
  return images[0]


def _sometimes(probability: float, change, image: tf.Tensor) -> tf.Tensor:  # type: ignore[no-untyped-def]
  return tf.cond(
    tf.random.uniform([]) < probability, lambda: change(image), lambda: image
  )
