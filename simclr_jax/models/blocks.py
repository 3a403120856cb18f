"""Residual blocks: basic, bottleneck, selective-kernel, squeeze-and-excitation.

Every module takes and gives activations [N, H, W, C]. Scope names follow
torchvision where it has the layer (conv1, bn1, downsample_conv, ...), so that a
later exporter only has to rename. Every batch norm's scope contains 'bn' and no
other scope does: `optimizer.param_roles` relies on it.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from simclr_jax import config as config_lib
from simclr_jax.models import folded_norm

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
      scale_init=_scale_init(zero_init),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )

  def project_norm(
    self,
    x: jax.Array,
    filters: int,
    *,
    names: tuple[str, str],
    train: bool,
    stride: int = 1,
    zero_init: bool = False,
  ) -> jax.Array:
    """1x1 convolution and batch norm, folded together where that pays.

    It pays where the convolution does not narrow: the second moments of its K
    inputs cost K / C of the convolution's own arithmetic. With a stride the
    plain form reads less, since it goes over the skipped positions only once.

    Args:
      x: [N, H, W, K].
      filters: C.
      names: Scopes of the convolution and of the batch norm.
      train: As for `norm`.
      stride: Of the convolution.
      zero_init: As for `norm`.
    """
    conv_name, norm_name = names
    num_inputs = x.shape[-1]
    pays = stride == 1 and filters >= num_inputs
    if not (self._folds(train) and pays):
      x = self.conv(filters, 1, stride=stride, name=conv_name)(x)
      return self.norm(name=norm_name, train=train, zero_init=zero_init)(x)
    kernel = self._kernel((1, 1, num_inputs, filters), name=conv_name)
    variables = self._norm_variables(filters, norm_name, zero_init=zero_init)
    scale, bias = variables()
    x, batch = folded_norm.project_and_normalize(
      x, kernel[0, 0], scale, bias, self.config.bn_epsilon
    )
    variables.update(jax.lax.stop_gradient(batch))
    return x

  def conv_norm_relu_pool(
    self,
    x: jax.Array,
    filters: int,
    size: int,
    *,
    stride: int,
    names: tuple[str, str],
    train: bool,
    pool_fn: Callable[[jax.Array], jax.Array],
  ) -> jax.Array:
    """Convolution, batch norm, ReLU and max-pool, in the cheapest order.

    Args:
      x: [N, H, W, K].
      filters: C.
      size: Of the convolution.
      stride: Of the convolution.
      names: Scopes of the convolution and of the batch norm.
      train: As for `norm`.
      pool_fn: The max-pool.
    """
    conv_name, norm_name = names
    if not self._folds(train):
      x = self.conv(filters, size, stride=stride, name=conv_name)(x)
      return pool_fn(nn.relu(self.norm(name=norm_name, train=train)(x)))
    kernel = self._kernel((size, size, x.shape[-1], filters), name=conv_name)
    variables = self._norm_variables(filters, norm_name)
    scale, bias = variables()
    side = ((size - 1) // 2, (size - 1) // 2)
    x = jax.lax.conv_general_dilated(
      x,
      (kernel * folded_norm.signs(scale)).astype(self.dtype),
      window_strides=(stride, stride),
      padding=[side, side],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    x, batch = folded_norm.pool_and_normalize(
      x, scale, bias, epsilon=self.config.bn_epsilon, pool_fn=pool_fn
    )
    variables.update(batch)
    return x

  def relu(self, x: jax.Array, *, train: bool) -> jax.Array:
    """ReLU of a block's output, whose own input folding does not keep."""
    return folded_norm.relu(x) if self._folds(train) else nn.relu(x)

  def _folds(self, train: bool) -> bool:
    """In evaluation XLA fuses the plain form just as well."""
    return train and self.config.batch_norm == 'folded'

  def _kernel(
    self, shape: tuple[int, int, int, int], *, name: str
  ) -> jax.Array:
    return folded_norm.ConvKernel(
      shape, conv_init, self.param_dtype, name=name
    )()

  def _norm_variables(
    self, filters: int, name: str, *, zero_init: bool = False
  ) -> folded_norm.NormVariables:
    return folded_norm.NormVariables(
      filters,
      self.config.bn_decay,
      _scale_init(zero_init),
      self.param_dtype,
      name=name,
    )


def _scale_init(zero_init: bool) -> Callable[..., jax.Array]:
  """Initialiser of a batch norm's gamma."""
  if zero_init:
    return nn.initializers.zeros_init()
  return nn.initializers.ones_init()


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
    return self.layers.relu(y + shortcut, train=train)

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
    return self.layers.project_norm(
      x,
      self.num_outputs,
      names=('downsample_conv', 'downsample_bn'),
      train=train,
      stride=stride,
    )

  def _branch(self, x: jax.Array, *, train: bool) -> jax.Array:
    conv, norm = self.layers.conv, self.layers.norm
    config = self.layers.config
    zero = config.zero_init_residual
    if not self.bottleneck:
      x = conv(self.filters, 3, stride=self.stride, name='conv1')(x)
      x = nn.relu(norm(name='bn1', train=train)(x))
      x = conv(self.filters, 3, name='conv2')(x)
      return norm(name='bn2', train=train, zero_init=zero)(x)
    x = nn.relu(
      self.layers.project_norm(
        x, self.filters, names=('conv1', 'bn1'), train=train
      )
    )
    if config.sk_ratio > 0:
      x = SelectiveKernel(self.layers, self.filters, self.stride, name='sk')(
        x, train=train
      )
    else:
      x = conv(self.filters, 3, stride=self.stride, name='conv2')(x)
      x = nn.relu(norm(name='bn2', train=train)(x))
    return self.layers.project_norm(
      x,
      self.num_outputs,
      names=('conv3', 'bn3'),
      train=train,
      zero_init=zero,
    )
