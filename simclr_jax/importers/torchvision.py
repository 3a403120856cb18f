"""ResNets by torchvision's names; those of timm and many others, too."""

from __future__ import annotations

import pathlib

from simclr_jax import config as config_lib
from simclr_jax.importers import state_dict, torch_names
from simclr_jax.importers.format import Arrays, Contents, Format, Plan, decide

_STEM = 'conv1.weight'


def read(source: pathlib.Path, prefix: str) -> Contents:
  """A state dict; what its names begin with is found out if not given."""
  return state_dict.strip_prefix(state_dict.read(source), prefix, stem=_STEM)


def plan(arrays: Arrays, config: config_lib.Config) -> Plan:
  """Backbone, and `fc` as online head; there is no projection head."""
  return plan_resnet(arrays, config, classifier='fc', head={'head': 'none'})


def plan_resnet(
  arrays: Arrays,
  config: config_lib.Config,
  *,
  classifier: str,
  head: dict[str, object],
) -> Plan:
  """Plan of a network in torchvision's form, without its projection head.

  Args:
    arrays: By torchvision's names.
    config: What a person gave.
    classifier: Scope of the linear classifier on h.
    head: Fields of the model section that describe the projection head.
  """
  stem = arrays.get(_STEM)
  small = stem is not None and stem.shape[2:] == (3, 3)
  config = decide(
    config,
    depth=torch_names.find_depth(arrays),
    width=torch_names.find_width(arrays),
    stem='cifar' if small else 'imagenet',
    sk_ratio=0.0,
    se_ratio=0.0,
    padding='torch',
    shortcut='shape',
    bn_epsilon=1e-5,
    **head,
  )
  kernel = arrays.get(f'{classifier}.weight')
  num_classes = kernel.shape[0] if kernel is not None else 0
  names = torch_names.torch_names(config.model, num_classes=num_classes)
  renamed = {
    path: f'{classifier}.{name.removeprefix("fc.")}'
    if name.startswith('fc.')
    else name
    for path, name in names.items()
  }
  return Plan(config, num_classes, renamed)


FORMAT = Format(
  read=read,
  plan=plan,
  to_ours=torch_names.from_torch,
  takes_unit_range=False,
  antialias=True,
)
