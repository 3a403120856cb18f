"""Backbone: sizes from the literature, layers against loops in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.models import blocks, resnet

RNG = np.random.default_rng(0)


def config(**fields) -> config_lib.ModelConfig:
  return config_lib.ModelConfig(**fields)


def make_layers(**fields) -> blocks.Layers:
  return blocks.Layers(config(**fields), jnp.float32, jnp.float32)


def backbone_shapes(image_size: int = 64, **fields):
  model = models.make_model(
    config(**fields), image_size=image_size, num_classes=0
  )
  variables = models.abstract_variables(model, image_size=image_size)
  return variables['params']['backbone']


def random_variables(module, x, **call):
  """Variables of the right shapes with no zeros or ones to hide behind."""
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), jnp.asarray(x), **call)
  )
  return jax.tree.map(
    lambda s: (
      RNG.uniform(0.1, 1.0, s.shape).astype(s.dtype)
      * np.where(RNG.random(s.shape) < 0.5 if len(s.shape) > 1 else 1, 1, -1)
    ),
    shapes,
  )


def conv(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
  """Cross-correlation padded by (size - 1) // 2, one window at a time."""
  size, pad = kernel.shape[0], (kernel.shape[0] - 1) // 2
  num, height, width, _ = x.shape
  out_h = (height + 2 * pad - size) // stride + 1
  out_w = (width + 2 * pad - size) // stride + 1
  padded = np.zeros((num, height + 2 * pad, width + 2 * pad, x.shape[3]))
  padded[:, pad : pad + height, pad : pad + width] = x
  out = np.zeros((num, out_h, out_w, kernel.shape[3]))
  for i in range(out_h):
    for j in range(out_w):
      top, left = i * stride, j * stride
      window = padded[:, top : top + size, left : left + size]
      out[:, i, j] = np.einsum('nhwc,hwcd->nd', window, kernel)
  return out


def norm(x: np.ndarray, variables, path: str) -> np.ndarray:
  params, stats = variables['params'], variables['batch_stats']
  for key in path.split('/'):
    params, stats = params[key], stats[key]
  scaled = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
  return scaled * params['scale'] + params['bias']


def relu(x: np.ndarray) -> np.ndarray:
  return np.maximum(x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
  ('depth', 'with_classifier', 'classifier'),
  [
    # torchvision's totals and its 1000-way classifier.
    (18, 11_689_512, 513_000),
    (34, 21_797_672, 513_000),
    (50, 25_557_032, 2_049_000),
    (101, 44_549_160, 2_049_000),
    (152, 60_192_808, 2_049_000),
  ],
)
def test_torchvision_parameter_counts(depth, with_classifier, classifier):
  shapes = backbone_shapes(depth=depth, shortcut='shape')
  assert models.count_parameters(shapes) == with_classifier - classifier


@pytest.mark.parametrize(
  ('depth', 'width', 'sk_ratio', 'millions'),
  [
    (50, 1, 0.0, 24),
    (50, 1, 0.0625, 35),
    (50, 2, 0.0, 94),
    (50, 2, 0.0625, 140),
    (101, 2, 0.0625, 257),
    (152, 2, 0.0, 233),
    (152, 3, 0.0625, 795),
  ],
)
def test_simclr_v2_parameter_counts(depth, width, sk_ratio, millions):
  """SimCLR v2, table 1, whose counts include the moving statistics."""
  model = models.make_model(
    config(depth=depth, width=float(width), sk_ratio=sk_ratio),
    image_size=64,
    num_classes=0,
  )
  variables = models.abstract_variables(model, image_size=64)
  count = sum(
    models.count_parameters(variables[collection]['backbone'])
    for collection in ('params', 'batch_stats')
  )
  assert round(count / 1e6) == millions


@pytest.mark.parametrize('depth', [18, 50])
def test_width_of_h(depth):
  model = models.make_model(
    config(depth=depth, width=0.25), image_size=16, num_classes=0
  )
  variables = models.abstract_variables(model, image_size=16)
  out = jax.eval_shape(
    lambda v: model.apply(v, jnp.zeros((2, 16, 16, 3)), train=False), variables
  )
  assert out.h.shape == (2, models.num_features(model.config))
  assert out.h.shape[1] == (128 if depth == 18 else 512)


