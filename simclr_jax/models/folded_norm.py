"""Batch norm folded into its neighbours, so that less goes through memory.

A training step of a ResNet is bound by memory traffic: the widest activations
are written once and read five times for their batch norm alone. Two of the
network's batch norms need none of that, and give the same numbers up to
rounding (tests compare value, gradient and golden numbers):

`project_and_normalize`, a 1x1 convolution that widens, then batch norm. Mean
and variance of x W follow from mean and covariance of x, which is narrower, so
the convolution can add and scale in place, and its plain output exists nowhere:

  mean(x W) = mean(x) W,   var(x W)_c = sum_ij W_ic cov(x)_ij W_jc

`pool_and_normalize`, batch norm, ReLU and max-pool. Where gamma >= 0 all three
are monotone, so the pool can come first and the rest run on a quarter of the
positions; a channel with gamma < 0 has its kernel negated first.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

# Small products of statistics and weights, [K, C]: their rounding would be
# that of every activation behind them.
_EXACT = jax.lax.Precision.HIGHEST


class Statistics(NamedTuple):
  """Mean and biased variance of each channel [C]; no gradient flows back."""

  mean: jax.Array
  var: jax.Array


class ConvKernel(nn.Module):
  """The kernel of a convolution that is applied elsewhere.

  Attributes:
    shape: (height, width, inputs, outputs).
    init_fn: Initialiser.
    param_dtype: Of the kernel.
  """

  shape: tuple[int, int, int, int]
  init_fn: Callable[..., jax.Array]
  param_dtype: Any

  @nn.compact
  def __call__(self) -> jax.Array:
    """The parameter `kernel`."""
    return self.param('kernel', self.init_fn, self.shape, self.param_dtype)


class NormVariables(nn.Module):
  """Variables of a batch norm that is applied elsewhere; names as Flax's.

  Attributes:
    num_channels: C.
    decay: Of the moving statistics.
    scale_init: Of gamma.
    param_dtype: Of parameters and statistics.
  """

  num_channels: int
  decay: float
  scale_init: Callable[..., jax.Array]
  param_dtype: Any

  def setup(self) -> None:
    """Declares scale, bias and the moving mean and variance, all [C]."""
    shape = (self.num_channels,)
    zeros = nn.initializers.zeros_init()
    self.scale = self.param('scale', self.scale_init, shape, self.param_dtype)
    self.bias = self.param('bias', zeros, shape, self.param_dtype)
    self.mean = self.variable(
      'batch_stats', 'mean', jnp.zeros, shape, self.param_dtype
    )
    self.var = self.variable(
      'batch_stats', 'var', jnp.ones, shape, self.param_dtype
    )

  def __call__(self) -> tuple[jax.Array, jax.Array]:
    """(gamma, beta)."""
    return self.scale, self.bias

  def update(self, batch: Statistics) -> None:
    """Moves the moving statistics towards those of a batch."""
    if self.is_initializing():
      return
    for variable, new in zip((self.mean, self.var), batch, strict=True):
      # In Flax's order of operations, so that results stay the same.
      variable.value = self.decay * variable.value + (1 - self.decay) * new


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def project_and_normalize(
  x: jax.Array,
  kernel_KxC: jax.Array,
  scale_C: jax.Array,
  bias_C: jax.Array,
  epsilon: float,
) -> tuple[jax.Array, Statistics]:
  """Batch norm of x W, by the batch's own statistics.

  Args:
    x: [N, H, W, K] in the compute dtype.
    kernel_KxC: W, in the parameters' dtype.
    scale_C: gamma.
    bias_C: beta.
    epsilon: Added to the variance.

  Returns:
    [N, H, W, C] in x's dtype, and the statistics of x W.
  """
  return _forward(x, kernel_KxC, scale_C, bias_C, epsilon)[0]


class _Residuals(NamedTuple):
  """What the derivative needs; x is the only large array."""

  x: jax.Array
  kernel_KxC: jax.Array
  scale_C: jax.Array
  mean_K: jax.Array
  cov_KxK: jax.Array
  inverse_std_C: jax.Array


def _forward(
  x: jax.Array,
  kernel_KxC: jax.Array,
  scale_C: jax.Array,
  bias_C: jax.Array,
  epsilon: float,
) -> tuple[tuple[jax.Array, Statistics], _Residuals]:
  accumulate = jnp.promote_types(x.dtype, jnp.float32)
  num_positions = math.prod(x.shape[:-1])
  mean_K = jnp.mean(x, axis=(0, 1, 2), dtype=accumulate)
  square_KxK = _sum_of_products(x, x, accumulate) / num_positions
  cov_KxK = square_KxK - mean_K[:, None] * mean_K
  mean_C = jnp.matmul(mean_K, kernel_KxC, precision=_EXACT)
  var_C = jnp.sum(kernel_KxC * _matmul(cov_KxK, kernel_KxC), axis=0)
  # Rounding can take a channel that hardly varies below zero.
  var_C = jnp.maximum(var_C, 0)
  inverse_std_C = jax.lax.rsqrt(var_C + epsilon)
  # Rounded before the mean is taken off: that of a bfloat16 kernel differs from
  # mean_C by up to a hundredth of the standard deviation, at every position.
  scaled_KxC = _round(kernel_KxC * (scale_C * inverse_std_C), x.dtype)
  offset_C = bias_C - jnp.matmul(mean_K, scaled_KxC, precision=_EXACT)
  y = (_project(x, scaled_KxC) + offset_C).astype(x.dtype)
  residuals = _Residuals(x, kernel_KxC, scale_C, mean_K, cov_KxK, inverse_std_C)
  return (y, Statistics(mean_C, var_C)), residuals


def _backward(
  epsilon: float,
  residuals: _Residuals,
  cotangents: tuple[jax.Array, Statistics],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Derivatives of `project_and_normalize`.

  With n positions, a = gamma / std and y = x (W a) + beta - mean(x W) a, and
  with the two sums over positions S = x^T dy [K, C] and s = sum(dy) [C]:

    d beta  = s
    d a     = sum_k W S - mean(x W) s     (the sum of dy (x W - mean(x W)))
    d gamma = d a / std,  d var = -d a gamma / (2 std^3),  d mean = -a s
    d W     = S a + mean(x)^T d mean + 2 (cov W) d var
    d x     = dy (W a)^T + (d mean W^T + 2 (x - mean(x)) D) / n,
              D = W diag(d var) W^T

  Only x and dy are read at full size, where differentiating batch norm behind
  a convolution also reads that convolution's output. S and s are summed in
  float32, together, hence in one all-reduce.
  """
  del epsilon  # Within the standard deviation.
  x, kernel_KxC, scale_C, mean_K, cov_KxK, inverse_std_C = residuals
  dy, _ = cotangents  # Statistics carry no gradient: see Statistics.
  accumulate = jnp.promote_types(x.dtype, jnp.float32)
  num_positions = math.prod(x.shape[:-1])
  sum_KxC = _sum_of_products(x, dy, accumulate)
  sum_C = jnp.sum(dy, axis=(0, 1, 2), dtype=accumulate)
  factor_C = scale_C * inverse_std_C
  mean_C = jnp.matmul(mean_K, kernel_KxC, precision=_EXACT)
  d_factor_C = jnp.sum(kernel_KxC * sum_KxC, axis=0) - mean_C * sum_C
  d_var_C = -0.5 * d_factor_C * scale_C * inverse_std_C**3
  d_mean_C = -factor_C * sum_C
  d_kernel_KxC = (
    sum_KxC * factor_C
    + mean_K[:, None] * d_mean_C
    + 2 * _matmul(cov_KxK, kernel_KxC) * d_var_C
  )
  pull_KxK = _matmul(kernel_KxC * d_var_C, kernel_KxC.T) * (2 / num_positions)
  # As in the forward pass, so that dy and x stay centred.
  scaled_KxC = _round(kernel_KxC * factor_C, x.dtype)
  pull_KxK = _round(pull_KxK, x.dtype)
  constant_K = -_matmul(scaled_KxC, sum_C) / num_positions - _matmul(
    mean_K, pull_KxK
  )
  dx = _project(dy, scaled_KxC.T) + _project(x, pull_KxK)
  dx = (dx + constant_K).astype(x.dtype)
  d_bias_C = sum_C.astype(scale_C.dtype)
  return dx, d_kernel_KxC, d_factor_C * inverse_std_C, d_bias_C


