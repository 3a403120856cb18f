"""From a config to a function of a batch on the devices: its views.

The counterpart of `data/views.py`, in the same order and with the same clips,
on the same draws. What has probability or strength 0 leaves no operation in
the program. Everything acts on each view alone, so a batch sharded on its
leading axis needs no communication, and a view does not depend on the devices.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from simclr_jax import config as config_lib
from simclr_jax.augmentation import blur, color, jitter, resize
from simclr_jax.data import draws

# (uint8 [B, ...], draws float32 [B, V, 17]) -> float32 [B, V, S, S, 3].
DeviceViewsFn = Callable[[jax.Array, jax.Array], jax.Array]


def make_device_views(
  augment: config_lib.AugmentConfig, *, image_size: int, augment_on: str
) -> DeviceViewsFn:
  """Function that makes the views of a batch, to be traced into a program.

  While it runs it needs up to three float32 images of the views' size for each
  view of a device's share of the batch: 1.8 MB at 224 px, so 1.9 GB for 512
  images of two views (benchmarks/augment.py states the bytes as compiled).

  Args:
    augment: What to do.
    image_size: Side S of the square views in pixels.
    augment_on: `config.data.augment_on`: 'hybrid' or 'device'.

  Returns:
    fn(pixels, view_draws) -> float32 [B, V, S, S, 3] in [0, 1]. `view_draws` is
    float32 [B, V, 17] of `draws.draw_views`. `pixels` is uint8: on 'hybrid' the
    crops [B, V, S, S, 3] of `pipeline.crop_batches`, on 'device' whole images
    [B, H, W, 3] that hold the boxes.

  Raises:
    ValueError: As `draws.check_augment`, or if views are not made on devices.
  """
  if augment_on not in ('hybrid', 'device'):
    raise ValueError(
      f'augment_on = {augment_on!r}: the devices make views for "hybrid" and '
      '"device" only; the others come finished from the host'
    )
  draws.check_augment(augment, image_size=image_size, num_views=1)

  def make_views(pixels: jax.Array, view_draws: jax.Array) -> jax.Array:
    drawn = draws.unpack(view_draws)
    take = _take_crops if augment_on == 'hybrid' else _crop
    images = take(pixels, drawn, augment=augment, image_size=image_size)
    planes = _distort_color(color.to_planes(images), drawn, augment=augment)
    views = _blur(planes, drawn, augment=augment, image_size=image_size)
    if augment.solarize_prob > 0:
      bright = views >= augment.solarize_threshold
      chosen = (drawn.solarize > 0)[..., None, None, None]
      views = jnp.where(bright & chosen, 1.0 - views, views)
    return views

  return make_views


def _take_crops(
  crops: jax.Array,
  drawn: draws.ViewDraws,
  *,
  augment: config_lib.AugmentConfig,
  image_size: int,
) -> jax.Array:
  """Crops uint8 [B, V, S, S, 3], flipped -> float32 [B, V, 3, S, S]."""
  del image_size
  crops = jnp.moveaxis(crops, -1, -3)
  if augment.flip_prob > 0:
    chosen = (drawn.flip > 0)[..., None, None, None]
    crops = jnp.where(chosen, crops[..., ::-1], crops)
  return crops.astype(jnp.float32) * (1 / 255)


def _crop(
  pixels: jax.Array,
  drawn: draws.ViewDraws,
  *,
  augment: config_lib.AugmentConfig,
  image_size: int,
) -> jax.Array:
  """Boxes of uint8 [B, H, W, 3], flipped -> float32 [B, V, 3, S, S]."""
  return resize.crop_and_resize(
    pixels,
    drawn.box,
    size=image_size,
    method=augment.resize,
    flip=drawn.flip > 0 if augment.flip_prob > 0 else None,
  )


def _distort_color(
  planes: color.Planes,
  drawn: draws.ViewDraws,
  *,
  augment: config_lib.AugmentConfig,
) -> color.Planes:
  """Jitter and grey; clipped to [0, 1]."""
  if augment.color_ops == 'torchvision':
    # torchvision resizes pictures of whole numbers, which cannot overshoot.
    planes = color.clip(planes)
  if names := draws.jitter_ops(augment):
    random_order = augment.jitter_order == 'random' and len(names) > 1
    apply = (
      jitter.jitter_in_drawn_order
      if random_order
      else jitter.jitter_in_fixed_order
    )
    color_ops = jitter.make_color_ops(
      augment.color_ops, augment.brightness_mode
    )
    planes = apply(planes, drawn, names=names, color_ops=color_ops)
  if augment.gray_prob > 0:
    planes = color.where(drawn.gray > 0, color.grayscale(planes), planes)
  return color.clip(planes)


def _blur(
  planes: color.Planes,
  drawn: draws.ViewDraws,
  *,
  augment: config_lib.AugmentConfig,
  image_size: int,
) -> jax.Array:
  """Blurred where a sigma was drawn; channels last, in [0, 1]."""
  if augment.blur_prob <= 0:
    return jnp.stack(planes, axis=-1)
  blurred = blur.gaussian_blur(
    jnp.stack(planes, axis=-3),
    drawn.blur_sigma,
    radius=draws.blur_radius(image_size),
  )
  return jnp.clip(blurred, 0.0, 1.0)
