"""State dict of timm's resnet18, 34, 50, 101, 152 or 200."""

from __future__ import annotations

import pathlib

import numpy as np

from simclr_jax.exporters import torch_form
from simclr_jax.exporters.network import Network, Options, Written
from simclr_jax.importers import packages

_DEPTHS = (18, 34, 50, 101, 152, 200)


def export(network: Network, folder: pathlib.Path, options: Options) -> Written:
  """model.safetensors, loaded strictly into timm.create_model's network."""
  torch_form.check(network, name='timm', depths=_DEPTHS)
  packages.require('torch', 'timm', 'safetensors', for_what='--format=timm')
  import timm

  torch_form.write_state_dict(folder, torch_form.state_dict(network), options)
  name = f'resnet{network.config.model.depth}'
  module = timm.create_model(name, num_classes=network.num_classes)
  module.load_state_dict(torch_form.load_state_dict(folder, options))

  def forward(images: np.ndarray) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    handle = module.fc.register_forward_pre_hook(
      lambda _, inputs: found.update(h=inputs[0].numpy())
    )
    found['logits'] = torch_form.run(module, images).numpy()
    handle.remove()
    return {name: found[name] for name in network.outputs}

  how = (
    'import safetensors.torch, timm\n'
    f"model = timm.create_model('{name}', num_classes={network.num_classes})\n"
    'model.load_state_dict('
    "safetensors.torch.load_file('model.safetensors'))\n"
    'model.eval()  # takes [N, 3, H, W]'
  )
  facts = {'exact_for': torch_form.exact_sizes(network), 'layout': 'NCHW'}
  return Written(forward, how, facts)