project_and_normalize.defvjp(_forward, _backward)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
  """max(x, 0), differentiated by its output, so that x need not be kept.

  The same derivative as `jax.nn.relu`, 0 at 0.
  """
  return jnp.maximum(x, 0)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  y = jnp.maximum(x, 0)
  return y, y


def _relu_backward(y: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
  return (jnp.where(y > 0, dy, jnp.zeros_like(dy)),)


relu.defvjp(_relu_forward, _relu_backward)


def pool_and_normalize(
  x: jax.Array,
  scale_C: jax.Array,
  bias_C: jax.Array,
  *,
  epsilon: float,
  pool_fn: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, Statistics]:
  """relu(batch norm of x), max-pooled.

  Args:
    x: [N, H, W, C], negated in the channels where gamma < 0.
    scale_C: gamma.
    bias_C: beta.
    epsilon: Added to the variance.
    pool_fn: The max-pool.

  Returns:
    Pooled activations in x's dtype, and the statistics of x with the signs
    undone.
  """
  accumulate = jnp.promote_types(x.dtype, jnp.float32)
  mean_C = jnp.mean(x, axis=(0, 1, 2), dtype=accumulate)
  square_C = jnp.mean(jnp.square(x.astype(accumulate)), axis=(0, 1, 2))
  var_C = jnp.maximum(square_C - jnp.square(mean_C), 0)
  signs_C = signs(scale_C)
  # Times the sign, not abs: that has gradient 0 at gamma = 0.
  factor_C = scale_C * signs_C * jax.lax.rsqrt(var_C + epsilon)
  y = (pool_fn(x).astype(accumulate) - mean_C) * factor_C + bias_C
  return nn.relu(y.astype(x.dtype)), jax.lax.stop_gradient(
    Statistics(mean_C * signs_C, var_C)
  )


def signs(scale_C: jax.Array) -> jax.Array:
  """-1 where gamma < 0, else 1; without gradient."""
  return jax.lax.stop_gradient(jnp.where(scale_C < 0, -1, 1)).astype(
    scale_C.dtype
  )


def _project(x: jax.Array, kernel_KxC: jax.Array) -> jax.Array:
  """x W at every position, in x's dtype.

  As a convolution: XLA then fuses what stands before and behind, which it does
  not do for a matrix product of so many axes.
  """
  return jax.lax.conv_general_dilated(
    x,
    kernel_KxC[None, None].astype(x.dtype),
    window_strides=(1, 1),
    padding='VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _sum_of_products(
  left: jax.Array, right: jax.Array, accumulate: Any
) -> jax.Array:
  """[N, H, W, K] and [N, H, W, C] -> their sum of outer products [K, C]."""
  positions = (0, 1, 2)
  # Under a mesh the sum runs over devices, and JAX wants that said.
  meshless = jax.typeof(left).sharding.mesh.empty
  return jax.lax.dot_general(
    left,
    right,
    ((positions, positions), ((), ())),
    preferred_element_type=accumulate,
    out_sharding=None if meshless else P(None, None),
  )


def _round(weights: jax.Array, dtype: Any) -> jax.Array:
  """What a product in `dtype` sees of the weights, in their own dtype.

  Not a cast forth and back: XLA takes such a pair out.
  """
  form = jnp.finfo(dtype)
  return jax.lax.reduce_precision(weights, form.nexp, form.nmant)


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
  return jnp.matmul(left, right, precision=_EXACT)
