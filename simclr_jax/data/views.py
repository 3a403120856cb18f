"""From a config to functions of one decoded image: its views, its eval form.

`make_view_fn` and `make_eval_fn` read the config once, in Python: what has
probability or strength 0 leaves no operation in the graph. Randomness is
stateless. Each draw has a name and a seed of its own, made of the example's two
words, the index of the view and that name, so a view depends on nothing but
the example, the epoch and its index: not on hosts, workers or a restart.
"""

from __future__ import annotations

from collections.abc import Callable
import itertools

from simclr_jax import config as config_lib
from simclr_jax.data import crops, ops
from simclr_jax.data.draws import Draws
from simclr_jax.data.lazy_tf import tf

# (image, words, batch_words) -> views [V, H, W, 3].
ViewFn = Callable[['tf.Tensor', 'tf.Tensor', 'tf.Tensor'], 'tf.Tensor']
EvalFn = Callable[['tf.Tensor'], 'tf.Tensor']


def make_view_fn(
  augment: config_lib.AugmentConfig, *, image_size: int, num_views: int
) -> ViewFn:
  """Function that makes all views of one decoded image.

  Args:
    augment: What to do.
    image_size: Side of the square views in pixels.
    num_views: Views of each image.

  Returns:
    fn(image, words, batch_words) -> float32 [num_views, H, W, 3] in [0, 1], for
    use inside tf.data. `image` is uint8 [H, W, 3] (or floating in [0, 1]) of
    any, also unknown, size; `words` are the example's two uint32 or int32
    words (`order.example_words`); `batch_words` two words common to all
    examples of a step, read only where `blur_sigma_per` is 'batch'.

  Raises:
    ValueError: If a setting would have no effect: a blur below 20 px, official
      crops of less than a tenth of the image; or if there are no views.
  """
  _check(augment, image_size=image_size, num_views=num_views)

  def view_fn(
    image: tf.Tensor, words: tf.Tensor, batch_words: tf.Tensor
  ) -> tf.Tensor:
    image = tf.convert_to_tensor(image)
    views = []
    for index in range(num_views):
      draws = Draws(words, f'view{index}')
      batch_draws = Draws(batch_words, f'batch/view{index}')
      view = _crop(image, draws, augment=augment, image_size=image_size)
      view = _distort_color(view, draws, augment=augment)
      view = _blur(view, draws, batch_draws, augment=augment)
      view = _solarize(view, draws, augment=augment)
      views.append(view)
    return tf.stack(views)

  # tf.data would otherwise rewrite this as AutoGraph, which takes seconds.
  return tf.autograph.experimental.do_not_convert(view_fn)


def make_eval_fn(
  eval_config: config_lib.EvalConfig, *, image_size: int
) -> EvalFn:
  """Function that prepares one decoded image for evaluation.

  Above 32 px the centre square of `crop_fraction` of the short side is resized
  to image_size (official data_util.py:preprocess_for_eval). Up to 32 px the
  whole centre square is: a CIFAR image passes as it is, and a larger or oblong
  one, which the official code cannot take there, keeps its aspect.

  Args:
    eval_config: Crop fraction and resize method.
    image_size: Side of the result in pixels.

  Returns:
    fn(image) -> float32 [image_size, image_size, 3] in [0, 1], of an image as
    in `make_view_fn`.
  """
  fraction = eval_config.crop_fraction if image_size > 32 else 1.0

  def eval_fn(image: tf.Tensor) -> tf.Tensor:
    image = tf.convert_to_tensor(image)
    box = crops.centre_box(tf.shape(image)[:2], fraction=fraction)
    return ops.clip(
      crops.crop_and_resize(
        image, box, size=image_size, method=eval_config.resize
      )
    )

  return tf.autograph.experimental.do_not_convert(eval_fn)


def _check(
  augment: config_lib.AugmentConfig, *, image_size: int, num_views: int
) -> None:
  """Refuses what would silently do nothing; the schema knows no image size."""
  problems = []
  if num_views < 1:
    problems.append(f'num_views = {num_views}: must be at least 1')
  if augment.blur_prob > 0 and ops.blur_radius(image_size) < 1:
    problems.append(
      f'augment.blur_prob = {augment.blur_prob:g} at image_size {image_size}: '
      'below 20 px the blur has a single tap and changes nothing; set it to 0'
    )
  least = crops.OFFICIAL_MIN_OBJECT_COVERED
  if augment.crop_sampler == 'official' and augment.crop_area[1] <= least:
    problems.append(
      f'augment.crop_area = {augment.crop_area!r}: the official sampler takes '
      f'no area below {least:g}, so it would return the whole image every '
      "time; raise the upper end or use crop_sampler='torchvision'"
    )
  if problems:
    raise ValueError('\n'.join(problems))