def test_resnet200_blocks():
  shapes = backbone_shapes(depth=200, width=0.0625)
  count = [sum(k.startswith(f'layer{g}_') for k in shapes) for g in range(1, 5)]
  assert count == [3, 24, 36, 3]


@pytest.mark.parametrize(
  ('width', 'filters'),
  [(1, 64), (2, 128), (4, 256), (0.25, 16), (1 / 3, 22), (0.01, 2), (1.5, 96)],
)
def test_width_rounds_to_even_channels(width, filters):
  assert resnet.base_filters(width) == filters


@pytest.mark.parametrize('size', [(6, 8), (7, 5)])
@pytest.mark.parametrize('padding', ['official', 'torch'])
def test_max_pool(size, padding):
  height, width = size
  # All negative: a pool that padded with zeros would show.
  x = -RNG.uniform(1, 2, (2, height, width, 3)).astype(np.float32)
  out_h, out_w = -(-height // 2), -(-width // 2)
  expected = np.zeros((2, out_h, out_w, 3), np.float32)
  for i in range(out_h):
    for j in range(out_w):
      if padding == 'torch':
        top, left = 2 * i - 1, 2 * j - 1
      else:  # TensorFlow's SAME: the odd pixel of padding goes behind.
        top = 2 * i - (max(2 * (out_h - 1) + 3 - height, 0) // 2)
        left = 2 * j - (max(2 * (out_w - 1) + 3 - width, 0) // 2)
      window = x[:, max(top, 0) : top + 3, max(left, 0) : left + 3]
      expected[:, i, j] = window.max((1, 2))
  np.testing.assert_array_equal(resnet.max_pool(x, padding), expected)


@pytest.mark.parametrize('size', [(6, 4), (5, 7)])
@pytest.mark.parametrize('stride', [1, 2])
def test_shortcut_pool(size, stride):
  height, width = size
  x = RNG.uniform(1, 2, (2, height, width, 3)).astype(np.float32)
  out_h, out_w = -(-height // stride), -(-width // stride)
  expected = np.zeros((2, out_h, out_w, 3))
  for i in range(out_h):
    for j in range(out_w):
      top, left = i * stride, j * stride
      window = x[:, top : top + 2, left : left + 2]
      num_pixels = window.shape[1] * window.shape[2]
      # Zeros behind the border count at stride 2 and not at stride 1.
      divisor = 4 if stride == 2 else num_pixels
      expected[:, i, j] = window.sum((1, 2)) / divisor
  out = blocks.shortcut_pool(jnp.asarray(x), stride)
  np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.parametrize(('size', 'stride'), [(1, 2), (3, 1), (3, 2), (7, 2)])
def test_conv_padding(size, stride):
  x = RNG.normal(size=(2, 8, 7, 3)).astype(np.float32)
  layer = make_layers().conv(4, size, stride=stride, name='conv')
  variables = random_variables(layer, x)
  expected = conv(x, variables['params']['kernel'], stride)
  np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-4)


@pytest.mark.parametrize('stride', [1, 2])
def test_selective_kernel(stride):
  x = RNG.normal(size=(2, 5, 4, 3)).astype(np.float32)
  layer = blocks.SelectiveKernel(make_layers(sk_ratio=0.0625), 6, stride)
  variables = random_variables(layer, x, train=False)
  params = variables['params']
  streams = conv(x, params['conv']['kernel'], stride)
  streams = relu(norm(streams, variables, 'bn'))
  first, second = streams[..., :6], streams[..., 6:]
  mixing = (first + second).mean((1, 2), keepdims=True)
  assert params['squeeze_conv']['kernel'].shape == (1, 1, 6, 32)  # at least 32
  mixing = conv(mixing, params['squeeze_conv']['kernel'], 1)
  mixing = relu(norm(mixing, variables, 'squeeze_bn'))
  mixing = conv(mixing, params['expand_conv']['kernel'], 1)
  weights = np.exp(np.stack([mixing[..., :6], mixing[..., 6:]]))
  weights /= weights.sum(0)
  expected = weights[0] * first + weights[1] * second
  out = layer.apply(variables, x, train=False)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def test_squeeze_excite():
  x = RNG.normal(size=(2, 5, 4, 8)).astype(np.float32)
  layer = blocks.SqueezeExcite(make_layers(se_ratio=0.5), 4)
  variables = random_variables(layer, x)
  reduce, expand = (variables['params'][k] for k in ('reduce', 'expand'))
  assert reduce['kernel'].shape == (1, 1, 8, 2)  # ratio of 4, not of 8
  gate = x.mean((1, 2), keepdims=True)
  gate = relu(conv(gate, reduce['kernel'], 1) + reduce['bias'])
  gate = sigmoid(conv(gate, expand['kernel'], 1) + expand['bias'])
  np.testing.assert_allclose(
    layer.apply(variables, x), gate * x, rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize('bottleneck', [False, True])
def test_zero_init_makes_the_branch_vanish(bottleneck):
  x = RNG.normal(size=(2, 4, 4, 16 if bottleneck else 4)).astype(np.float32)
  call = {'train': False}
  for zero_init in (True, False):
    block = blocks.Block(
      make_layers(zero_init_residual=zero_init),
      filters=4,
      stride=1,
      bottleneck=bottleneck,
      first_in_group=False,
    )
    variables = block.init(jax.random.key(0), x, **call)
    identity = np.array_equal(block.apply(variables, x, **call), relu(x))
    assert identity == zero_init


def test_zero_init_leaves_other_norms_at_one():
  model = models.make_model(
    config(depth=18, width=0.0625), image_size=16, num_classes=0
  )
  variables = models.init_variables(model, jax.random.key(0), image_size=16)
  for path, leaf in models.flat_paths(variables['params']).items():
    if path.endswith('/scale'):
      last = '/layer' in path and path.endswith('/bn2/scale')
      np.testing.assert_array_equal(leaf, 0 if last else 1, err_msg=path)


def test_shortcut_modes():
  """Only the first group of a basic network keeps its shape."""
  by_group = backbone_shapes(depth=18, width=0.25)
  by_shape = backbone_shapes(depth=18, width=0.25, shortcut='shape')
  projects = lambda s: sorted(k for k in s if 'downsample_conv' in s[k])  # noqa: E731
  assert projects(by_group) == [f'layer{g}_0' for g in (1, 2, 3, 4)]
  assert projects(by_shape) == [f'layer{g}_0' for g in (2, 3, 4)]
  bottleneck = backbone_shapes(depth=50, width=0.25, shortcut='shape')
  assert 'layer1_0' in projects(bottleneck)


def test_stems():
  kernel = lambda s, k: s[f'conv{k}']['kernel'].shape  # noqa: E731
  assert kernel(backbone_shapes(32, depth=18), 1) == (3, 3, 3, 64)
  assert kernel(backbone_shapes(33, depth=18), 1) == (7, 7, 3, 64)
  assert kernel(backbone_shapes(33, depth=18, stem='cifar'), 1)[0] == 3
  assert kernel(backbone_shapes(32, depth=18, stem='imagenet'), 1)[0] == 7
  # ResNet-D with SK, but only where there is an ImageNet stem.
  deep = backbone_shapes(64, depth=18, sk_ratio=0.0625)
  assert [kernel(deep, k) for k in (1, 2, 3)] == [
    (3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64)
  ]  # fmt: skip
  assert 'conv2' not in backbone_shapes(32, depth=18, sk_ratio=0.0625)


def test_sk_convolutions_only_in_bottlenecks():
  assert 'sk' not in backbone_shapes(depth=18, sk_ratio=0.0625)['layer2_0']
  assert 'sk' in backbone_shapes(depth=50, sk_ratio=0.0625)['layer2_0']


def test_conv_init_has_gain_one():
  """Truncated at two standard deviations of the untruncated normal."""
  layer = make_layers().conv(256, 3, name='conv')
  x = jnp.zeros((1, 4, 4, 64))
  kernel = layer.init(jax.random.key(0), x)['params']['kernel']
  std = np.sqrt(1 / (9 * 64))
  np.testing.assert_allclose(np.std(kernel), std, rtol=0.01)
  bound = 2 * std / 0.87962566103423978
  assert 0.98 * bound < np.abs(kernel).max() <= bound
