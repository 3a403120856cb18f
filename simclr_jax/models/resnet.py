"""ResNet backbone in the official SimCLR form (v1 and v2): images -> h."""

from __future__ import annotations

import functools
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from simclr_jax import config as config_lib
from simclr_jax.models import blocks, remat


class Depth(NamedTuple):
  """Blocks of each of the four groups, and their kind."""

  num_blocks: tuple[int, int, int, int]
  bottleneck: bool


DEPTHS = {
  18: Depth((2, 2, 2, 2), bottleneck=False),
  34: Depth((3, 4, 6, 3), bottleneck=False),
  50: Depth((3, 4, 6, 3), bottleneck=True),
  101: Depth((3, 4, 23, 3), bottleneck=True),
  152: Depth((3, 8, 36, 3), bottleneck=True),
  200: Depth((3, 24, 36, 3), bottleneck=True),
}


def base_filters(width: float) -> int:
  """Channels of the stem: 64 * width to the nearest even number, at least 2.

  Group g of 0..3 has 2**g times as many. Even, because the ResNet-D stem halves
  it. Whole widths are exact; 1/3 gives 22 (64/3 = 21.33).
  """
  return 2 * max(1, int(32 * width + 0.5))


def num_features(config: config_lib.ModelConfig) -> int:
  """D, the width of h: 512 for ResNet-18 and -34, else 2048, times width."""
  expansion = 4 if DEPTHS[config.depth].bottleneck else 1
  return 8 * expansion * base_filters(config.width)


def max_pool(x_NxHxWxC: jax.Array, padding: str) -> jax.Array:
  """3x3 max-pool of stride 2.

  Args:
    x_NxHxWxC: Activations.
    padding: 'official' is SAME, which on even sides pads only behind; 'torch'
      pads one on both sides. Both give ceil(side / 2), on shifted grids.
  """
  sides = 'SAME' if padding == 'official' else ((1, 1), (1, 1))
  return nn.max_pool(
    x_NxHxWxC, window_shape=(3, 3), strides=(2, 2), padding=sides
  )


class ResNet(nn.Module):
  """Backbone.

  Attributes:
    layers: Makes convolutions and norms; holds the config.
    cifar_stem: 3x3 stride 1 without pool, instead of 7x7 stride 2 (with SK:
      ResNet-D's three 3x3) and pool.
  """

  layers: blocks.Layers
  cifar_stem: bool

  @nn.compact
  def __call__(self, x_NxHxWxC: jax.Array, *, train: bool) -> jax.Array:
    """Images [N, H, W, 3] -> h [N, D] in the parameters' dtype."""
    config = self.layers.config
    x = self._stem(x_NxHxWxC.astype(self.layers.dtype), train=train)
    depth = DEPTHS[config.depth]
    block_fn = remat.make_block_fn(
      lambda block, x: block(x, train=train),
      remat=config.remat if train else 'none',
    )
    for group, num_blocks in enumerate(depth.num_blocks):
      for j in range(num_blocks):
        block = blocks.Block(
          self.layers,
          filters=base_filters(config.width) * 2**group,
          stride=2 if group > 0 and j == 0 else 1,
          bottleneck=depth.bottleneck,
          first_in_group=j == 0,
          name=f'layer{group + 1}_{j}',
        )
        x = block_fn(block, x)
    # Averaged at full precision: bfloat16 would round h to 8 bits.
    return jnp.mean(x.astype(self.layers.param_dtype), axis=(1, 2))

  def _stem(self, x: jax.Array, *, train: bool) -> jax.Array:
    conv, norm = self.layers.conv, self.layers.norm
    config = self.layers.config
    filters = base_filters(config.width)
    if self.cifar_stem:
      x = conv(filters, 3, name='conv1')(x)
      return nn.relu(norm(name='bn1', train=train)(x))
    if config.sk_ratio > 0:
      x = conv(filters // 2, 3, stride=2, name='conv1')(x)
      x = nn.relu(norm(name='bn1', train=train)(x))
      x = conv(filters // 2, 3, name='conv2')(x)
      x = nn.relu(norm(name='bn2', train=train)(x))
      size, stride, names = 3, 1, ('conv3', 'bn3')
    else:
      size, stride, names = 7, 2, ('conv1', 'bn1')
    return self.layers.conv_norm_relu_pool(
      x,
      filters,
      size,
      stride=stride,
      names=names,
      train=train,
      pool_fn=functools.partial(max_pool, padding=config.padding),
    )
