"""Everything random about views, drawn on the host in NumPy.

A view is decided by 17 numbers: its box, whether it is flipped, how its
colours change, how much it is blurred (and two more for each layer of
RandAugment, where that is asked for). They are drawn here and nowhere else,
from the words of the example alone, and whoever makes the pixels (TensorFlow,
OpenCV or the accelerator) is given them. So all of these make the same view of
the same example, and a view depends on neither hosts, workers, devices nor a
restart.
"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import boxes, order, randaugment

# The numbers of a view, float32: (first column, columns). Booleans are 0 or 1.
COLUMNS = {
  'box': (0, 4),  # top, left, height, width in pixels of the image
  'flip': (4, 1),
  'jitter': (5, 1),
  'order': (6, 4),  # positions in `jitter_ops`, in the order to apply them
  'brightness': (10, 1),  # a factor, or a difference where it is additive
  'contrast': (11, 1),
  'saturation': (12, 1),
  'hue': (13, 1),  # turns
  'gray': (14, 1),
  'blur_sigma': (15, 1),  # pixels; 0 is no blur
  'solarize': (16, 1),
}
NUM_COLUMNS = 17


class ViewDraws(NamedTuple):
  """The columns by name, of NumPy, JAX or TensorFlow, as the array was.

  Shapes are those of all but the last axis.

  Attributes:
    box: [..., 4]; pixels.
    flip, jitter, gray, solarize: 0 or 1.
    order: [..., 4]; the first m are a permutation of the m operations of
      `jitter_ops`.
    brightness, contrast, saturation, hue: Amounts.
    blur_sigma: Pixels; 0 is no blur.
  """

  box: Any
  flip: Any
  jitter: Any
  order: Any
  brightness: Any
  contrast: Any
  saturation: Any
  hue: Any
  gray: Any
  blur_sigma: Any
  solarize: Any


def unpack(packed: Any) -> ViewDraws:
  """Names for the columns of [..., 17]."""
  return ViewDraws(
    **{
      name: packed[..., first : first + width]
      if width > 1
      else packed[..., first]
      for name, (first, width) in COLUMNS.items()
    }
  )


class Draws:
  """Named uniform numbers from two words; a name may be drawn once.

  The start of a draw is the words XOR 64 bits of a hash of its full name: a
  bijection of the words for each name. The numbers are the splitmix64 sequence
  from there (`order.sequence`).

  Args:
    words: uint32 [..., 2].
    scopes: First parts of the full names, one for each element of the new last
      axis of every draw: [..., 2] words give [..., len(scopes)] numbers.

  Raises:
    ValueError: If `words` is anything else.
  """

  def __init__(self, words: np.ndarray, scopes: Sequence[str]):
    words = np.asarray(words)
    if words.dtype != np.uint32 or words.shape[-1:] != (2,):
      raise ValueError(
        f'words are {words.dtype} {words.shape}; must be uint32 [..., 2], else '
        'bits of the seed would be lost'
      )
    self._words = order.whole(words)
    self._scopes = tuple(scopes)
    self._used: set[str] = set()

  def start(self, name: str) -> np.ndarray:
    """uint64 [..., scopes] that belongs to this name alone."""
    if name in self._used:
      raise ValueError(
        f'{name} of {", ".join(self._scopes)} was drawn before: a second draw '
        'would repeat it'
      )
    self._used.add(name)
    tags = [_tag(f'{scope}/{name}') for scope in self._scopes]
    return self._words[..., None] ^ np.array(tags, np.uint64)

  def uniform(
    self, name: str, low: float = 0.0, high: float = 1.0
  ) -> np.ndarray:
    """float64 [..., scopes] in [low, high)."""
    return low + (high - low) * self.stream(name)(1)[..., 0]

  def chance(self, name: str, probability: float) -> np.ndarray:
    """Booleans, true with the given probability."""
    return self.uniform(name) < probability

  def stream(self, name: str) -> boxes.UniformsFn:
    """A name's numbers in [0, 1), as many as asked for, call by call."""
    start, taken = self.start(name)[..., None], 0

    def uniforms(count: int) -> np.ndarray:
      nonlocal taken
      words = order.sequence(start, np.arange(taken, taken + count))
      taken += count
      # 53 bits, what a float64 below 1 can hold.
      return (words >> np.uint64(11)) * 2.0**-53

    return uniforms


def draw_views(
  augment: config_lib.AugmentConfig,
  words: np.ndarray,
  *,
  batch_words: np.ndarray,
  sizes: np.ndarray,
  num_views: int,
) -> np.ndarray:
  """The numbers of all views of k examples.

  Args:
    augment: What to draw.
    words: uint32 [k, 2], `order.example_words`.
    batch_words: uint32 [k, 2], common to all examples of a step; read only
      where `blur_sigma_per` is 'batch'.
    sizes: int [k, 2], (height, width) of the images.
    num_views: V.

  Returns:
    float32 [k, V, 17], see `COLUMNS`. What the config rules out is drawn as
    doing nothing: flip 0, jitter 0, the whole image. Behind them, two columns
    for each of `randaugment_layers`: place in `randaugment.OPS`, and +1 or -1.
  """
  draws = Draws(words, [f'view{i}' for i in range(num_views)])
  shared = Draws(batch_words, [f'batch/view{i}' for i in range(num_views)])
  layers = augment.randaugment_layers
  shape = (len(words), num_views, NUM_COLUMNS + 2 * layers)
  packed = np.zeros(shape, np.float32)
  view = unpack(packed)  # views of the array: filled in place below
  view.box[:] = _draw_boxes(augment, draws, sizes=sizes, num_views=num_views)
  _fill_chance(view.flip, draws, 'flip', augment.flip_prob)
  _fill_jitter(view, draws, augment)
  _fill_chance(view.gray, draws, 'gray', augment.gray_prob)
  if augment.blur_prob > 0:
    source = shared if augment.blur_sigma_per == 'batch' else draws
    sigma = source.uniform('blur_sigma', *augment.blur_sigma)
    view.blur_sigma[:] = sigma * draws.chance('blur', augment.blur_prob)
  _fill_chance(view.solarize, draws, 'solarize', augment.solarize_prob)
  for layer in range(layers):
    name, column = f'randaugment{layer}', NUM_COLUMNS + 2 * layer
    num_ops = len(randaugment.OPS)
    packed[..., column] = np.floor(draws.uniform(f'{name}/op', 0, num_ops))
    positive = draws.chance(f'{name}/sign', 0.5)
    packed[..., column + 1] = np.where(positive, 1, -1)
  return packed


