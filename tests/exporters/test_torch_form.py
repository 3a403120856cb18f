"""What torchvision's form cannot express is refused, with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.exporters import huggingface, torch_form
from simclr_jax.exporters.network import Network

DEPTHS = (18, 34, 50, 101, 152)


def network(size=225, outputs=('h',), **model) -> Network:
  """A network by its config alone."""
  return Network(
    arrays={},
    config=config_lib.replace(
      config_lib.Config(),
      data={'name': 'cifar10', 'image_size': size},
      model=model,
    ),
    num_classes=0,
    outputs=outputs,
    input_form=encoder_lib.InputForm(),
    passport={'data': {}},
  )


@pytest.mark.parametrize(
  ('changes', 'reason'),
  [
    ({'size': 224}, 'at 224 px the stem gives 112 x 112, an even side'),
    ({'size': 224}, 'exact where .* is odd, e.g. at 225 px'),
    ({'size': 32}, 'its stem is 7x7 with stride 2'),
    ({'stem': 'cifar'}, 'its stem is 7x7 with stride 2'),
    ({'depth': 18}, 'first block of ResNet-18 and -34 has no projection'),
    ({'depth': 34}, 'first block of ResNet-18 and -34 has no projection'),
    ({'depth': 200}, 'it has no depth 200, only 18, 34, 50'),
    ({'width': 2.0}, r'its width is 1, here model\.width is 2'),
    ({'sk_ratio': 0.0625}, 'no selective kernels'),
    ({'se_ratio': 0.25}, 'no squeeze-and-excitation'),
    ({'bn_epsilon': 1e-3}, 'adds 1e-05, here 0.001'),
    ({'outputs': ('h', 'z')}, 'no projection head'),
  ],
)
def test_refuses(changes, reason):
  with pytest.raises(ValueError, match=reason) as error:
    torch_form.check(network(**changes), name='torchvision', depths=DEPTHS)
  assert 'Formats that can: npz, safetensors, stablehlo' in str(error.value)


@pytest.mark.parametrize(
  'changes',
  [
    {'size': 225},
    {'size': 226},
    {'size': 224, 'padding': 'torch'},
    {'depth': 18, 'shortcut': 'shape', 'padding': 'torch'},
    {'depth': 152},
  ],
)
def test_takes_what_is_exact(changes):
  torch_form.check(network(**changes), name='torchvision', depths=DEPTHS)


def test_names_every_reason_at_once():
  with pytest.raises(ValueError) as error:
    torch_form.check(
      network(size=224, depth=18, width=2.0), name='timm', depths=DEPTHS
    )
  assert str(error.value).count('\n  - ') == 3


@pytest.mark.parametrize('side', range(33, 49))
def test_paddings_agree_where_the_stem_is_odd(side):
  """Both max-pools by their definition, on a row of that many maps."""
  maps = torch_form.stem_side(side)
  assert maps == len(range(0, side + 6 - 7 + 1, 2))
  total = max((-(-maps // 2) - 1) * 2 + 3 - maps, 0)
  assert (total // 2 == 1) == (maps % 2 == 1)


def test_hub_names():
  """By the modules of transformers' modeling_resnet.py."""
  name = huggingface.hub_name
  assert name('conv1.weight', '') == 'embedder.embedder.convolution.weight'
  assert name('bn1.running_var', 'resnet.') == (
    'resnet.embedder.embedder.normalization.running_var'
  )
  assert name('layer3.1.conv2.weight', '') == (
    'encoder.stages.2.layers.1.layer.1.convolution.weight'
  )
  assert name('layer2.0.downsample.1.bias', '') == (
    'encoder.stages.1.layers.0.shortcut.normalization.bias'
  )
  assert name('fc.bias', 'resnet.') == 'classifier.1.bias'


def test_hub_config_holds_wide_networks():
  config = huggingface.model_config(network(depth=50, width=2.0))
  assert config['embedding_size'] == 128
  assert config['hidden_sizes'] == [512, 1024, 2048, 4096]
  assert config['architectures'] == ['ResNetModel']
  assert np.prod(config['depths']) == 3 * 4 * 6 * 3
