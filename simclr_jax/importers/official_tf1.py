"""Checkpoints of google-research/simclr's first code (TF1): v1 and v2 files.

Every `tf.layers` call takes the next free number of its kind within its
variable scope: 'base_model/conv2d', 'base_model/conv2d_1', ... over the whole
backbone, in the order of the calls (resnet.py at commit 383d414), which is that
of the TF2 constructors. The heads have scopes of their own (model_util.py).
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
import pathlib

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.importers import official_names, official_tf2, tf_files
from simclr_jax.importers.format import (
  Arrays,
  Contents,
  Format,
  Plan,
  same_layout,
)
from simclr_jax.models import heads, resnet

_CLASSIFIER = 'head_supervised/linear_layer/dense'
_STEP = 'global_step'
_EMA = 'ema_model/'
_SLOTS = ('/Momentum', '/Adam', '/Adam_1', 'beta1_power', 'beta2_power')


def tf1_names(
  config: config_lib.ModelConfig, *, image_size: int, num_classes: int
) -> dict[str, str]:
  """{our flat path: TF1 variable name}, e.g.

  'params/backbone/layer1_0/bn1/scale' -> 'base_model/batch_normalization_2/
  gamma'.

  Args:
    config: The model section.
    image_size: As for `make_model`.
    num_classes: Of head_supervised; 0 where there is none.

  Raises:
    ValueError: If the official code cannot express the config.
  """
  official_names.check_expressible(config, image_size)
  model = models.make_model(
    config, image_size=image_size, num_classes=num_classes
  )
  scopes = dict(_scopes(config, model.cifar_stem))
  shapes = models.abstract_variables(model, image_size=image_size)
  names = {}
  for path in models.flat_paths(shapes):
    scope, leaf = official_names.split_leaf(path)
    names[path] = f'{scopes[scope]}/{leaf}'
  return names


def _scopes(
  config: config_lib.ModelConfig, cifar_stem: bool
) -> Iterator[tuple[str, str]]:
  """(our scope, TF1 scope) in the order of calls."""
  counts: collections.Counter[str] = collections.Counter()

  def numbered(kind: str) -> str:
    count = counts[kind]
    counts[kind] += 1
    return f'base_model/{kind}_{count}' if count else f'base_model/{kind}'

  stem_convs = 3 if config.sk_ratio > 0 and not cifar_stem else 1
  layers = [f'{kind}{k + 1}' for k in range(stem_convs) for kind in _PAIR]
  depth = resnet.DEPTHS[config.depth]
  for group, num_blocks in enumerate(depth.num_blocks, start=1):
    for j in range(num_blocks):
      block = _block_layers(config, projects=j == 0)
      layers += [f'layer{group}_{j}/{name}' for name in block]
  for layer in layers:
    is_norm = 'bn' in layer.rpartition('/')[2]
    kind = 'batch_normalization' if is_norm else 'conv2d'
    yield f'backbone/{layer}', numbered(kind)
  widths = heads.layer_widths(config, resnet.num_features(config))
  for j in range(1, len(widths) + 1):
    outer = f'head_contrastive/nl_{j - 1}'
    yield f'head/dense{j}', f'{outer}/dense'
    yield f'head/bn{j}', f'{outer}/batch_normalization'
  yield 'online_head', _CLASSIFIER


_PAIR = ('conv', 'bn')


def _block_layers(
  config: config_lib.ModelConfig, *, projects: bool
) -> list[str]:
  """Layers of a block in the order of calls."""
  layers = ['downsample_conv', 'downsample_bn'] if projects else []
  bottleneck = resnet.DEPTHS[config.depth].bottleneck
  for k in range(1, 4 if bottleneck else 3):
    if bottleneck and k == 2 and config.sk_ratio > 0:
      layers += ['sk/conv', 'sk/bn', 'sk/squeeze_conv', 'sk/squeeze_bn']
      layers += ['sk/expand_conv']
    else:
      layers += [f'conv{k}', f'bn{k}']
  if config.se_ratio > 0:
    layers += ['se/reduce', 'se/expand']
  return layers


def read(source: pathlib.Path, prefix: str) -> Contents:
  """Variables by name; 'ema_model/' only if it is asked for as prefix."""
  reader = tf_files.open_checkpoint(source, for_what='--format=official_tf1')
  if tf_files.has_object_graph(reader):
    raise ValueError(
      f'--source={source} holds an object graph: it is a TF2 checkpoint; '
      'import it with --format=official_tf2'
    )
  left_out: dict[str, list[str]] = collections.defaultdict(list)
  arrays: Arrays = {}
  step = 0
  for name in tf_files.names_of(reader):
    if name == _STEP:
      step = int(tf_files.read_tensor(reader, name))
      left_out['counter'].append(name)
    elif name.endswith(_SLOTS):
      left_out['optimizer'].append(name)
    elif not name.startswith(prefix):
      left_out[f'outside {prefix!r}'].append(name)
    elif not prefix and name.startswith(_EMA):
      left_out[f'moving averages, see --prefix={_EMA}'].append(name)
    else:
      arrays[name.removeprefix(prefix)] = tf_files.read_tensor(reader, name)
  return Contents(
    arrays=arrays,
    step=step,
    left_out={why: tuple(names) for why, names in left_out.items()},
  )


def plan(arrays: Arrays, config: config_lib.Config) -> Plan:
  """By the order in which the official code makes its layers."""
  num_classes = official_tf2.classes_of(arrays, f'{_CLASSIFIER}/kernel')
  names = tf1_names(
    config.model, image_size=config.data.image_size, num_classes=num_classes
  )
  return Plan(config, num_classes, names)


FORMAT = Format(
  read=read, plan=plan, to_ours=same_layout, takes_unit_range=True
)
