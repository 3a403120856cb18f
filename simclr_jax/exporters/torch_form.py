"""Which networks torchvision's ResNet is, exactly; others are refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import pathlib
from typing import Any

import numpy as np

from simclr_jax import resolve
from simclr_jax.exporters.network import Network, Options
from simclr_jax.importers import packages, torch_names
from simclr_jax.models import resnet

ANY_NETWORK = 'npz, safetensors, stablehlo, saved_model, onnx'
_EPSILON = 1e-5


def stem_side(side: int) -> int:
  """Side of the maps behind the 7x7 stem of stride 2, before the max-pool."""
  return -(-side // 2)


def check(
  network: Network, *, name: str, depths: Sequence[int], any_width: bool = False
) -> None:
  """Refuses a network that torchvision's form cannot express exactly.

  Args:
    network: To be exported.
    name: Of the format.
    depths: Those that the other program has.
    any_width: Whether it has widths other than 1.

  Raises:
    ValueError: With every reason, and the formats that can.
  """
  reasons = list(_reasons(network, depths=depths, any_width=any_width))
  if reasons:
    listed = '\n'.join(f'  - {reason}' for reason in reasons)
    raise ValueError(
      f'--format={name} cannot express this network exactly:\n{listed}\n'
      f'Formats that can: {ANY_NETWORK}'
    )


def _reasons(
  network: Network, *, depths: Sequence[int], any_width: bool
) -> Iterator[str]:
  model, size = network.config.model, network.config.data.image_size
  if 'z' in network.outputs:
    yield "it has no projection head, so no output 'z'"
  if 'logits' in network.outputs and model.classifier_layer:
    yield (
      'its classifier reads h, here layer '
      f'{model.classifier_layer} of the projection head '
      '(model.classifier_layer)'
    )
  if model.depth not in depths:
    yield f'it has no depth {model.depth}, only {", ".join(map(str, depths))}'
  if model.width != 1 and not any_width:
    yield f'its width is 1, here model.width is {model.width:g}'
  if model.sk_ratio > 0:
    yield 'it has no selective kernels and no ResNet-D stem (model.sk_ratio)'
  if model.se_ratio > 0:
    yield 'it has no squeeze-and-excitation of this form (model.se_ratio)'
  if model.bn_epsilon != _EPSILON:
    yield f'its batch norm adds {_EPSILON:g}, here {model.bn_epsilon:g}'
  if model.shortcut == 'group' and not resnet.DEPTHS[model.depth].bottleneck:
    yield (
      'the first block of ResNet-18 and -34 has no projection there '
      "(model.shortcut='shape' trains that form)"
    )
  if resolve.stem_of(model, size) == 'cifar':
    yield 'its stem is 7x7 with stride 2 and a max-pool, here that of CIFAR'
  elif model.padding == 'official' and stem_side(network.side) % 2 == 0:
    yield (
      f'at {network.side} px the stem gives {stem_side(network.side)} x '
      f'{stem_side(network.side)}, an even side: the official max-pool pads '
      'only behind there, the other on both sides, so every map would be '
      "shifted (model.padding='torch' trains that form; with the official "
      'padding it is exact where ceil(side / 2) is odd, e.g. at '
      f'{_exact_side(network.side)} px)'
    )


def _exact_side(side: int) -> int:
  """The next larger side at which both paddings are the same."""
  while stem_side(side) % 2 == 0:
    side += 1
  return side


def exact_sizes(network: Network) -> str:
  """For export.json."""
  if network.config.model.padding == 'torch':
    return 'all'
  return 'sides of which ceil(side / 2) is odd: side % 4 is 1 or 2'


def state_dict(network: Network) -> dict[str, np.ndarray]:
  """torchvision's names and layouts; counters of batch norms are 0."""
  names = torch_names.torch_names(
    network.config.model, num_classes=network.num_classes
  )
  arrays = {
    names[path]: torch_names.to_torch(array)
    for path, array in network.arrays.items()
  }
  counters = {
    name.replace('running_mean', 'num_batches_tracked'): np.zeros((), np.int64)
    for name in arrays
    if name.endswith('running_mean')
  }
  return arrays | counters


def write_state_dict(
  folder: pathlib.Path, arrays: dict[str, np.ndarray], options: Options
) -> None:
  """model.safetensors, and model.pth on request."""
  import safetensors.numpy

  safetensors.numpy.save_file(
    arrays, folder / 'model.safetensors', metadata={'format': 'pt'}
  )
  if options.pickle:
    packages.require('torch', for_what='--pickle')
    import torch

    # Tensors of their own memory: the arrays may be read-only.
    tensors = {n: torch.from_numpy(np.array(a)) for n, a in arrays.items()}
    torch.save(tensors, folder / 'model.pth')


def load_state_dict(folder: pathlib.Path, options: Options) -> dict[str, Any]:
  """What was written, as tensors; both files must hold the same.

  Raises:
    ValueError: If they do not.
  """
  import safetensors.torch
  import torch

  loaded = safetensors.torch.load_file(folder / 'model.safetensors')
  if options.pickle:
    other = torch.load(folder / 'model.pth', weights_only=True)
    if loaded.keys() != other.keys() or not all(
      torch.equal(loaded[n], other[n]) for n in loaded
    ):
      raise ValueError('model.pth does not hold what model.safetensors does')
  return dict(loaded)


def run(module: Any, images_NxHxWx3: np.ndarray) -> Any:
  """Output of a torch module in evaluation mode for NHWC pictures."""
  import torch

  images = np.ascontiguousarray(images_NxHxWx3.transpose(0, 3, 1, 2))
  with torch.no_grad():
    return module.eval()(torch.from_numpy(images))
