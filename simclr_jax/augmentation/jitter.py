"""Colour jitter of many images at once, each in an order of its own.

A switch between operations computes all of them for every image, at each of
the four places. Cheaper is one fixed sequence that holds each of the 24
orders, in which an image skips what is not its turn. With X for saturation or
hue (one conversion to HSV serves both), B for brightness and C for contrast

  B C B  X  B C B  X  B C B

holds them all with two HSV steps, where all four operations at each of the four
places take eight. benchmarks/augment.py compares the formulations: of a view of
224 px, as compiled for a TPU, this one moves a quarter of the bytes of
lax.switch under vmap and does 0.4 times the arithmetic of all at each place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from simclr_jax.augmentation import color
from simclr_jax.augmentation.color import Planes
from simclr_jax.data import draws

# Operations on HSV; X in the sequence above.
_CHROMATIC = ('saturation', 'hue')


def make_color_ops(
  kind: str, brightness_mode: str
) -> Mapping[str, color.ColorOp]:
  """The four jitter operations by name, as `data.ops.make_color_ops`."""
  brightness = {
    'multiplicative': color.multiply_brightness,
    'additive': color.add_brightness,
  }[brightness_mode]
  contrast, saturation, hue = {
    'official': (color.channel_contrast, color.hsv_saturation, color.hue),
    'torchvision': (color.gray_contrast, color.gray_saturation, color.hue),
    'affine': (color.channel_contrast, color.gray_saturation, color.yiq_hue),
  }[kind]
  return {
    'brightness': brightness,
    'contrast': contrast,
    'saturation': saturation,
    'hue': hue,
  }


def jitter_in_fixed_order(
  planes: Planes,
  drawn: draws.ViewDraws,
  *,
  names: Sequence[str],
  color_ops: Mapping[str, color.ColorOp],
) -> Planes:
  """Applies `names` in turn where jitter was drawn, clipping after each.

  The first operation sees the image as it comes: unclipped, with the overshoot
  of bicubic resizing (official data_util.py:color_jitter_rand).
  """
  changed = planes
  for name in names:
    changed = color.clip(color_ops[name](changed, getattr(drawn, name)))
  return color.where(drawn.jitter > 0, changed, planes)


def jitter_in_drawn_order(
  planes: Planes,
  drawn: draws.ViewDraws,
  *,
  names: Sequence[str],
  color_ops: Mapping[str, color.ColorOp],
) -> Planes:
  """As `jitter_in_fixed_order`, each image in the order drawn for it."""
  active = drawn.jitter > 0
  place = _places(drawn.order, names)
  chromatic = [name for name in _CHROMATIC if name in place]

  def step(planes: Planes, name: str, turn: jax.Array) -> Planes:
    changed = color_ops[name](planes, getattr(drawn, name))
    return color.where(active & turn, color.clip(changed), planes)

  for gap in range(len(chromatic) + 1):
    here = {
      name: jnp.asarray(gap == sum(place[x] < place[name] for x in chromatic))
      for name in ('brightness', 'contrast')
      if name in place
    }
    # Brightness may come before contrast or after it.
    if len(here) == 2:
      first = place['brightness'] < place['contrast']
      planes = step(planes, 'brightness', here['brightness'] & first)
      planes = step(planes, 'contrast', here['contrast'])
      planes = step(planes, 'brightness', here['brightness'] & ~first)
    else:
      for name, turn in here.items():
        planes = step(planes, name, turn)
    if gap == len(chromatic):
      break
    if len(chromatic) == 2:
      first = place['saturation'] < place['hue']
      changed = _saturation_or_hue(
        planes, drawn, first if gap == 0 else ~first, color_ops=color_ops
      )
    else:
      changed = color_ops[chromatic[0]](planes, getattr(drawn, chromatic[0]))
    planes = color.where(active, color.clip(changed), planes)
    # Else a compiler may compute HSV anew for each plane that comes of it.
    planes = list(jax.lax.optimization_barrier(planes))
  return planes


def _saturation_or_hue(
  planes: Planes,
  drawn: draws.ViewDraws,
  is_saturation: jax.Array,
  *,
  color_ops: Mapping[str, color.ColorOp],
) -> Planes:
  """The one for the images whose condition [...] holds, else the other."""
  saturation, hue = color_ops['saturation'], color_ops['hue']
  if saturation is color.hsv_saturation and hue is color.hue:
    return color.saturation_or_hue(
      planes, is_saturation, saturation=drawn.saturation, hue=drawn.hue
    )
  return color.where(
    is_saturation,
    saturation(planes, drawn.saturation),
    hue(planes, drawn.hue),
  )


def _places(order: jax.Array, names: Sequence[str]) -> dict[str, jax.Array]:
  """At which place [...] of the drawn order [..., 4] each operation comes."""
  drawn = order[..., : len(names)]
  return {
    name: jnp.argmax(drawn == number, axis=-1)
    for number, name in enumerate(names)
  }
