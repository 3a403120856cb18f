"""Our network once more, in torch: what ONNX is made from.

A second implementation, because what converts JAX to ONNX fails on ResNet-50.
Everything that the network of models/ can be in inference: both paddings, SK,
SE, both stems, the heads. Sides of the pictures are Python numbers here, so
that padding is decided when the graph is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_jax import resolve
from simclr_jax.exporters.network import Network
from simclr_jax.importers import torch_names
from simclr_jax.models import heads, resnet


def make_module(network: Network) -> Any:
  """torch.nn.Module: pictures [N, 3, S, S] -> tuple of `network.outputs`."""
  import torch

  class TorchNetwork(torch.nn.Module):
    """Buffers by our paths, with '.' for '/'."""

    def __init__(self) -> None:
      super().__init__()
      self._names = {}
      for k, (path, array) in enumerate(sorted(network.arrays.items())):
        tensor = torch.from_numpy(np.array(torch_names.to_torch(array)))
        self.register_buffer(f'array{k}', tensor)
        self._names[path] = f'array{k}'

    def forward(self, images: Any) -> tuple[Any, ...]:
      arrays = {path: getattr(self, n) for path, n in self._names.items()}
      return _Forward(network, arrays).outputs(images)

  return TorchNetwork().eval()


class _Forward:
  """One pass through the network, reading its arrays by our scopes."""

  def __init__(self, network: Network, arrays: Mapping[str, Any]):
    self._network = network
    self._config = network.config.model
    self._arrays = arrays

  def outputs(self, x: Any) -> tuple[Any, ...]:
    """In the order of `network.outputs`."""
    found = {'h': self._backbone(x)}
    outputs, layer = self._network.outputs, self._config.classifier_layer
    head_layers = [found['h']]
    if 'z' in outputs or ('logits' in outputs and layer):
      head_layers = self._head(found['h'])
    found['z'] = head_layers[-1]
    if 'logits' in outputs:
      found['logits'] = self._dense(head_layers[layer], 'online_head')
    return tuple(found[name] for name in self._network.outputs)

  def _backbone(self, x: Any) -> Any:
    x = self._stem(x)
    depth = resnet.DEPTHS[self._config.depth]
    for group, num_blocks in enumerate(depth.num_blocks):
      for j in range(num_blocks):
        stride = 2 if group > 0 and j == 0 else 1
        x = self._block(x, f'backbone/layer{group + 1}_{j}', stride=stride)
    return x.mean(dim=(2, 3))

  def _stem(self, x: Any) -> Any:
    config, size = self._config, self._network.config.data.image_size
    if resolve.stem_of(config, size) == 'cifar':
      return self._conv_norm(x, 'backbone/conv1', 'backbone/bn1').relu()
    num_convs = 3 if config.sk_ratio > 0 else 1
    for k in range(1, num_convs + 1):
      stride = 2 if k == 1 else 1
      names = (f'backbone/conv{k}', f'backbone/bn{k}')
      x = self._conv_norm(x, *names, stride=stride).relu()
    return self._max_pool(x)

  def _max_pool(self, x: Any) -> Any:
    import torch.nn.functional as F

    if self._config.padding == 'torch':
      return F.max_pool2d(x, 3, stride=2, padding=1)
    pads = []
    for side in (int(x.shape[3]), int(x.shape[2])):  # From the last axis on.
      total = max((-(-side // 2) - 1) * 2 + 3 - side, 0)
      pads += [total // 2, total - total // 2]
    # After a ReLU zeros are never larger than what is there.
    return F.max_pool2d(F.pad(x, pads), 3, stride=2)

  def _block(self, x: Any, scope: str, *, stride: int) -> Any:
    shortcut = self._shortcut(x, scope, stride=stride)
    bottleneck = resnet.DEPTHS[self._config.depth].bottleneck
    for k in range(1, 4 if bottleneck else 3):
      names = (f'{scope}/conv{k}', f'{scope}/bn{k}')
      last = k == (3 if bottleneck else 2)
      strided = k == (2 if bottleneck else 1)
      if bottleneck and k == 2 and self._config.sk_ratio > 0:
        x = self._selective_kernel(x, f'{scope}/sk', stride=stride)
        continue
      x = self._conv_norm(x, *names, stride=stride if strided else 1)
      x = x if last else x.relu()
    if self._config.se_ratio > 0:
      x = self._squeeze_excite(x, f'{scope}/se')
    return (x + shortcut).relu()

  def _shortcut(self, x: Any, scope: str, *, stride: int) -> Any:
    if f'params/{scope}/downsample_conv/kernel' not in self._arrays:
      return x
    if self._config.sk_ratio > 0:
      x, stride = _shortcut_pool(x, stride), 1
    names = (f'{scope}/downsample_conv', f'{scope}/downsample_bn')
    return self._conv_norm(x, *names, stride=stride)

  def _selective_kernel(self, x: Any, scope: str, *, stride: int) -> Any:
    x = self._conv_norm(x, f'{scope}/conv', f'{scope}/bn', stride=stride).relu()
    first, second = x.chunk(2, dim=1)
    mixing = (first + second).mean(dim=(2, 3), keepdim=True)
    names = (f'{scope}/squeeze_conv', f'{scope}/squeeze_bn')
    mixing = self._conv(
      self._conv_norm(mixing, *names).relu(), f'{scope}/expand_conv'
    )
    first_logit, second_logit = mixing.chunk(2, dim=1)
    weight = (first_logit - second_logit).sigmoid()
    return weight * first + (1 - weight) * second

  def _squeeze_excite(self, x: Any, scope: str) -> Any:
    gate = x.mean(dim=(2, 3), keepdim=True)
    gate = self._conv(gate, f'{scope}/reduce').relu()
    return self._conv(gate, f'{scope}/expand').sigmoid() * x

  def _head(self, x: Any) -> list[Any]:
    config = self._config
    outputs = [x]
    widths = heads.layer_widths(config, self._network.num_features)
    for j in range(1, len(widths) + 1):
      x = self._dense(x, f'head/dense{j}')
      if config.head_norm == 'batch':
        x = self._norm(x, f'head/bn{j}')
      x = x if j == len(widths) else x.relu()
      outputs.append(x)
    return outputs

  def _conv_norm(self, x: Any, conv: str, norm: str, *, stride: int = 1) -> Any:
    return self._norm(self._conv(x, conv, stride=stride), norm)

  def _conv(self, x: Any, scope: str, *, stride: int = 1) -> Any:
    import torch.nn.functional as F

    kernel = self._arrays[f'params/{scope}/kernel']
    bias = self._arrays.get(f'params/{scope}/bias')
    padding = (int(kernel.shape[2]) - 1) // 2
    return F.conv2d(x, kernel, bias, stride=stride, padding=padding)

  def _norm(self, x: Any, scope: str) -> Any:
    import torch
    import torch.nn.functional as F

    scale = self._arrays[f'params/{scope}/scale']
    bias = self._arrays.get(f'params/{scope}/bias')
    return F.batch_norm(
      x,
      self._arrays[f'batch_stats/{scope}/mean'],
      self._arrays[f'batch_stats/{scope}/var'],
      scale,
      torch.zeros_like(scale) if bias is None else bias,
      training=False,
      eps=self._config.bn_epsilon,
    )

  def _dense(self, x: Any, scope: str) -> Any:
    import torch.nn.functional as F

    bias = self._arrays.get(f'params/{scope}/bias')
    return F.linear(x, self._arrays[f'params/{scope}/kernel'], bias)


def _shortcut_pool(x: Any, stride: int) -> Any:
  """As models/blocks.py:shortcut_pool."""
  import torch
  import torch.nn.functional as F

  padded = F.pad(x, (0, 1, 0, 1))
  if stride > 1:
    return F.avg_pool2d(padded, 2, stride=stride)
  counted = F.pad(torch.ones(1, 1, *map(int, x.shape[2:])), (0, 1, 0, 1))
  share = F.avg_pool2d(counted, 2, stride=1)
  return F.avg_pool2d(padded, 2, stride=1) / share
