"""What a backward pass keeps of the forward pass, and what it repeats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax

# (module, x) -> x.
BlockFn = Callable[[nn.Module, jax.Array], jax.Array]


def make_block_fn(block_fn: BlockFn, *, remat: str) -> BlockFn:
  """`block_fn` whose backward pass keeps what config.model.remat says.

  'none' keeps everything that the derivative reads. 'norms' keeps convolutions
  and computes norms, ReLU and sums again; 'blocks' keeps only what goes into a
  block. Sums over positions are kept in either: they are small, and to take
  them again would mean another all-reduce.
  """
  if remat == 'none':
    return block_fn
  policy = {'norms': _keeps_products, 'blocks': _keeps_sums}[remat]
  return nn.remat(block_fn, policy=policy)


def _keeps_products(primitive: Any, *args: Any, **params: Any) -> bool:
  del args, params
  return primitive.name in ('conv_general_dilated', 'dot_general', 'reduce_sum')


def _keeps_sums(primitive: Any, *args: Any, **params: Any) -> bool:
  """Keeps reductions, and products whose inner axes are all of [N, H, W]."""
  del args
  if primitive.name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    return len(contracted) == 3
  return primitive.name == 'reduce_sum'
