"""The model: backbone, projection head and online head, outputs by name."""

from __future__ import annotations

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import flax
from flax import linen as nn
import jax
import jax.numpy as jnp

from simclr_jax import config as config_lib
from simclr_jax import resolve
from simclr_jax.models import blocks, heads, resnet

Variables = dict[str, Any]


class Outputs(NamedTuple):
  """What one forward pass gives; float32 whatever the compute dtype.

  Attributes:
    h: Backbone features [N, D].
    z: Projections [N, d], not normalised.
    logits: [N, K] of the online head, or classifier, which reads
      head_layers[config.classifier_layer]; None without classes.
    head_layers: (h, output of head layer 1, ..., z). Fine-tuning 'from the
      first projection layer' (SimCLR v2) reads element 1, which is the official
      ft_proj_selector.
  """

  h: jax.Array
  z: jax.Array
  logits: jax.Array | None
  head_layers: tuple[jax.Array, ...]


class Model(nn.Module):
  """Scopes `backbone`, `head`, `online_head`. Made by `make_model`.

  Attributes:
    config: The model section.
    cifar_stem: Whether the stem is CIFAR's; already decided.
    num_classes: Of the online head; 0 is none.
    param_dtype: Of parameters, statistics, h and z.
    detach_classifier: Whether the online head reads its input behind a
      stop_gradient; False where it is the classifier that trains the network.
  """

  config: config_lib.ModelConfig
  cifar_stem: bool
  num_classes: int
  param_dtype: Any = jnp.float32
  detach_classifier: bool = True

  @nn.compact
  def __call__(self, images_NxHxWxC: jax.Array, *, train: bool) -> Outputs:
    """Forward pass.

    Args:
      images_NxHxWxC: Floats in [0, 1], without mean/std normalisation.
      train: Batch norm uses the statistics of this batch and updates the moving
        ones (apply with mutable=['batch_stats']); else the moving ones.

    Raises:
      ValueError: For another rank or integer images.
    """
    shape, dtype = images_NxHxWxC.shape, images_NxHxWxC.dtype
    # Flax would take a fifth axis for one more batch axis and pool over the
    # wrong ones; uint8 would train on a scale 255 times too large.
    if len(shape) != 4 or not jnp.issubdtype(dtype, jnp.floating):
      raise ValueError(
        f'The model takes float images [N, H, W, C] in [0, 1], got {dtype} '
        f'{list(shape)}; reshape views [B, V, H, W, C] to [B*V, H, W, C] and '
        'divide uint8 by 255'
      )
    compute_dtype = self.param_dtype
    if self.config.compute_dtype == 'bfloat16':
      compute_dtype = jnp.bfloat16
    h = resnet.ResNet(
      blocks.Layers(self.config, compute_dtype, self.param_dtype),
      self.cifar_stem,
      name='backbone',
    )(images_NxHxWxC, train=train)
    head_layers = heads.ProjectionHead(
      self.config, self.param_dtype, name='head'
    )(h, train=train)
    logits = None
    if self.num_classes:
      online_head = heads.make_online_head(
        self.num_classes, param_dtype=self.param_dtype, name='online_head'
      )
      features = head_layers[self.config.classifier_layer]
      if self.detach_classifier:
        features = jax.lax.stop_gradient(features)
      logits = online_head(features)
    return Outputs(h, head_layers[-1], logits, head_layers)


def embedding_dim(config: config_lib.ModelConfig) -> int:
  """d, the width of z: that of the last head layer, or of h without any."""
  features = resnet.num_features(config)
  return (features, *heads.layer_widths(config, features))[-1]


def make_model(
  config: config_lib.ModelConfig,
  *,
  image_size: int,
  num_classes: int,
  param_dtype: Any = jnp.float32,
  detach_classifier: bool = True,
) -> Model:
  """Model of a config section.

  Args:
    config: `config.model`, validated.
    image_size: Side of the training views, pixels; only decides stem='auto'.
      The model takes any height and width.
    num_classes: Of the online head; 0 leaves it out.
    param_dtype: float64 is for reference computations under `jax.enable_x64`;
      activations follow it unless compute_dtype is 'bfloat16'.
    detach_classifier: See `Model`.
  """
  return Model(
    config,
    cifar_stem=resolve.stem_of(config, image_size) == 'cifar',
    num_classes=num_classes,
    param_dtype=param_dtype,
    detach_classifier=detach_classifier,
  )


def init_variables(
  model: Model, key: jax.Array, *, image_size: int
) -> Variables:
  """Fresh {'params': ..., 'batch_stats': ...}, replicated under a mesh.

  The distributions are those that the layers declare, but all convolution
  kernels are cut from one draw and all dense kernels from another: XLA compiles
  a random generator for every draw, and one for each of a ResNet-50's 57
  kernels takes most of a minute on a CPU. Everything else is constant and comes
  from `model.init`, of which only constants are left to compile.
  """
  shapes = flat_paths(abstract_variables(model, image_size=image_size))
  kernels = {p: s for p, s in shapes.items() if p.endswith('/kernel')}

  def init(key: jax.Array) -> Variables:
    declared = flat_paths(_declared_init(model, key, image_size))
    conv_key, dense_key = jax.random.split(key)
    conv = {p: s.shape for p, s in kernels.items() if len(s.shape) == 4}
    dense = {p: s.shape for p, s in kernels.items() if len(s.shape) == 2}
    dtype = model.param_dtype
    num_conv = sum(map(math.prod, conv.values()))
    num_dense = sum(map(math.prod, dense.values()))
    drawn = _cut(
      jax.random.truncated_normal(conv_key, -2, 2, (num_conv,), dtype),
      conv,
      scale_fn=blocks.conv_init_scale,
    ) | _cut(
      jax.random.normal(dense_key, (num_dense,), dtype),
      dense,
      scale_fn=lambda _: heads.DENSE_INIT_STD,
    )
    return flax.traverse_util.unflatten_dict(
      {path: drawn.get(path, leaf) for path, leaf in declared.items()}, sep='/'
    )

  return jax.jit(init)(key)


def _cut(
  draw: jax.Array,
  shapes: dict[str, tuple[int, ...]],
  *,
  scale_fn: Callable[[tuple[int, ...]], float],
) -> dict[str, jax.Array]:
  """Consecutive pieces of a flat draw in the given shapes, scaled."""
  pieces, start = {}, 0
  for path, shape in shapes.items():
    size = math.prod(shape)
    pieces[path] = draw[start : start + size].reshape(shape) * scale_fn(shape)
    start += size
  return pieces


def _declared_init(model: Model, key: jax.Array, image_size: int) -> Variables:
  images = jnp.zeros((1, image_size, image_size, 3), model.param_dtype)
  return dict(model.init(key, images, train=False))


def abstract_variables(model: Model, *, image_size: int) -> Variables:
  """Shapes and dtypes of `init_variables`, without computing anything."""
  return jax.eval_shape(
    lambda: _declared_init(model, jax.random.key(0), image_size)
  )


def flat_paths(variables: Variables) -> dict[str, Any]:
  """{'params/backbone/conv1/kernel': leaf, ...}."""
  return flax.traverse_util.flatten_dict(variables, sep='/')
