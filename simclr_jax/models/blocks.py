"""Residual blocks: basic, bottleneck, selective-kernel, squeeze-and-excitation.

Every module takes and gives activations [N, H, W, C]. Scope names follow
torchvision where it has the layer (conv1, bn1, downsample_conv, ...), so that a
later exporter only has to rename. Every batch norm's scope contains 'bn' and no
other scope does: `optimizer.param_roles` relies on it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from simclr_jax import config as config_lib

# Truncated normal with fan_in and gain 1: not He's gain of 2 (the official
# layers keep Keras' VarianceScaling default).
conv_init = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')


def conv_init_scale(kernel_shape: tuple[int, ...]) -> float:
  """What `conv_init` multiplies a normal truncated to [-2, 2] by.

  The standard deviation of that normal is 0.8796, not 1.
  """
  return 1 / math.sqrt(math.prod(kernel_shape[:-1])) / 0.87962566103423978


@dataclasses.dataclass(frozen=True)
class Layers:
  """Makes the convolutions and batch norms of one network.

  Attributes:
    config: The model section.
    dtype: Of activations; batch statistics are float32 or wider regardless.
    param_dtype: Of parameters.
  """

  config: config_lib.ModelConfig
  dtype: Any
  param_dtype: Any

  def conv(
    self,
    filters: int,
    size: int,
    *,
    name: str,
    stride: int = 1,
    use_bias: bool = False,
  ) -> nn.Conv:
    """Convolution padded by (size - 1) // 2 on every side.

    At stride 1 that equals SAME; at stride 2 SAME would shift the grid by one
    (official resnet.py:Conv2dFixedPadding and torchvision agree on this).
    """
    side = ((size - 1) // 2, (size - 1) // 2)
    return nn.Conv(
      features=filters,
      kernel_size=(size, size),
      strides=stride,
      padding=[side, side],
      use_bias=use_bias,
      kernel_init=conv_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )

  def norm(
    self, *, name: str, train: bool, zero_init: bool = False
  ) -> nn.BatchNorm:
    """Batch norm over all axes but the last; moving variance is the biased one.

    Under `jit` over a mesh the means run over the global batch, so statistics
    are global without an axis name.
    """
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=self.config.bn_decay,
      epsilon=self.config.bn_epsilon,
      scale_init=(
        nn.initializers.zeros_init()
        if zero_init
        else nn.initializers.ones_init()
      ),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )


def shortcut_pool(x_NxHxWxC: jax.Array, stride: int) -> jax.Array:
  """2x2 average pool of a ResNet-D shortcut (official: only with SK).

  Stride 2 pads one row and column of zeros behind, which count in the average;
  stride 1 pads likewise but averages over the real pixels alone.
  """
  if stride == 1:
    return nn.avg_pool(
      x_NxHxWxC, (2, 2), strides=(1, 1), padding='SAME', count_include_pad=False
    )
  x_NxHxWxC = jnp.pad(x_NxHxWxC, ((0, 0), (0, 1), (0, 1), (0, 0)))
  return nn.avg_pool(
    x_NxHxWxC, (2, 2), strides=(stride, stride), padding='VALID'
  )


class SelectiveKernel(nn.Module):
  """Two 3x3 streams mixed per channel by a softmax (arXiv:1903.06586).

  Both streams are 3x3 in one convolution of twice the filters, as in SimCLR v2
  (official resnet.py:SK_Conv2D).
  """

  layers: Layers
  filters: int
  stride: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, H / stride, W / stride, filters]."""
    conv, norm = self.layers.conv, self.layers.norm
    x = conv(2 * self.filters, 3, stride=self.stride, name='conv')(x)
    x = nn.relu(norm(name='bn', train=train)(x))
    first, second = jnp.split(x, 2, axis=-1)
    mid = max(int(self.filters * self.layers.config.sk_ratio), 32)
    mixing = jnp.mean(first + second, axis=(1, 2), keepdims=True)
    mixing = conv(mid, 1, name='squeeze_conv')(mixing)
    mixing = nn.relu(norm(name='squeeze_bn', train=train)(mixing))
    mixing = conv(2 * self.filters, 1, name='expand_conv')(mixing)
    # A softmax over two entries is a sigmoid of their difference.
    first_logit, second_logit = jnp.split(mixing, 2, axis=-1)
    weight = nn.sigmoid(first_logit - second_logit)
    return weight * first + (1 - weight) * second


