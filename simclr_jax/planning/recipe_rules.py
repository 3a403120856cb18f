"""Rules about the recipe: what is trained, whatever it runs on."""

from __future__ import annotations

from simclr_jax import config as config_lib
from simclr_jax import resolve
from simclr_jax.planning.rule import Facts, Found, Rule

# Views up to this side are CIFAR's kind: other stem, strengths, temperature.
_SMALL_VIEWS = 32


def _large_batch_without_lars(config: config_lib.Config, facts: Facts) -> Found:
  if config.optim.name != 'lars' and config.train.batch_size > 1024:
    yield (
      'optim.name',
      f'at batch {config.train.batch_size} a learning rate scaled up for '
      "momentum or Adam is unstable (the paper's reason for LARS); every "
      "published recipe above 1024 uses 'lars'",
    )


def _learning_rate(config: config_lib.Config, facts: Facts) -> Found:
  peak = facts.resolved.peak_lr
  if config.optim.name == 'lars' and not 0.5 <= peak <= 10:
    yield (
      'optim.base_lr',
      f'the peak learning rate is {peak:g}; with LARS published runs peak '
      'between 1 (batch 256, linear) and 6.4 (v2), ImageNet at 4.8',
    )
  if config.optim.name == 'sgd' and peak > 1:
    yield (
      'optim.base_lr',
      f'the peak learning rate is {peak:g}; published runs with SGD peak '
      'between 0.06 and 0.24 (batch 512). Rates of the LARS recipes are not '
      'for SGD',
    )


def _adam_rate(config: config_lib.Config, facts: Facts) -> Found:
  peak = facts.resolved.peak_lr
  if config.optim.name in ('adam', 'adamw') and peak > 0.01:
    yield (
      'optim.base_lr',
      f'the peak learning rate is {peak:g}; Adam moves every weight by about '
      'that much in each step, and rates of LARS or SGD diverge with it',
    )


def _unscaled_learning_rate(config: config_lib.Config, facts: Facts) -> Found:
  large = config.train.batch_size > 512
  if config.optim.lr_scaling == 'none' and large:
    yield (
      'optim.lr_scaling',
      f'the learning rate does not follow the batch of '
      f'{config.train.batch_size}: a base rate found at another batch is wrong '
      "here; 'linear' or 'sqrt' are what recipes assume",
    )


def _loss_scale(config: config_lib.Config, facts: Facts) -> Found:
  if config.optim.name == 'sgd' and config.loss.scale == 'official':
    yield (
      'loss.scale',
      'the official loss is exactly twice the mean over 2B that the published '
      "SGD recipes' learning rates assume; 'paper' is theirs",
    )
  if config.optim.name == 'lars' and config.loss.scale == 'paper':
    yield (
      'loss.scale',
      'LARS itself is indifferent to the scale, but batch norm, biases and the '
      'online head step without its ratio, and the official rates assume '
      "'official', which is twice as large",
    )


def _temperature(config: config_lib.Config, facts: Facts) -> Found:
  small = config.data.image_size <= _SMALL_VIEWS
  low, high, usual = (0.1, 0.7, '0.5') if small else (0.05, 0.3, '0.1')
  if not low <= config.loss.temperature <= high:
    yield (
      'loss.temperature',
      f'published runs use {usual} at this size ({low:g} to {high:g} among '
      'all); far below only the nearest negative counts, far above all count '
      'alike, and either costs several points in the paper',
    )


def _unnormalized(config: config_lib.Config, facts: Facts) -> Found:
  if not config.loss.normalize:
    yield (
      'loss.normalize',
      'dot products grow with the norms of z, so the temperature means nothing '
      'fixed; in the paper the contrastive accuracy rises and the linear one '
      'falls',
    )


def _few_negatives(config: config_lib.Config, facts: Facts) -> Found:
  if config.train.batch_size < 256:
    yield (
      'train.batch_size',
      f'{facts.resolved.negatives_per_anchor} negatives for each view: below '
      'a batch of 256 the paper loses several points, the more the shorter the '
      'run; train.micro_batches makes large batches fit',
    )


def _warmup(config: config_lib.Config, facts: Facts) -> Found:
  resolved = facts.resolved
  if resolved.warmup_steps > 0.2 * resolved.total_steps:
    share = resolved.warmup_steps / resolved.total_steps
    yield (
      'optim.warmup',
      f'{share:.0%} of the run is warm-up; published runs use 1 to 10 %',
    )
  large = config.train.batch_size >= 1024
  if resolved.warmup_steps == 0 and config.optim.name == 'lars' and large:
    yield (
      'optim.warmup',
      'LARS at a large batch starts with a warm-up in every published run (10 '
      'epochs); without it the first steps can destroy the initialisation',
    )


