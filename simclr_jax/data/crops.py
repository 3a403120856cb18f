"""Where to crop, and cropping with resizing, of one image in TensorFlow.

A box is an int32 [4] of (top, left, height, width) in pixels. Images are uint8
[H, W, 3] (converted here) or float32 in [0, 1]; H and W may be unknown to the
graph. Results are float32 and unclipped: bicubic resizing overshoots [0, 1].
"""

from __future__ import annotations

import math

from simclr_jax.data.lazy_tf import tf

# Official data_util.py:distorted_bounding_box_crop and torchvision's
# RandomResizedCrop.get_params.
OFFICIAL_MIN_OBJECT_COVERED = 0.1
OFFICIAL_MAX_ATTEMPTS = 100
TORCHVISION_ATTEMPTS = 10


def official_box(
  image_size: tf.Tensor,
  seed: tf.Tensor,
  *,
  area: tuple[float, float],
  aspect: tuple[float, float],
) -> tf.Tensor:
  """Box of tf.image.sample_distorted_bounding_box around the whole image.

  Aspect and height are drawn uniformly, up to 100 times until the area fits;
  then the whole image is taken. The box must cover a tenth of the 'object',
  which is the whole image: areas below 0.1 never occur, whatever `area` says
  (kept, because the official results were obtained with it).

  Args:
    image_size: int32 [2], (height, width).
    seed: int32 [2]; used for nothing else.
    area: Least and largest share of the image.
    aspect: Least and largest width / height.
  """
  begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
    tf.concat([image_size, [3]], axis=0),
    bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
    seed=seed,
    min_object_covered=OFFICIAL_MIN_OBJECT_COVERED,
    aspect_ratio_range=aspect,
    area_range=area,
    max_attempts=OFFICIAL_MAX_ATTEMPTS,
    use_image_if_no_bounding_boxes=True,
  )
  return tf.concat([begin[:2], size[:2]], axis=0)


def torchvision_box(
  image_size: tf.Tensor,
  seed: tf.Tensor,
  *,
  area: tuple[float, float],
  aspect: tuple[float, float],
) -> tf.Tensor:
  """Box of torchvision's RandomResizedCrop; arguments as `official_box`.

  Area uniform, aspect log-uniform, ten tries; then the largest centred box
  whose aspect is allowed.
  """
  height_width = tf.cast(image_size, tf.float32)
  height, width = height_width[0], height_width[1]
  draws = tf.random.stateless_uniform([2 * TORCHVISION_ATTEMPTS + 2], seed)
  shares, ratios, position = tf.split(
    draws, [TORCHVISION_ATTEMPTS, TORCHVISION_ATTEMPTS, 2]
  )
  shares = area[0] + (area[1] - area[0]) * shares
  low, high = math.log(aspect[0]), math.log(aspect[1])
  ratios = tf.exp(low + (high - low) * ratios)
  target = shares * height * width
  # [tries, 2] of (height, width); tf.round and Python's round both take the
  # even neighbour of a half.
  sizes = tf.round(
    tf.stack([tf.sqrt(target / ratios), tf.sqrt(target * ratios)], axis=1)
  )
  fits = tf.reduce_all((sizes >= 1) & (sizes <= height_width), axis=1)
  fallback = tf.stack(
    [
      tf.clip_by_value(tf.round(width / aspect[0]), 1, height),
      tf.clip_by_value(tf.round(height * aspect[1]), 1, width),
    ]
  )
  found = tf.reduce_any(fits)
  size = tf.where(found, sizes[tf.argmax(fits)], fallback)
  free = height_width - size
  begin = tf.where(found, tf.floor(position * (free + 1)), free // 2)
  return tf.cast(tf.concat([begin, size], axis=0), tf.int32)


def centre_box(image_size: tf.Tensor, *, fraction: float) -> tf.Tensor:
  """Centred square box, a fraction of the short side (official eval crop).

  An odd number of spare rows or columns leaves the larger part before the box.

  Args:
    image_size: int32 [2], (height, width).
    fraction: Of the short side, in (0, 1].
  """
  short = tf.cast(tf.reduce_min(image_size), tf.float32)
  side = tf.maximum(tf.cast(tf.round(fraction * short), tf.int32), 1)
  size = tf.stack([side, side])
  return tf.concat([(image_size - size + 1) // 2, size], axis=0)


def crop_and_resize(
  image: tf.Tensor, box: tf.Tensor | None, *, size: int, method: str
) -> tf.Tensor:
  """The box of the image, resized to a square, without antialias.

  Args:
    image: [H, W, 3], uint8 or floating.
    box: int32 [4]; None is the whole image.
    size: Side of the result in pixels.
    method: 'bicubic' or 'bilinear'.

  Returns:
    float32 [size, size, 3], unclipped.
  """
  scale = _scale_to_unit(image)
  if box is not None:
    begin = tf.concat([box[:2], [0]], axis=0)
    image = tf.slice(image, begin, tf.concat([box[2:], [3]], axis=0))
  # Converted after cropping and scaled after resizing: fewest pixels each.
  image = tf.cast(image, tf.float32)
  image = tf.image.resize(image, [size, size], method=method, antialias=False)
  image = tf.ensure_shape(image, [size, size, 3])
  return image if scale == 1 else image * scale


def flip(image: tf.Tensor) -> tf.Tensor:
  """Left and right exchanged."""
  # Four times faster at 224 px than image[:, ::-1].
  return tf.reverse(image, axis=[1])


def _scale_to_unit(image: tf.Tensor) -> float:
  """What turns the image's values into [0, 1]."""
  if image.dtype == tf.uint8:
    return 1 / 255
  if image.dtype.is_floating:
    return 1.0
  raise ValueError(
    f'an image of dtype {image.dtype.name} has no known range; give uint8 '
    '(0 to 255) or floating point (0 to 1)'
  )
