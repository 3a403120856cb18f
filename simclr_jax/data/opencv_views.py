"""From a config to functions of one decoded image, without TensorFlow.

What `views.py` is with it: the config is read once, what has probability or
strength 0 leaves no operation, and nothing is random. The functions write into
an array that the caller gives: a row of the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import draws, opencv_ops, randaugment

# (image uint8 [H, W, 3], draws [V, 17] or box [4], where the result goes).
FillFn = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
# (view, draws of the view) -> view, for one part of the augmentation.
_Change = Callable[[np.ndarray, draws.ViewDraws], np.ndarray]


def make_view_fn(
  augment: config_lib.AugmentConfig, *, image_size: int, num_views: int
) -> FillFn:
  """Function that makes all views of one decoded image.

  Args:
    augment: What to do.
    image_size: Side of the square views in pixels.
    num_views: Views of each image.

  Returns:
    fn(image, view_draws, out): fills out, float32 [V, H, W, 3] in [0, 1], with
    the views that `views.make_view_fn` gives for the same draws.

  Raises:
    ValueError: As `draws.check_augment`.
  """
  draws.check_augment(augment, image_size=image_size, num_views=num_views)
  distort = _make_distort(augment)
  radius = draws.blur_radius(image_size)

  def view_fn(
    image: np.ndarray, view_draws: np.ndarray, out: np.ndarray
  ) -> None:
    for row, packed in zip(out, view_draws, strict=True):
      drawn = draws.unpack(packed)
      view = opencv_ops.crop_and_resize(
        image,
        None if augment.crop_sampler == 'none' else drawn.box,
        size=image_size,
        method=augment.resize,
        flip=bool(drawn.flip),
      )
      view = distort(opencv_ops.multiply_brightness(view, 1 / 255), drawn)
      if drawn.blur_sigma > 0:
        view = opencv_ops.clip(
          opencv_ops.gaussian_blur(view, float(drawn.blur_sigma), radius=radius)
        )
      if drawn.solarize:
        view = opencv_ops.solarize(view, augment.solarize_threshold)
      if augment.randaugment_layers:
        view = randaugment.apply(
          view,
          draws.randaugment_choices(packed),
          magnitude=augment.randaugment_magnitude,
        )
      row[:] = view

  return view_fn


def make_crop_fn(
  augment: config_lib.AugmentConfig, *, image_size: int, num_views: int
) -> FillFn:
  """The part of `make_view_fn` before the flip, for `augment_on='hybrid'`.

  Returns:
    fn(image, view_draws, out): fills out, uint8 [V, H, W, 3], with the resized
    crops, limited to [0, 255] and rounded.

  Raises:
    ValueError: As `draws.check_augment`.
  """
  draws.check_augment(augment, image_size=image_size, num_views=num_views)

  def crop_fn(
    image: np.ndarray, view_draws: np.ndarray, out: np.ndarray
  ) -> None:
    boxes = draws.unpack(view_draws).box
    for row, box in zip(out, boxes, strict=True):
      view = opencv_ops.crop_and_resize(
        image,
        None if augment.crop_sampler == 'none' else box,
        size=image_size,
        method=augment.resize,
      )
      opencv_ops.to_bytes(view, row)

  return crop_fn


def make_eval_fn(
  eval_config: config_lib.EvalConfig, *, image_size: int
) -> FillFn:
  """Function that prepares one decoded image for evaluation.

  Returns:
    fn(image, box, out): fills out, float32 [H, W, 3] in [0, 1], from the int32
    [4] box that `boxes.eval_boxes` names.
  """

  def eval_fn(image: np.ndarray, box: np.ndarray, out: np.ndarray) -> None:
    view = opencv_ops.crop_and_resize(
      image, box, size=image_size, method=eval_config.resize
    )
    out[:] = opencv_ops.clip(opencv_ops.multiply_brightness(view, 1 / 255))

  return eval_fn


def _make_distort(augment: config_lib.AugmentConfig) -> _Change:
  """Jitter and grey; the result is within [0, 1]."""
  names = draws.jitter_ops(augment)
  color_ops = opencv_ops.make_color_ops(
    augment.color_ops, augment.brightness_mode
  )

  def distort(view: np.ndarray, drawn: draws.ViewDraws) -> np.ndarray:
    # torchvision resizes pictures of whole numbers, which cannot overshoot.
    if augment.color_ops == 'torchvision':
      view = opencv_ops.clip(view)
    if drawn.jitter:
      view = opencv_ops.color_jitter(
        view,
        {name: float(getattr(drawn, name)) for name in names},
        color_ops=color_ops,
        order=[int(place) for place in drawn.order[: len(names)]],
      )
    if drawn.gray:
      view = opencv_ops.grayscale(view)
    return opencv_ops.clip(view)

  return distort
