"""Names and layouts of torchvision's ResNet (timm's too) <-> ours."""

from __future__ import annotations

import re

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.importers.format import Arrays
from simclr_jax.models import resnet

_LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}
_BLOCK = re.compile(r'layer([1-4])\.(\d+)\.conv([123])\.weight')


def torch_names(
  config: config_lib.ModelConfig, *, num_classes: int
) -> dict[str, str]:
  """{our flat path: torchvision name} of backbone and online head ('fc').

  'params/backbone/layer2_0/downsample_bn/scale' -> 'layer2.0.downsample.1.
  weight'. The projection head has no torchvision name and is left out.

  Args:
    config: The model section, without SK and SE.
    num_classes: Of `fc`; 0 leaves it out.
  """
  model = models.make_model(config, image_size=64, num_classes=num_classes)
  shapes = models.abstract_variables(model, image_size=64)
  return {
    path: _torch_name(path)
    for path in models.flat_paths(shapes)
    if '/head/' not in path
  }


def _torch_name(path: str) -> str:
  _, *scopes, leaf = path.split('/')
  if scopes == ['online_head']:
    return f'fc.{_LEAVES[leaf]}'
  scope = '.'.join(scopes[1:])
  scope = re.sub(r'^layer(\d)_(\d+)', r'layer\1.\2', scope)
  scope = scope.replace('downsample_conv', 'downsample.0')
  scope = scope.replace('downsample_bn', 'downsample.1')
  return f'{scope}.{_LEAVES[leaf]}'


def to_torch(array: np.ndarray) -> np.ndarray:
  """HWIO -> OIHW, [in, out] -> [out, in]; the rest as it is."""
  if array.ndim == 4:
    array = array.transpose(3, 2, 0, 1)
  elif array.ndim == 2:
    array = array.T
  return np.ascontiguousarray(array)


def from_torch(path: str, array: np.ndarray) -> np.ndarray:
  """Inverse of `to_torch`; `path` is not looked at."""
  del path
  if array.ndim == 4:
    array = array.transpose(2, 3, 1, 0)
  elif array.ndim == 2:
    array = array.T
  return np.ascontiguousarray(array)


def find_depth(arrays: Arrays) -> int:
  """Depth by the blocks that a state dict of torchvision's names has.

  Raises:
    ValueError: If no ResNet of this project has these blocks.
  """
  blocks: dict[int, set[int]] = {group: set() for group in (1, 2, 3, 4)}
  convs = set()
  for name in arrays:
    if found := _BLOCK.fullmatch(name):
      group, block, conv = map(int, found.groups())
      blocks[group].add(block)
      convs.add(conv)
  counts = tuple(len(b) for b in blocks.values())
  for depth, form in resnet.DEPTHS.items():
    if form.num_blocks == counts and form.bottleneck == (3 in convs):
      return depth
  shown = ', '.join(sorted(arrays)[:5]) or 'nothing'
  raise ValueError(
    f'no ResNet of depth {", ".join(map(str, resnet.DEPTHS))} has '
    f'{counts} blocks in its four groups, by names like '
    f'layer1.0.conv1.weight; the file has {shown}, ... (if its names begin '
    'with something else, give it as --prefix)'
  )


def find_width(arrays: Arrays) -> float:
  """Width multiplier by the first convolution."""
  stem = arrays.get('conv1.weight')
  return 1.0 if stem is None else stem.shape[0] / 64
