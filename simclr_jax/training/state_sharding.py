"""Which arrays of the training state lie in pieces over the devices.

With 'replicated' every device holds everything. With 'fsdp' (fully sharded data
parallel; ZeRO, Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054)
parameters and optimizer state are divided over the data axis; the forward pass
gathers parameters, gradients are scattered back, and each device updates its
piece. Values are the same up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.training import mesh as mesh_lib

PyTree = Any

KINDS = ('replicated', 'fsdp')
# Elements below which an array stays whole: gathering it would cost a message,
# and all of these together are a hundredth of a ResNet's parameters.
MIN_SIZE = 2**14


def sharded_axis(
  shape: Sequence[int], *, num_devices: int, min_size: int
) -> int | None:
  """The axis along which 'fsdp' divides an array; None leaves it whole.

  The largest axis that divides by the devices, of equal ones the last; none for
  arrays of fewer than `min_size` elements.
  """
  if num_devices == 1 or math.prod(shape) < min_size:
    return None
  divides = [i for i, n in enumerate(shape) if n and n % num_devices == 0]
  return max(divides, key=lambda i: (shape[i], i), default=None)


def spec(shape: Sequence[int], *, kind: str, num_devices: int) -> P:
  """How an array of parameters or optimizer state lies on the devices."""
  axis = None
  if kind == 'fsdp':
    axis = sharded_axis(shape, num_devices=num_devices, min_size=MIN_SIZE)
  return P() if axis is None else P(*[None] * axis, mesh_lib.DATA_AXIS)


def shardings(tree: PyTree, *, kind: str, mesh: Mesh) -> PyTree:
  """The same tree with a sharding for each array or shape."""
  return jax.tree.map(
    lambda x: NamedSharding(
      mesh, spec(x.shape, kind=kind, num_devices=mesh.size)
    ),
    tree,
  )


def extra_shardings(
  extra: PyTree, params: PyTree, *, kind: str, mesh: Mesh
) -> PyTree:
  """Of an objective's own state: trees like params as those, the rest whole.

  So a moving average of the parameters meets them piece by piece.
  """
  structure: Any = jax.tree.structure(params)
  whole = mesh_lib.replicated(mesh)

  def is_like_params(tree: PyTree) -> bool:
    return jax.tree.structure(tree) == structure

  return jax.tree.map(
    lambda tree: (
      shardings(tree, kind=kind, mesh=mesh) if is_like_params(tree) else whole
    ),
    extra,
    is_leaf=is_like_params,
  )


def gather(params: PyTree, rounded: PyTree | None = None) -> PyTree:
  """Whole parameters on every device; within a jitted function, under a mesh.

  Args:
    params: As `shardings` lays them.
    rounded: Tree like params of the type that the network would round an array
      to before anything else, None where it would not. Rounded first, half as
      many bytes move and are held. The values are the same.
  """

  def whole(array: jax.Array, dtype: Any) -> jax.Array:
    array = array if dtype is None else array.astype(dtype)
    return jax.reshard(array, P())

  if rounded is None:
    return jax.tree.map(lambda x: whole(x, None), params)
  return jax.tree.map(whole, params, rounded)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Arrays of a state whole on every device; those that are stay as they are.

  Every process has to call it.
  """
  whole = mesh_lib.replicated(mesh)
  if all(x.sharding.is_fully_replicated for x in jax.tree.leaves(tree)):
    return tree
  with jax.set_mesh(mesh):
    return jax.jit(lambda x: x, out_shardings=whole)(tree)


def bytes_per_device(tree: PyTree) -> int:
  """Of arrays or shapes that have shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )
