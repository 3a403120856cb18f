"""Checkpoints of lightly's examples and benchmarks on ResNets.

Their backbone is torchvision's ResNet, or a Sequential of its children (names
are numbers, ReLU and pool counted: 'backbone.4.0.conv1.weight'), or a
Sequential of lightly's own ResNetGenerator for CIFAR (no ReLU, no pool: layer1
is child 2; 'shortcut' where torchvision says 'downsample').
"""

from __future__ import annotations

import pathlib
import re

from simclr_jax import config as config_lib
from simclr_jax.importers import mlp_head, state_dict, torch_names, torchvision
from simclr_jax.importers.format import Arrays, Contents, Format, Plan

_BLOCK = re.compile(r'(.*?)(\d)\.0\.conv1\.weight')
_CHILD = re.compile(r'(\d)\.(.+)')


def read(source: pathlib.Path, prefix: str) -> Contents:
  """A state dict, with children's numbers replaced by their names."""
  contents = state_dict.read(source)
  if not prefix and 'backbone.conv1.weight' in contents.arrays:
    prefix = 'backbone.'
  blocks = [m for n in contents.arrays if (m := _BLOCK.fullmatch(n))]
  begins = {m[1] for m in blocks if m[1].endswith('.') or not m[1]}
  if prefix:
    begins = {b for b in begins if b.rstrip('.') == prefix.rstrip('.')}
  children = {b: sorted(int(m[2]) for m in blocks if m[1] == b) for b in begins}
  if len(children) != 1:
    return state_dict.strip_prefix(contents, prefix, stem='conv1.weight')
  ((begin, numbers),) = children.items()
  if numbers not in ([2, 3, 4, 5], [4, 5, 6, 7]):
    raise ValueError(
      f'--source={source}: blocks are in the children {numbers} of {begin!r}, '
      'of a ResNet in 4 to 7, or 2 to 5 of lightly.models.ResNetGenerator'
    )
  named = {0: 'conv1', 1: 'bn1'}
  named |= {n: f'layer{k}' for k, n in enumerate(numbers, start=1)}
  arrays: Arrays = {}
  for name, array in contents.arrays.items():
    inner = name.removeprefix(begin)
    child = _CHILD.fullmatch(inner)
    if name.startswith(begin) and child and int(child[1]) in named:
      inner = f'{named[int(child[1])]}.{child[2]}'
      inner = inner.replace('.shortcut.', '.downsample.')
      arrays[inner] = array
    else:
      arrays[name] = array
  return Contents(
    arrays=arrays,
    left_out=contents.left_out,
    notes=(*contents.notes, f'children of {begin!r} named as in torchvision'),
  )


def plan(arrays: Arrays, config: config_lib.Config) -> Plan:
  """Backbone, `projection_head` and the online classifier, if there is one."""
  head = mlp_head.find(arrays, 'projection_head.layers', config=config.model)
  classifier = 'online_classifier.online_classifier'
  if f'{classifier}.weight' not in arrays:
    classifier = 'fc'
  planned = torchvision.plan_resnet(
    arrays, config, classifier=classifier, head=head.fields
  )
  return planned._replace(names={**planned.names, **head.names})


FORMAT = Format(
  read=read,
  plan=plan,
  to_ours=torch_names.from_torch,
  takes_unit_range=False,
  antialias=True,
)