def _crop(
  image: tf.Tensor,
  draws: Draws,
  *,
  augment: config_lib.AugmentConfig,
  image_size: int,
) -> tf.Tensor:
  """Random crop, resized and perhaps flipped; unclipped."""
  box = None
  if augment.crop_sampler != 'none':
    sample = {
      'official': crops.official_box,
      'torchvision': crops.torchvision_box,
    }[augment.crop_sampler]
    box = sample(
      tf.shape(image)[:2],
      draws.seed('crop'),
      area=augment.crop_area,
      aspect=augment.crop_aspect,
    )
  view = crops.crop_and_resize(
    image, box, size=image_size, method=augment.resize
  )
  return _sometimes(
    crops.flip, view, draws=draws, name='flip', probability=augment.flip_prob
  )


def _distort_color(
  view: tf.Tensor, draws: Draws, *, augment: config_lib.AugmentConfig
) -> tf.Tensor:
  """Jitter and grey, each with its probability; clipped to [0, 1]."""
  if augment.color_ops == 'torchvision':
    # torchvision resizes pictures of whole numbers, which cannot overshoot.
    view = ops.clip(view)
  amounts = _draw_amounts(draws, augment)
  if amounts:
    view = _jitter(view, draws, augment=augment, amounts=amounts)
  view = _sometimes(
    ops.grayscale, view, draws=draws, name='gray', probability=augment.gray_prob
  )
  return ops.clip(view)


def _jitter(
  view: tf.Tensor,
  draws: Draws,
  *,
  augment: config_lib.AugmentConfig,
  amounts: dict[str, tf.Tensor],
) -> tf.Tensor:
  """The operations of `amounts` with their common probability."""
  order = None
  if augment.jitter_order == 'random' and len(amounts) > 1:
    orders = tf.constant(list(itertools.permutations(range(len(amounts)))))
    row = tf.cast(draws.uniform('order', 0, orders.shape[0]), tf.int32)
    order = orders[row]
  return _sometimes(
    lambda image: ops.color_jitter(
      image,
      amounts,
      color_ops=ops.make_color_ops(augment.color_ops, augment.brightness_mode),
      order=order,
    ),
    view,
    draws=draws,
    name='jitter',
    probability=augment.jitter_prob,
  )


def _draw_amounts(
  draws: Draws, augment: config_lib.AugmentConfig
) -> dict[str, tf.Tensor]:
  """Amount of each jitter operation that can happen, by name.

  Factors are uniform in [max(0, 1 - strength), 1 + strength), additive
  brightness and hue in [-strength, strength).
  """
  amounts: dict[str, tf.Tensor] = {}
  if augment.jitter_prob <= 0:
    return amounts
  for name in ('brightness', 'contrast', 'saturation', 'hue'):
    strength = getattr(augment, name) * augment.jitter_strength
    additive = name == 'hue' or (
      name == 'brightness' and augment.brightness_mode == 'additive'
    )
    low = -strength if additive else max(0.0, 1 - strength)
    high = strength if additive else 1 + strength
    if strength > 0:
      amounts[name] = draws.uniform(name, low, high)
  return amounts


def _blur(
  view: tf.Tensor,
  draws: Draws,
  batch_draws: Draws,
  *,
  augment: config_lib.AugmentConfig,
) -> tf.Tensor:
  """Gaussian blur with its probability."""
  if augment.blur_prob <= 0:
    return view
  source = batch_draws if augment.blur_sigma_per == 'batch' else draws
  sigma = source.uniform('blur_sigma', *augment.blur_sigma)
  radius = ops.blur_radius(view.shape[0])
  return _sometimes(
    lambda image: ops.clip(ops.gaussian_blur(image, sigma, radius=radius)),
    view,
    draws=draws,
    name='blur',
    probability=augment.blur_prob,
  )


def _solarize(
  view: tf.Tensor, draws: Draws, *, augment: config_lib.AugmentConfig
) -> tf.Tensor:
  """Solarization with its probability; stays in [0, 1] by itself."""
  return _sometimes(
    lambda image: ops.solarize(image, augment.solarize_threshold),
    view,
    draws=draws,
    name='solarize',
    probability=augment.solarize_prob,
  )


def _sometimes(
  change: Callable[[tf.Tensor], tf.Tensor],
  view: tf.Tensor,
  *,
  draws: Draws,
  name: str,
  probability: float,
) -> tf.Tensor:
  """change(view) with the given probability; no operation where it is 0."""
  if probability <= 0:
    return view
  return tf.cond(
    draws.chance(name, probability), lambda: change(view), lambda: view
  )
