"""Variable names of google-research/simclr (tf2) <-> our paths, both ways.

Keras numbers layers by class in the order in which constructors run, over the
whole model ('conv2d', 'conv2d_1', ...). A block constructs its shortcut first,
so the numbers do not follow the data flow; `_scopes` walks the constructors'
order and yields the pairs. Arrays need no transposition: both sides store HWIO
and [in, out].

Checked against the golden manifests (ResNet-18 with CIFAR stem, ResNet-50). SK
and SE networks, which no manifest holds, were checked once against the official
layers rebuilt in tf-keras 2.21: same names, and outputs, moving statistics and
odd sizes equal in float64 (eval 1e-13, train 1e-11). The test pins the names.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.models import heads, resnet
from simclr_jax.models import model as model_lib

_LEAVES = {'kernel': 'kernel', 'bias': 'bias'}
_NORM_LEAVES = {
  'scale': 'gamma',
  'bias': 'beta',
  'mean': 'moving_mean',
  'var': 'moving_variance',
}


class _Variable(NamedTuple):
  """An official variable."""

  name: str
  shape: tuple[int, ...]


class _Numbering:
  """Names as Keras gives them: the second 'conv2d' is 'conv2d_1'."""

  def __init__(self) -> None:
    self._counts: collections.Counter[str] = collections.Counter()

  def name(self, kind: str) -> str:
    count = self._counts[kind]
    self._counts[kind] += 1
    return f'{kind}_{count}' if count else kind

  def conv(self) -> str:
    """Scope of a Conv2dFixedPadding."""
    return f'{self.name("conv2d_fixed_padding")}/{self.name("conv2d")}'

  def norm(self) -> str:
    """Scope of a BatchNormRelu."""
    outer = self.name('batch_norm_relu')
    return f'{outer}/{self.name("sync_batch_normalization")}'


def official_names(
  config: config_lib.ModelConfig, *, image_size: int, num_classes: int
) -> dict[str, str]:
  """{our flat path: official variable name without ':0'}, e.g.

  'params/backbone/layer1_0/bn1/scale' -> 'resnet/block_group1/residual_block/
  batch_norm_relu_2/sync_batch_normalization_2/gamma'.

  Args:
    config: The model section.
    image_size: As for `make_model`.
    num_classes: Of head_supervised; 0 where the official model has none.

  Raises:
    ValueError: If the official code cannot express the config.
  """
  check_expressible(config, image_size)
  table = _table(config, image_size=image_size, num_classes=num_classes)
  return {path: entry.name for path, entry in table.items()}


def from_official(
  named_arrays: Mapping[str, Any],
  config: config_lib.ModelConfig,
  *,
  image_size: int,
  num_classes: int,
) -> model_lib.Variables:
  """Our variables from official arrays; values and dtypes are kept.

  Args:
    named_arrays: {official name, with or without ':0': array}; exactly the
      model's variables (no optimizer slots, no global_step).
    config: The model section that the arrays belong to.
    image_size: As for `make_model`.
    num_classes: Of head_supervised; 0 where there is none.

  Raises:
    ValueError: Listing every missing, unexpected and misshapen variable.
  """
  check_expressible(config, image_size)
  table = _table(config, image_size=image_size, num_classes=num_classes)
  arrays = {
    k.removesuffix(':0'): np.asarray(v) for k, v in named_arrays.items()
  }
  _check_match(dict(table.values()), arrays, 'official')
  return flax.traverse_util.unflatten_dict(
    {path: arrays[entry.name] for path, entry in table.items()}, sep='/'
  )


def to_official(
  variables: model_lib.Variables,
  config: config_lib.ModelConfig,
  *,
  image_size: int,
  num_classes: int,
) -> dict[str, np.ndarray]:
  """Inverse of `from_official`: {official name without ':0': array}."""
  check_expressible(config, image_size)
  table = _table(config, image_size=image_size, num_classes=num_classes)
  arrays = {
    path: np.asarray(leaf)
    for path, leaf in models.flat_paths(variables).items()
  }
  _check_match(
    {path: entry.shape for path, entry in table.items()}, arrays, 'our'
  )
  return {entry.name: arrays[path] for path, entry in table.items()}


def _table(
  config: config_lib.ModelConfig, *, image_size: int, num_classes: int
) -> dict[str, _Variable]:
  """{our path: official variable}; leaves and shapes from our model."""
  model = models.make_model(
    config, image_size=image_size, num_classes=num_classes
  )
  scopes = dict(_scopes(config, model.cifar_stem, num_classes))
  table = {}
  shapes = models.abstract_variables(model, image_size=image_size)
  for path, leaf in models.flat_paths(shapes).items():
    scope, leaf_name = split_leaf(path)
    table[path] = _Variable(f'{scopes[scope]}/{leaf_name}', leaf.shape)
  return table


def split_leaf(path: str) -> tuple[str, str]:
  """(our scope, official name of the leaf) of one of our flat paths.

  'params/backbone/bn1/scale' -> ('backbone/bn1', 'gamma').
  """
  _, _, scoped = path.partition('/')
  scope, _, leaf_name = scoped.rpartition('/')
  is_norm = 'bn' in scope.rpartition('/')[2]
  return scope, (_NORM_LEAVES if is_norm else _LEAVES)[leaf_name]


def _scopes(
  config: config_lib.ModelConfig, cifar_stem: bool, num_classes: int
) -> Iterator[tuple[str, str]]:
  """(our scope, official scope) in the order of official constructors."""
  numbers = _Numbering()
  stem_convs = 3 if config.sk_ratio > 0 and not cifar_stem else 1
  for k in range(1, stem_convs + 1):
    yield f'backbone/conv{k}', f'resnet/{numbers.conv()}'
    yield f'backbone/bn{k}', f'resnet/{numbers.norm()}'
  depth = resnet.DEPTHS[config.depth]
  for group, num_blocks in enumerate(depth.num_blocks, start=1):
    for j in range(num_blocks):
      block = 'bottleneck_block' if depth.bottleneck else 'residual_block'
      official = f'resnet/block_group{group}/{numbers.name(block)}'
      for ours, theirs in _block_scopes(config, numbers, projects=j == 0):
        yield f'backbone/layer{group}_{j}/{ours}', f'{official}/{theirs}'
  widths = heads.layer_widths(config, resnet.num_features(config))
  for j in range(1, len(widths) + 1):
    # LinearLayer constructs its dense layer before its norm.
    outer = f'projection_head/nl_{j - 1}'
    yield f'head/dense{j}', f'{outer}/{numbers.name("dense")}'
    yield f'head/bn{j}', f'{outer}/{numbers.norm()}'
  if num_classes:
    outer = 'head_supervised/linear_layer'
    yield 'online_head', f'{outer}/{numbers.name("dense")}'


def _block_scopes(
  config: config_lib.ModelConfig, numbers: _Numbering, *, projects: bool
) -> Iterator[tuple[str, str]]:
  if projects:
    yield 'downsample_conv', numbers.conv()
    yield 'downsample_bn', numbers.norm()
  bottleneck = resnet.DEPTHS[config.depth].bottleneck
  for k in range(1, 4 if bottleneck else 3):
    if bottleneck and k == 2 and config.sk_ratio > 0:
      # Two plain Conv2D follow the padded one, hence two counters that drift.
      outer = numbers.name('sk__conv2d')
      yield 'sk/conv', f'{outer}/{numbers.conv()}'
      yield 'sk/bn', f'{outer}/{numbers.norm()}'
      yield 'sk/squeeze_conv', f'{outer}/{numbers.name("conv2d")}'
      yield 'sk/squeeze_bn', f'{outer}/{numbers.norm()}'
      yield 'sk/expand_conv', f'{outer}/{numbers.name("conv2d")}'
    else:
      yield f'conv{k}', numbers.conv()
      yield f'bn{k}', numbers.norm()
  if config.se_ratio > 0:
    outer = numbers.name('se__layer')
    yield 'se/reduce', f'{outer}/{numbers.name("conv2d")}'
    yield 'se/expand', f'{outer}/{numbers.name("conv2d")}'


def check_expressible(config: config_lib.ModelConfig, image_size: int) -> None:
  """ValueError unless an official network computes the same function.

  A network without a head is one whose head was left out (SimCLR v1's files
  hold none).
  """
  features = resnet.num_features(config)
  hidden_is_free = (
    config.head_hidden not in (0, features) and config.head_layers > 1
  )
  official_stem = 'cifar' if image_size <= 32 else 'imagenet'
  problems = [
    f'config.model.{field} = {getattr(config, field)!r}: the official code has '
    f'only {allowed}'
    for field, wrong, allowed in (
      (
        'stem',
        config.stem not in ('auto', official_stem),
        f'{official_stem!r} for {image_size} px (it goes by the size alone)',
      ),
      ('width', config.width != int(config.width), 'whole widths'),
      ('padding', config.padding != 'official', "what we call 'official'"),
      ('shortcut', config.shortcut != 'group', "what we call 'group'"),
      ('bn_epsilon', config.bn_epsilon != 1e-5, '1e-5'),
      (
        'head',
        config.head == 'linear',
        "'nonlinear' (its 'linear' crashes, so no such weights exist)",
      ),
      ('head_norm', config.head_norm != 'batch', "what we call 'batch'"),
      ('head_hidden', hidden_is_free, f'the width of h, {features}'),
    )
    if wrong
  ]
  if problems:
    raise ValueError(
      'No official variable names for this model:\n  - '
      + '\n  - '.join(problems)
    )


def _check_match(
  wanted: Mapping[str, tuple[int, ...]],
  arrays: Mapping[str, np.ndarray],
  side: str,
) -> None:
  """ValueError that lists every difference in names and shapes."""
  problems = [f'missing: {name}' for name in sorted(wanted.keys() - arrays)]
  problems += [f'unexpected: {name}' for name in sorted(arrays.keys() - wanted)]
  problems += [
    f'shape: {name} is {list(arrays[name].shape)}, the config wants '
    f'{list(shape)}'
    for name, shape in wanted.items()
    if name in arrays and arrays[name].shape != shape
  ]
  if problems:
    raise ValueError(
      f'{len(problems)} {side} variables do not match the config (depth, '
      'width, sk_ratio, se_ratio, stem, head_layers, num_classes); nothing was '
      'converted:\n  - ' + '\n  - '.join(problems)
    )