def _no_colour(config: config_lib.Config, facts: Facts) -> Found:
  augment = config.augment
  strengths = (augment.brightness, augment.contrast, augment.saturation)
  off = augment.jitter_prob * augment.jitter_strength * max(strengths) == 0
  if off:
    yield (
      'augment.jitter_prob'
      if not augment.jitter_prob
      else 'augment.jitter_strength',
      'without colour jitter two crops of a picture are matched by their '
      'colours: the loss falls and the features stay bad '
      '(docs/results/color_shortcut.json)',
    )


def _no_crops(config: config_lib.Config, facts: Facts) -> Found:
  augment = config.augment
  if augment.crop_sampler == 'none' or augment.crop_area[0] > 0.5:
    field = 'crop_sampler' if augment.crop_sampler == 'none' else 'crop_area'
    yield (
      f'augment.{field}',
      'two views show nearly the same part of a picture; random crops (from '
      '8 % of the area on) together with colour jitter are what the paper '
      'finds essential',
    )


def _blur(config: config_lib.Config, facts: Facts) -> Found:
  small = config.data.image_size <= _SMALL_VIEWS
  if not small and config.augment.blur_prob == 0:
    yield (
      'augment.blur_prob',
      'the published ImageNet runs blur half of all views; without it the '
      'paper loses a point (its appendix on augmentation)',
    )
  if small and config.augment.blur_prob > 0:
    yield (
      'augment.blur_prob',
      'the official CIFAR-10 recipe does not blur: at 32 px little is left to '
      'see',
    )


def _colour_strength(config: config_lib.Config, facts: Facts) -> Found:
  augment = config.augment
  strength = augment.jitter_strength * augment.brightness
  if config.data.image_size <= _SMALL_VIEWS and strength > 0.41:
    yield (
      'augment.jitter_strength',
      f'brightness {strength:g}: the CIFAR-10 recipes use half of the ImageNet '
      'strength (0.4; hue 0.1)',
    )


def _head(config: config_lib.Config, facts: Facts) -> Found:
  model = config.model
  if model.head != 'nonlinear' or model.head_layers == 0:
    yield (
      'model.head',
      'h is then trained to forget what augmentation changes: in the paper a '
      'nonlinear head is 3 points better than a linear one and more than 10 '
      'better than none',
    )


def _stem(config: config_lib.Config, facts: Facts) -> Found:
  size = config.data.image_size
  if resolve.stem_of(config.model, size) == 'imagenet' and size < 96:
    yield (
      'data.image_size',
      f'the ImageNet stem leaves {-(-size // 32)} x {-(-size // 32)} positions '
      f"of {size} px for the last blocks; model.stem='cifar' keeps them",
    )


def _export(config: config_lib.Config, facts: Facts) -> Found:
  """Images of the user's own: a published recipe keeps its network."""
  model, size = config.model, config.data.image_size
  small = model.stem == 'auto' and size <= _SMALL_VIEWS
  if (
    config.data.source not in ('folder', 'parquet', 'arrays')
    or model.stem == 'cifar'
    or small
    or (model.width, model.sk_ratio, model.se_ratio) != (1, 0, 0)
  ):
    return  # No ResNet of torch's has this form, whatever is set.
  refused = 'exporting to torchvision, timm or Hugging Face will be refused: '
  if model.padding == 'official' and -(-size // 2) % 2 == 0:
    yield (
      'model.padding',
      f'{refused}at {size} px their max-pool is shifted against the official '
      "one; 'torch' trains their form",
    )
  if model.shortcut == 'group' and model.depth in (18, 34):
    yield (
      'model.shortcut',
      f'{refused}their first block of a ResNet-{model.depth} has no '
      "projection; 'shape' trains that form",
    )


# In the order in which they are said.
RULES: dict[str, Rule] = {
  'large_batch_without_lars': _large_batch_without_lars,
  'learning_rate': _learning_rate,
  'adam_rate': _adam_rate,
  'unscaled_learning_rate': _unscaled_learning_rate,
  'loss_scale': _loss_scale,
  'temperature': _temperature,
  'unnormalized': _unnormalized,
  'few_negatives': _few_negatives,
  'warmup': _warmup,
  'no_colour': _no_colour,
  'no_crops': _no_crops,
  'blur': _blur,
  'colour_strength': _colour_strength,
  'head': _head,
  'stem': _stem,
  'export': _export,
}
