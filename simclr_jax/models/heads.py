"""Projection head (h -> z) and online linear head (h -> logits)."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax

from simclr_jax import config as config_lib

# Every dense layer of the official code, not only the classifier.
DENSE_INIT_STD = 0.01
dense_init = nn.initializers.normal(DENSE_INIT_STD)


def layer_widths(
  config: config_lib.ModelConfig, num_features: int
) -> tuple[int, ...]:
  """Output width of every layer of the projection head; () where z is h."""
  if config.head == 'none':
    return ()
  if config.head == 'linear':
    return (config.head_dim,)
  if config.head_layers == 0:
    return ()
  hidden = config.head_hidden or num_features
  return (hidden,) * (config.head_layers - 1) + (config.head_dim,)


class ProjectionHead(nn.Module):
  """Projection head (official model.py:ProjectionHead).

  Dense layers; with head_norm='batch' each is bias-free and followed by batch
  norm, whose last has a scale but no bias; with 'none' each has a bias. ReLU
  after all but the last. The official 'linear' and 'none' modes crash; here
  'linear' is what its constructor says (one such layer) and 'none' gives h.

  It runs in the parameters' dtype also where the backbone is bfloat16: it is
  some 0.2 % of a ResNet-50's arithmetic, and rounding z to 8 bits would show in
  similarities divided by a temperature of 0.1.

  Attributes:
    config: The model section.
    param_dtype: Of parameters and activations.
  """

  config: config_lib.ModelConfig
  param_dtype: Any

  @nn.compact
  def __call__(self, h_NxD: jax.Array, *, train: bool) -> tuple[jax.Array, ...]:
    """Gives (h, output of layer 1, ..., z); 'dense{j}' makes element j."""
    config = self.config
    batch_norm = config.head_norm == 'batch'
    widths = layer_widths(config, h_NxD.shape[-1])
    outputs = [h_NxD]
    for j, width in enumerate(widths, start=1):
      last = j == len(widths)
      x = nn.Dense(
        width,
        use_bias=not batch_norm,
        kernel_init=dense_init,
        dtype=self.param_dtype,
        param_dtype=self.param_dtype,
        name=f'dense{j}',
      )(outputs[-1])
      if batch_norm:
        x = nn.BatchNorm(
          use_running_average=not train,
          momentum=config.bn_decay,
          epsilon=config.bn_epsilon,
          use_bias=not last,
          dtype=self.param_dtype,
          param_dtype=self.param_dtype,
          name=f'bn{j}',
        )(x)
      outputs.append(x if last else nn.relu(x))
    return tuple(outputs)


def make_online_head(
  num_classes: int, *, param_dtype: Any, name: str
) -> nn.Dense:
  """Linear classifier (official head_supervised: bias, no norm)."""
  return nn.Dense(
    num_classes,
    kernel_init=dense_init,
    dtype=param_dtype,
    param_dtype=param_dtype,
    name=name,
  )