class SqueezeExcite(nn.Module):
  """Scales channels by a gate computed from their means (arXiv:1709.01507).

  Attributes:
    layers: Layer makers.
    filters: The width the ratio refers to: that of the block's 3x3, not of its
      output (official resnet.py:BottleneckBlock).
  """

  layers: Layers
  filters: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> the same shape."""
    conv = self.layers.conv
    mid = max(1, int(self.filters * self.layers.config.se_ratio))
    gate = jnp.mean(x, axis=(1, 2), keepdims=True)
    gate = nn.relu(conv(mid, 1, use_bias=True, name='reduce')(gate))
    gate = conv(x.shape[-1], 1, use_bias=True, name='expand')(gate)
    return nn.sigmoid(gate) * x


class Block(nn.Module):
  """Residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1 as a bottleneck.

  Attributes:
    layers: Layer makers.
    filters: Width of the 3x3; a bottleneck's output is 4 times as wide.
    stride: Of the first 3x3 (torchvision's v1.5, as in the official code).
    bottleneck: Which of the two.
    first_in_group: Gets a projection shortcut under shortcut='group'.
  """

  layers: Layers
  filters: int
  stride: int
  bottleneck: bool
  first_in_group: bool

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[N, H, W, C] -> [N, H / stride, W / stride, num_outputs]."""
    config = self.layers.config
    shortcut = self._shortcut(x, train=train)
    y = self._branch(x, train=train)
    if config.se_ratio > 0:
      y = SqueezeExcite(self.layers, self.filters, name='se')(y)
    return nn.relu(y + shortcut)

  @property
  def num_outputs(self) -> int:
    """Channels of the output."""
    return self.filters * (4 if self.bottleneck else 1)

  def _shortcut(self, x: jax.Array, *, train: bool) -> jax.Array:
    config = self.layers.config
    changes_shape = self.stride != 1 or x.shape[-1] != self.num_outputs
    by_group = config.shortcut == 'group' and self.first_in_group
    if not changes_shape and not by_group:
      return x
    stride = self.stride
    if config.sk_ratio > 0:
      x, stride = shortcut_pool(x, stride), 1
    x = self.layers.conv(
      self.num_outputs, 1, stride=stride, name='downsample_conv'
    )(x)
    return self.layers.norm(name='downsample_bn', train=train)(x)

  def _branch(self, x: jax.Array, *, train: bool) -> jax.Array:
    conv, norm = self.layers.conv, self.layers.norm
    config = self.layers.config
    zero = config.zero_init_residual
    if not self.bottleneck:
      x = conv(self.filters, 3, stride=self.stride, name='conv1')(x)
      x = nn.relu(norm(name='bn1', train=train)(x))
      x = conv(self.filters, 3, name='conv2')(x)
      return norm(name='bn2', train=train, zero_init=zero)(x)
    x = conv(self.filters, 1, name='conv1')(x)
    x = nn.relu(norm(name='bn1', train=train)(x))
    if config.sk_ratio > 0:
      x = SelectiveKernel(self.layers, self.filters, self.stride, name='sk')(
        x, train=train
      )
    else:
      x = conv(self.filters, 3, stride=self.stride, name='conv2')(x)
      x = nn.relu(norm(name='bn2', train=train)(x))
    x = conv(self.num_outputs, 1, name='conv3')(x)
    return norm(name='bn3', train=train, zero_init=zero)(x)
