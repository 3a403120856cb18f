"""Size and arithmetic of a model, counted without running it."""

from __future__ import annotations

from collections.abc import Iterator
import functools
import math
from typing import Any

import jax

from simclr_jax.models import model as model_lib


def count_parameters(tree: Any) -> int:
  """Numbers in a tree of arrays or shapes, e.g. variables['params']."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


# Tracing a deep network takes seconds, and several places ask.
@functools.lru_cache
def count_flops(model: model_lib.Model, image_size: int) -> int:
  """Floating-point operations of one image's forward pass.

  Counted: two (multiply and add) for every term of every convolution and matrix
  product of backbone, projection head and online head, padding included as if
  it were pixels (as fvcore and most papers do; papers often call the half of
  this 'FLOPs'). Not counted: batch norm, ReLU, pooling, residual additions and
  gating products of SE and SK; they are about 1 % of the operations, though not
  of the time. Read from the traced program, so it holds for every config and
  does not depend on backend or fusion.

  A training step costs about three times this per view (backward twice the
  forward); for model FLOP utilisation divide that by the device's peak for the
  compute dtype.

  Args:
    model: From `make_model`.
    image_size: Side in pixels.
  """
  variables = model_lib.abstract_variables(model, image_size=image_size)
  images = jax.ShapeDtypeStruct(
    (1, image_size, image_size, 3), model.param_dtype
  )
  traced = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(
    variables, images
  )
  return sum(operations(equation) for equation in equations(traced.jaxpr))


def equations(jaxpr: Any) -> Iterator[Any]:
  """All equations, also of nested programs (jit, custom_jvp)."""
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from equations(inner)


def operations(equation: Any) -> int:
  """Multiplications and additions of a convolution or product, else 0.

  Zeros that the gradient of a strided convolution puts between its inputs do
  not count.
  """
  name = equation.primitive.name
  if name not in ('conv_general_dilated', 'dot_general'):
    return 0
  left, right = (v.aval.shape for v in equation.invars[:2])
  out = math.prod(equation.outvars[0].aval.shape)
  if name == 'conv_general_dilated':
    # Terms of one output: kernel elements that feed one output channel.
    spec = equation.params['dimension_numbers'].rhs_spec
    terms = math.prod(right) // right[spec[0]]
    return 2 * out * terms // math.prod(equation.params['lhs_dilation'])
  (contracting, _), _ = equation.params['dimension_numbers']
  return 2 * out * math.prod(left[axis] for axis in contracting)
