"""Folder for the Hugging Face Hub, in the form of transformers' own ResNet.

Not in timm's form: `AutoModel.from_pretrained` needs no further package for
this one, and its free widths hold ResNet-50 (2x), which timm's resnet50 does
not.
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np

from simclr_jax.exporters import torch_form
from simclr_jax.exporters.network import Network, Options, Written
from simclr_jax.importers import packages
from simclr_jax.models import resnet

_STEM = re.compile(r'^(conv|bn)1\.')
_SHORTCUT = re.compile(r'^layer(\d)\.(\d+)\.downsample\.([01])\.')
_LAYER = re.compile(r'^layer(\d)\.(\d+)\.(conv|bn)(\d)\.')
_KINDS = {
  'conv': 'convolution',
  'bn': 'normalization',
  '0': 'convolution',
  '1': 'normalization',
}
_RESAMPLE = {'bilinear': 2, 'bicubic': 3}  # PIL's numbers


def export(network: Network, folder: pathlib.Path, options: Options) -> Written:
  """config.json, model.safetensors and preprocessor_config.json."""
  torch_form.check(
    network, name='huggingface', depths=tuple(resnet.DEPTHS), any_width=True
  )
  packages.require(
    'torch', 'transformers', 'safetensors', for_what='--format=huggingface'
  )
  begin = 'resnet.' if network.num_classes else ''
  arrays = {
    hub_name(name, begin): array
    for name, array in torch_form.state_dict(network).items()
  }
  torch_form.write_state_dict(folder, arrays, options)
  _write_json(folder / 'config.json', model_config(network))
  _write_json(folder / 'preprocessor_config.json', preprocessor(network))
  module = _load(folder, network)

  def forward(images: np.ndarray) -> dict[str, np.ndarray]:
    backbone = module.resnet if network.num_classes else module
    pooled = torch_form.run(backbone, images).pooler_output
    found = {'h': pooled.flatten(1).numpy()}
    if network.num_classes:
      found['logits'] = torch_form.run(module, images).logits.numpy()
    return {name: found[name] for name in network.outputs}

  auto = 'AutoModelForImageClassification' if begin else 'AutoModel'
  result = 'h = found.pooler_output.flatten(1)'
  how = (
    f'from transformers import AutoImageProcessor, {auto}\n'
    'processor = AutoImageProcessor.from_pretrained(FOLDER)\n'
    f'model = {auto}.from_pretrained(FOLDER).eval()\n'
    'found = model(**processor(picture, return_tensors="pt"))\n'
    + ('logits = found.logits' if begin else result)
  )
  facts = {
    'exact_for': torch_form.exact_sizes(network),
    'layout': 'NCHW',
    'preprocessor': (
      'PIL, which preprocessor_config.json asks for, smooths a picture that it '
      'shrinks; the pictures of evaluation here are not smoothed, so features '
      'of the processor differ a little from those of the commands'
    ),
  }
  return Written(forward, how, facts)


def hub_name(name: str, begin: str) -> str:
  """transformers' name of a torchvision name.

  'layer2.0.downsample.1.weight' -> 'encoder.stages.1.layers.0.shortcut.
  normalization.weight'.
  """
  if name.startswith('fc.'):
    return name.replace('fc.', 'classifier.1.')
  if found := _STEM.match(name):
    new = f'embedder.embedder.{_KINDS[found[1]]}.'
  elif found := _SHORTCUT.match(name):
    stage = int(found[1]) - 1
    new = f'encoder.stages.{stage}.layers.{found[2]}.'
    new += f'shortcut.{_KINDS[found[3]]}.'
  elif found := _LAYER.match(name):
    stage = int(found[1]) - 1
    new = f'encoder.stages.{stage}.layers.{found[2]}.'
    new += f'layer.{int(found[4]) - 1}.{_KINDS[found[3]]}.'
  else:
    raise AssertionError(f'no name for {name}')
  return begin + new + name[found.end() :]


def model_config(network: Network) -> dict[str, Any]:
  """config.json of transformers' ResNetModel, or with a classifier."""
  model = network.config.model
  depth = resnet.DEPTHS[model.depth]
  base = resnet.base_filters(model.width)
  expansion = 4 if depth.bottleneck else 1
  classes = dict(enumerate(network.class_names))
  with_labels: dict[str, Any] = {
    'id2label': {str(k): name for k, name in classes.items()},
    'label2id': {name: k for k, name in classes.items()},
  }
  kind = (
    'ResNetForImageClassification' if network.num_classes else 'ResNetModel'
  )
  return {
    'architectures': [kind],
    'model_type': 'resnet',
    'num_channels': 3,
    'embedding_size': base,
    'hidden_sizes': [base * expansion * 2**g for g in range(4)],
    'depths': list(depth.num_blocks),
    'layer_type': 'bottleneck' if depth.bottleneck else 'basic',
    'hidden_act': 'relu',
    'downsample_in_first_stage': False,
    'downsample_in_bottleneck': False,
    'dtype': 'float32',
    **(with_labels if network.num_classes else {}),
  }


def preprocessor(network: Network) -> dict[str, Any]:
  """preprocessor_config.json: resize, centre crop, [0, 1], no mean/std."""
  stated = network.passport['preprocessing']
  size = network.config.data.image_size
  crop = stated.get('crop_fraction') or 1.0
  mean, std = network.input_form.mean, network.input_form.std
  return {
    'image_processor_type': 'BitImageProcessor',
    'do_convert_rgb': True,
    'do_resize': True,
    'size': {'shortest_edge': round(size / crop)},
    'resample': _RESAMPLE[stated['resize']],
    'do_center_crop': True,
    'crop_size': {'height': size, 'width': size},
    'do_rescale': True,
    'rescale_factor': 1 / 255,
    'do_normalize': mean is not None,
    'image_mean': list(mean or (0.0, 0.0, 0.0)),
    'image_std': list(std or (1.0, 1.0, 1.0)),
  }


def _load(folder: pathlib.Path, network: Network) -> Any:
  import transformers

  auto = transformers.AutoModel
  if network.num_classes:
    auto = transformers.AutoModelForImageClassification
  module, report = auto.from_pretrained(
    folder, output_loading_info=True, local_files_only=True
  )
  problems = {kind: found for kind, found in report.items() if found}
  if problems:
    raise ValueError(f'transformers does not take every array: {problems}')
  return module


def _write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
  path.write_text(json.dumps(value, indent=2, allow_nan=False) + '\n')
