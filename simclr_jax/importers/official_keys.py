"""Variables of the official TF2 model by their place in the object graph.

Names of Keras layers are numbered over the whole process and depend on flags
('sync_batch_normalization_3' or 'batch_normalization_3' by `global_bn`); the
attributes through which the official model holds its layers do not. Read off
the constructors of tf2/resnet.py and tf2/model.py; lists count layers without
variables too (identities, DropBlock, pooling). Checked against the golden
manifests; those hold neither SK nor SE.
"""

from __future__ import annotations

from collections.abc import Iterator

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.importers import official_names
from simclr_jax.models import heads, resnet

VALUE = '/.ATTRIBUTES/VARIABLE_VALUE'
ROOT = 'model'


def official_keys(
  config: config_lib.ModelConfig, *, image_size: int, num_classes: int
) -> dict[str, str]:
  """{our flat path: path in the object graph}, e.g.

  'params/backbone/layer1_0/bn1/scale' -> 'model/resnet_model/block_groups/0/
  layers/0/conv2d_bn_layers/1/bn/gamma'.

  Args:
    config: The model section.
    image_size: As for `make_model`.
    num_classes: Of supervised_head; 0 where the official model has none.

  Raises:
    ValueError: If the official code cannot express the config.
  """
  official_names.check_expressible(config, image_size)
  model = models.make_model(
    config, image_size=image_size, num_classes=num_classes
  )
  scopes = dict(_scopes(config, model.cifar_stem))
  shapes = models.abstract_variables(model, image_size=image_size)
  keys = {}
  for path in models.flat_paths(shapes):
    scope, leaf = official_names.split_leaf(path)
    keys[path] = f'{ROOT}/{scopes[scope]}/{leaf}'
  return keys


def _scopes(
  config: config_lib.ModelConfig, cifar_stem: bool
) -> Iterator[tuple[str, str]]:
  """(our scope, path below the model) of every layer with variables."""
  stem = 'resnet_model/initial_conv_relu_max_pool'
  places = [(0, 2)]
  if config.sk_ratio > 0 and not cifar_stem:
    places = [(0, 1), (2, 3), (4, 6)]
  for k, (conv, norm) in enumerate(places, start=1):
    yield f'backbone/conv{k}', f'{stem}/{conv}/conv2d'
    yield f'backbone/bn{k}', f'{stem}/{norm}/bn'
  depth = resnet.DEPTHS[config.depth]
  block_scopes = _bottleneck if depth.bottleneck else _basic
  for group, num_blocks in enumerate(depth.num_blocks):
    for j in range(num_blocks):
      block = f'resnet_model/block_groups/{group}/layers/{j}'
      for ours, theirs in block_scopes(config, projects=j == 0, group=group):
        yield f'backbone/layer{group + 1}_{j}/{ours}', f'{block}/{theirs}'
  widths = heads.layer_widths(config, resnet.num_features(config))
  for j in range(1, len(widths) + 1):
    layer = f'_projection_head/linear_layers/{j - 1}'
    yield f'head/dense{j}', f'{layer}/dense'
    yield f'head/bn{j}', f'{layer}/bn_relu/bn'
  yield 'online_head', 'supervised_head/linear_layer/dense'


def _basic(
  config: config_lib.ModelConfig, *, projects: bool, group: int
) -> Iterator[tuple[str, str]]:
  if projects:
    yield from _shortcut('shortcut_layers', config, group)
  for k in (1, 2):
    yield f'conv{k}', f'conv2d_bn_layers/{2 * k - 2}/conv2d'
    yield f'bn{k}', f'conv2d_bn_layers/{2 * k - 1}/bn'
  if config.se_ratio > 0:
    yield 'se/reduce', 'se_layer/se_reduce'
    yield 'se/expand', 'se_layer/se_expand'


def _bottleneck(
  config: config_lib.ModelConfig, *, projects: bool, group: int
) -> Iterator[tuple[str, str]]:
  if projects:
    yield from _shortcut('projection_layers', config, group)
  layers = 'conv_relu_dropblock_layers'
  # Every convolution and norm is followed by a DropBlock; SK is one layer in
  # the place of two.
  last = 6
  yield 'conv1', f'{layers}/0/conv2d'
  yield 'bn1', f'{layers}/1/bn'
  if config.sk_ratio > 0:
    last = 5
    yield 'sk/conv', f'{layers}/3/conv2d_fixed_padding/conv2d'
    yield 'sk/bn', f'{layers}/3/batch_norm_relu/bn'
    yield 'sk/squeeze_conv', f'{layers}/3/conv2d_0'
    yield 'sk/squeeze_bn', f'{layers}/3/batch_norm_relu_1/bn'
    yield 'sk/expand_conv', f'{layers}/3/conv2d_1'
  else:
    yield 'conv2', f'{layers}/3/conv2d'
    yield 'bn2', f'{layers}/4/bn'
  yield 'conv3', f'{layers}/{last}/conv2d'
  yield 'bn3', f'{layers}/{last + 1}/bn'
  if config.se_ratio > 0:
    yield 'se/reduce', f'{layers}/{last + 3}/se_reduce'
    yield 'se/expand', f'{layers}/{last + 3}/se_expand'


def _shortcut(
  layers: str, config: config_lib.ModelConfig, group: int
) -> Iterator[tuple[str, str]]:
  first = 0
  if config.sk_ratio > 0:
    # ResNet-D: average pooling, behind a padding where it has a stride.
    first = 2 if group > 0 else 1
  yield 'downsample_conv', f'{layers}/{first}/conv2d'
  yield 'downsample_bn', f'{layers}/{first + 1}/bn'