def randaugment_choices(packed: Any) -> Any:
  """[..., layers, 2] of what `draw_views` gives, for `randaugment.apply`."""
  rest = packed[..., NUM_COLUMNS:]
  return rest.reshape(*rest.shape[:-1], -1, 2)


def jitter_ops(augment: config_lib.AugmentConfig) -> tuple[str, ...]:
  """Jitter operations that can happen, in torchvision's fixed order."""
  if augment.jitter_prob <= 0:
    return ()
  return tuple(name for name, most in _strengths(augment).items() if most > 0)


def _strengths(augment: config_lib.AugmentConfig) -> dict[str, float]:
  """Strength of each jitter operation, scaled."""
  scale = augment.jitter_strength
  return {
    'brightness': augment.brightness * scale,
    'contrast': augment.contrast * scale,
    'saturation': augment.saturation * scale,
    'hue': augment.hue * scale,
  }


def blur_radius(image_size: int) -> int:
  """Taps on either side of the centre for square views of this size.

  The official kernel size is image_size // 10, made odd as 2 * (size // 2) + 1
  (data_util.py:random_blur and gaussian_blur): 23 taps at 224 px, 3 at 32 px,
  one tap (no blur at all) below 20 px.
  """
  return image_size // 10 // 2


def check_augment(
  augment: config_lib.AugmentConfig, *, image_size: int, num_views: int
) -> None:
  """Refuses what would silently do nothing; the schema knows no image size.

  Raises:
    ValueError: If a setting would have no effect: a blur below 20 px, official
      crops of less than a tenth of the image; or if there are no views.
  """
  problems = []
  if num_views < 1:
    problems.append(f'num_views = {num_views}: must be at least 1')
  if augment.blur_prob > 0 and blur_radius(image_size) < 1:
    problems.append(
      f'augment.blur_prob = {augment.blur_prob:g} at image_size {image_size}: '
      'below 20 px the blur has a single tap and changes nothing; set it to 0'
    )
  least = boxes.OFFICIAL_MIN_OBJECT_COVERED
  if augment.crop_sampler == 'official' and augment.crop_area[1] <= least:
    problems.append(
      f'augment.crop_area = {augment.crop_area!r}: the official sampler takes '
      f'no area below {least:g}, so it would return the whole image every '
      "time; raise the upper end or use crop_sampler='torchvision'"
    )
  if problems:
    raise ValueError('\n'.join(problems))


def _tag(name: str) -> int:
  return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'little')


def _fill_chance(
  column: np.ndarray, draws: Draws, name: str, probability: float
) -> None:
  if probability > 0:
    column[:] = draws.chance(name, probability)


def _draw_boxes(
  augment: config_lib.AugmentConfig,
  draws: Draws,
  *,
  sizes: np.ndarray,
  num_views: int,
) -> np.ndarray:
  """int [k, V, 4]."""
  sizes = np.broadcast_to(
    np.asarray(sizes)[:, None], (len(sizes), num_views, 2)
  )
  if augment.crop_sampler == 'none':
    return np.concatenate([np.zeros_like(sizes), sizes], axis=-1)
  sample = {
    'official': boxes.official_boxes,
    'torchvision': boxes.torchvision_boxes,
  }[augment.crop_sampler]
  return sample(
    sizes,
    draws.stream('crop'),
    area=augment.crop_area,
    aspect=augment.crop_aspect,
  )


def _fill_jitter(
  view: ViewDraws, draws: Draws, augment: config_lib.AugmentConfig
) -> None:
  """Whether, in which order and how much.

  Factors are uniform in [max(0, 1 - strength), 1 + strength), additive
  brightness and hue in [-strength, strength).
  """
  names = jitter_ops(augment)
  if not names:
    return
  _fill_chance(view.jitter, draws, 'jitter', augment.jitter_prob)
  orders = np.arange(len(names))[None]
  if augment.jitter_order == 'random' and len(names) > 1:
    orders = np.array(list(itertools.permutations(range(len(names)))))
  row = np.zeros(view.jitter.shape, np.int64)
  if len(orders) > 1:
    row = draws.uniform('order', 0, math.factorial(len(names))).astype(np.int64)
  view.order[..., : len(names)] = orders[row]
  for name in names:
    strength = _strengths(augment)[name]
    additive = name == 'hue' or (
      name == 'brightness' and augment.brightness_mode == 'additive'
    )
    low = -strength if additive else max(0.0, 1 - strength)
    high = strength if additive else 1 + strength
    getattr(view, name)[:] = draws.uniform(name, low, high)
