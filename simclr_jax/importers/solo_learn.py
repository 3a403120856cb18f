"""Checkpoints of solo-learn's methods on ResNets (solo/methods/base.py).

Its CIFAR stem is a 3x3 convolution that pads by 2, so that a picture of 32
pixels has maps of 34. Padded by one zero more, the picture gives the same in
our stem, which pads by 1.
"""

from __future__ import annotations

import pathlib

from simclr_jax import config as config_lib
from simclr_jax.importers import mlp_head, state_dict, torch_names, torchvision
from simclr_jax.importers.format import Arrays, Contents, Format, Plan


def read(source: pathlib.Path, prefix: str) -> Contents:
  """A state dict; 'backbone.' or 'encoder.' (older versions) is removed."""
  contents = state_dict.read(source)
  if not prefix:
    begins = ('backbone.', 'encoder.', 'module.backbone.')
    known = [b for b in begins if f'{b}conv1.weight' in contents.arrays]
    prefix = known[0] if known else ''
  return state_dict.strip_prefix(contents, prefix, stem='conv1.weight')


def plan(arrays: Arrays, config: config_lib.Config) -> Plan:
  """Backbone, `projector` and the online `classifier`."""
  head = mlp_head.find(arrays, 'projector', config=config.model)
  planned = torchvision.plan_resnet(
    arrays, config, classifier='classifier', head=head.fields
  )
  pad = 1 if planned.config.model.stem == 'cifar' else 0
  return planned._replace(names={**planned.names, **head.names}, pad=pad)


FORMAT = Format(
  read=read,
  plan=plan,
  to_ours=torch_names.from_torch,
  takes_unit_range=False,
  antialias=True,
)
