"""Which parameters the network rounds before it reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from simclr_jax.models.model import Model, abstract_variables


def rounded_types(model: Model, *, image_size: int) -> Any:
  """The type that each parameter is rounded to first thing in training.

  The kernels of Flax's own convolutions, when they compute in fewer bits than
  parameters have: whoever moves them may round them before, and the outputs are
  the same. Not those of a folded batch norm, whose statistics read them first.

  Args:
    model: As `make_model` gives it.
    image_size: Any that the network takes.

  Returns:
    A tree like params, of types, None where nothing may be rounded.
  """
  found: dict[tuple[str, ...], Any] = {}

  def record(
    call_fn: Callable[..., Any],
    args: Any,
    kwargs: Any,
    context: nn.module.InterceptorContext,
  ) -> Any:
    module = context.module
    if isinstance(module, nn.Conv) and context.method_name == '__call__':
      if module.dtype is not None and module.dtype != module.param_dtype:
        found[*module.path, 'kernel'] = jnp.dtype(module.dtype)
    return call_fn(*args, **kwargs)

  def trace(variables: Any, images: jax.Array) -> None:
    with nn.intercept_methods(record):
      model.apply(variables, images, train=True, mutable=['batch_stats'])

  shapes = abstract_variables(model, image_size=image_size)
  images = jax.ShapeDtypeStruct(
    (1, image_size, image_size, 3), model.param_dtype
  )
  jax.eval_shape(trace, shapes, images)
  return jax.tree_util.tree_map_with_path(
    lambda path, _: found.get(tuple(p.key for p in path)), shapes['params']
  )
