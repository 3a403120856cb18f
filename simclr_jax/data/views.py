"""From a config to functions of one decoded image: its views, its eval form.

`make_view_fn`, `make_crop_fn` and `make_eval_fn` read the config once, in
Python: what has probability or strength 0 leaves no operation in the graph.
Nothing is random here: what a view looks like is drawn in `draws.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import crops, draws, ops, randaugment
from simclr_jax.data.lazy_tf import tf

# (image, draws [V, 17]) -> views [V, H, W, 3].
ViewFn = Callable[['tf.Tensor', 'tf.Tensor'], 'tf.Tensor']
# (image, box [4]) -> image [H, W, 3].
EvalFn = Callable[['tf.Tensor', 'tf.Tensor'], 'tf.Tensor']


def make_view_fn(
  augment: config_lib.AugmentConfig, *, image_size: int, num_views: int
) -> ViewFn:
  """Function that makes all views of one decoded image.

  Args:
    augment: What to do.
    image_size: Side of the square views in pixels.
    num_views: Views of each image.

  Returns:
    fn(image, view_draws) -> float32 [num_views, H, W, 3] in [0, 1], for use
    inside tf.data. `image` is uint8 [H, W, 3] (or floating in [0, 1]) of any,
    also unknown, size; `view_draws` its float32 [num_views, 17] of
    `draws.draw_views`.

  Raises:
    ValueError: As `draws.check_augment`.
  """
  draws.check_augment(augment, image_size=image_size, num_views=num_views)

  def solarize(view: tf.Tensor) -> tf.Tensor:
    return ops.solarize(view, augment.solarize_threshold)

  def view_fn(image: tf.Tensor, view_draws: tf.Tensor) -> tf.Tensor:
    image = tf.convert_to_tensor(image)
    views = []
    for packed in tf.unstack(view_draws, num=num_views):
      drawn = draws.unpack(packed)
      view = _crop(image, drawn, augment=augment, image_size=image_size)
      if augment.flip_prob > 0:
        view = _where(drawn.flip > 0, crops.flip, view)
      view = _distort_color(view, drawn, augment=augment)
      view = _blur(view, drawn, augment=augment)
      if augment.solarize_prob > 0:
        view = _where(drawn.solarize > 0, solarize, view)
      if augment.randaugment_layers:
        view = _randaugment(view, packed, augment=augment)
      views.append(view)
    return tf.stack(views)

  # tf.data would otherwise rewrite this as AutoGraph, which takes seconds.
  return tf.autograph.experimental.do_not_convert(view_fn)


def make_crop_fn(
  augment: config_lib.AugmentConfig, *, image_size: int, num_views: int
) -> ViewFn:
  """The part of `make_view_fn` before the flip, for `augment_on='hybrid'`.

  Returns:
    fn(image, view_draws) -> uint8 [num_views, H, W, 3]: the resized crops,
    limited to [0, 255] and rounded. That is where hybrid views differ from the
    others: by at most half a level, and by the overshoot of bicubic resizing.

  Raises:
    ValueError: As `draws.check_augment`.
  """
  draws.check_augment(augment, image_size=image_size, num_views=num_views)

  def crop_fn(image: tf.Tensor, view_draws: tf.Tensor) -> tf.Tensor:
    image = tf.convert_to_tensor(image)
    views = [
      _crop(image, draws.unpack(packed), augment=augment, image_size=image_size)
      for packed in tf.unstack(view_draws, num=num_views)
    ]
    return tf.cast(tf.round(ops.clip(tf.stack(views)) * 255), tf.uint8)

  return tf.autograph.experimental.do_not_convert(crop_fn)


def make_eval_fn(
  eval_config: config_lib.EvalConfig, *, image_size: int
) -> EvalFn:
  """Function that prepares one decoded image for evaluation.

  Args:
    eval_config: Resize method.
    image_size: Side of the result in pixels.

  Returns:
    fn(image, box) -> float32 [image_size, image_size, 3] in [0, 1], of an image
    as in `make_view_fn` and the int32 [4] box that `boxes.eval_boxes` names.
  """

  def eval_fn(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    return ops.clip(
      crops.crop_and_resize(
        tf.convert_to_tensor(image),
        box,
        size=image_size,
        method=eval_config.resize,
      )
    )

  return tf.autograph.experimental.do_not_convert(eval_fn)


def _crop(
  image: tf.Tensor,
  drawn: draws.ViewDraws,
  *,
  augment: config_lib.AugmentConfig,
  image_size: int,
) -> tf.Tensor:
  """Crop, resized; unclipped."""
  box = None
  if augment.crop_sampler != 'none':
    box = tf.cast(drawn.box, tf.int32)
  return crops.crop_and_resize(
    image, box, size=image_size, method=augment.resize
  )


def _distort_color(
  view: tf.Tensor, drawn: draws.ViewDraws, *, augment: config_lib.AugmentConfig
) -> tf.Tensor:
  """Jitter and grey; clipped to [0, 1]."""
  if augment.color_ops == 'torchvision':
    # torchvision resizes pictures of whole numbers, which cannot overshoot.
    view = ops.clip(view)
  if names := draws.jitter_ops(augment):
    random_order = augment.jitter_order == 'random' and len(names) > 1
    places = tf.cast(drawn.order[: len(names)], tf.int32)
    view = _where(
      drawn.jitter > 0,
      lambda image: ops.color_jitter(
        image,
        {name: getattr(drawn, name) for name in names},
        color_ops=ops.make_color_ops(
          augment.color_ops, augment.brightness_mode
        ),
        order=places if random_order else None,
      ),
      view,
    )
  if augment.gray_prob > 0:
    view = _where(drawn.gray > 0, ops.grayscale, view)
  return ops.clip(view)


def _blur(
  view: tf.Tensor, drawn: draws.ViewDraws, *, augment: config_lib.AugmentConfig
) -> tf.Tensor:
  """Gaussian blur where a sigma was drawn."""
  if augment.blur_prob <= 0:
    return view
  radius = draws.blur_radius(view.shape[0])
  return _where(
    drawn.blur_sigma > 0,
    lambda image: ops.clip(
      ops.gaussian_blur(image, drawn.blur_sigma, radius=radius)
    ),
    view,
  )


def _randaugment(
  view: tf.Tensor, packed: tf.Tensor, *, augment: config_lib.AugmentConfig
) -> tf.Tensor:
  """Pillow's operations, called from the graph."""

  def apply(view: np.ndarray, packed: np.ndarray) -> np.ndarray:
    return randaugment.apply(
      view,
      draws.randaugment_choices(packed),
      magnitude=augment.randaugment_magnitude,
    )

  changed = tf.numpy_function(apply, [view, packed], tf.float32)
  return tf.ensure_shape(changed, view.shape)


def _where(
  condition: tf.Tensor,
  change: Callable[[tf.Tensor], tf.Tensor],
  view: tf.Tensor,
) -> tf.Tensor:
  """change(view) if the condition holds, computed only then."""
  return tf.cond(condition, lambda: change(view), lambda: view)
