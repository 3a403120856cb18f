"""A network of one block that compiles in a second, for tests of the step."""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from simclr_jax import config as config_lib
from simclr_jax.models import blocks, remat
from simclr_jax.models.model import Outputs
from simclr_jax.training import run as run_lib


class TinyModel(nn.Module):
  """Stands where `models.make_model` gives a ResNet.

  Attributes:
    kind: 'no_norm', 'norm', or 'folded': a bottleneck with folded batch norms,
      recomputed as config.model.remat='blocks' asks for.
    param_dtype: Of parameters and activations.
    width: Of the first convolution.
    num_classes: Of the online head.
    detach_classifier: As of the real model: whether it trains nothing else.
  """

  kind: str
  param_dtype: Any = jnp.float64
  width: int = 4
  num_classes: int = 3
  detach_classifier: bool = True

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
    dtype = self.param_dtype
    layers = blocks.Layers(config_lib.ModelConfig(depth=50), dtype, dtype)
    x = layers.conv(self.width, 3, name='conv1', use_bias=True)(images)
    x = nn.relu(x)
    if self.kind == 'norm':
      x = layers.norm(name='bn1', train=train)(x)
    if self.kind == 'folded':
      block = blocks.Block(layers, self.width, 1, True, True, name='block')
      x = remat.make_block_fn(
        lambda block, x: block(x, train=train), remat='blocks'
      )(block, x)
    h = jnp.mean(x, axis=(1, 2))
    z = nn.Dense(5, param_dtype=dtype, dtype=dtype, name='head')(h)
    logits = nn.Dense(
      self.num_classes, param_dtype=dtype, dtype=dtype, name='online_head'
    )(jax.lax.stop_gradient(h) if self.detach_classifier else h)
    # As in the real model, outputs that no loss reads.
    return Outputs(h, z, logits, (h, z))


def with_tiny_model(
  run: run_lib.Run, kind: str = 'norm', *, param_dtype: Any = jnp.float32
) -> run_lib.Run:
  """The run with this network, where any would do: it compiles in a second."""
  model = TinyModel(kind, param_dtype, num_classes=run.source.num_classes)
  return dataclasses.replace(run, model=model)
