"""State dict of torchvision.models.resnet18, 34, 50, 101 or 152."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from simclr_jax.exporters import torch_form
from simclr_jax.exporters.network import Network, Options, Written
from simclr_jax.importers import packages

_DEPTHS = (18, 34, 50, 101, 152)


def export(network: Network, folder: pathlib.Path, options: Options) -> Written:
  """model.safetensors, loaded strictly into torchvision's own network."""
  torch_form.check(network, name='torchvision', depths=_DEPTHS)
  packages.require(
    'torch', 'torchvision', 'safetensors', for_what='--format=torchvision'
  )
  torch_form.write_state_dict(folder, torch_form.state_dict(network), options)
  function = f'resnet{network.config.model.depth}'
  module = _load(function, folder, network, options)
  classes = network.num_classes

  def forward(images: np.ndarray) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    # The linear layer's input is h, whatever the layer is.
    handle = module.fc.register_forward_pre_hook(
      lambda _, inputs: found.update(h=inputs[0].numpy())
    )
    logits = torch_form.run(module, images).numpy()
    handle.remove()
    if classes:
      found['logits'] = logits
    return {name: found[name] for name in network.outputs}

  how = (
    'import safetensors.torch, torch, torchvision\n'
    + (
      f'model = torchvision.models.{function}(num_classes={classes})\n'
      if classes
      else f'model = torchvision.models.{function}()\n'
      'model.fc = torch.nn.Identity()  # the output is h\n'
    )
    + 'model.load_state_dict('
    "safetensors.torch.load_file('model.safetensors'))\n"
    'model.eval()  # takes [N, 3, H, W]'
  )
  facts = {'exact_for': torch_form.exact_sizes(network), 'layout': 'NCHW'}
  return Written(forward, how, facts)


def _load(
  function: str, folder: pathlib.Path, network: Network, options: Options
) -> Any:
  import torch
  import torchvision

  make = getattr(torchvision.models, function)
  if network.num_classes:
    module = make(num_classes=network.num_classes)
  else:
    module = make()
    module.fc = torch.nn.Identity()
  module.load_state_dict(torch_form.load_state_dict(folder, options))
  return module
