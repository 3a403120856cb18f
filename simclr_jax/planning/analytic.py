"""What a step costs, from tracing it: seconds, and no compiler.

For where no compiler for the device is at hand, or no minutes for it. FLOPs
are exact but for what is neither a convolution nor a product; memory and
traffic are what autodiff keeps and what convolutions and products read and
write, where compilers fuse the rest around them. How far that is from compiled
steps: docs/planning.md.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax import config as config_lib
from simclr_jax import models, resolve
from simclr_jax.models import cost as model_cost
from simclr_jax.planning import program
from simclr_jax.planning.topology import Topology
from simclr_jax.training import state_sharding
from simclr_jax.training.state import TrainState

# Besides convolutions and products: passes over activations of their own.
_PASSES = ('reduce_window_max', 'reduce_window_sum', 'select_and_scatter_add')
# Images of a traced batch, so many that per-batch vectors do not count.
_TRACED_IMAGES = 64


@dataclasses.dataclass(frozen=True)
class Traced:
  """Forward and backward pass of one image's two views.

  Attributes:
    flops: Of convolutions and products, forward and backward.
    traffic_bytes: Read and written by them and by pooling.
    kept_bytes: Activations that the backward pass reads.
  """

  flops: float
  traffic_bytes: float
  kept_bytes: float


@functools.lru_cache(maxsize=64)
def trace(
  config: config_lib.ModelConfig,
  *,
  image_size: int,
  num_classes: int,
  views_dtype: Any,
) -> Traced:
  """Traces the network in training.

  Args:
    config: The model section.
    image_size: Side of a view.
    num_classes: Of the online head; 0 is none.
    views_dtype: In which the step gets its views.
  """
  model = models.make_model(
    config, image_size=image_size, num_classes=num_classes
  )
  variables = models.abstract_variables(model, image_size=image_size)
  shape = (2 * _TRACED_IMAGES, image_size, image_size, 3)
  views = jax.ShapeDtypeStruct(shape, views_dtype)

  kept = 0

  def gradient(params: Any, stats: Any, x: Any) -> Any:
    nonlocal kept

    def forward(params: Any) -> tuple[Any, Any]:
      outputs, updated = model.apply(
        {'params': params, 'batch_stats': stats},
        x,
        train=True,
        mutable=['batch_stats'],
      )
      return (outputs.z, outputs.logits), updated

    outputs, pull, _ = jax.vjp(forward, params, has_aux=True)
    # The leaves of the function that goes backward are what it keeps: all
    # activations that it reads, and kernels, which count with the state.
    kept = tree_bytes(pull) - tree_bytes(params)
    return pull(jax.tree.map(jnp.ones_like, outputs))

  jaxpr = jax.make_jaxpr(gradient)(
    variables['params'], variables['batch_stats'], views
  ).jaxpr
  flops, traffic = 0, 0
  for equation in model_cost.equations(jaxpr):
    operations = model_cost.operations(equation)
    flops += operations
    if operations or equation.primitive.name in _PASSES:
      operands = (*equation.invars, *equation.outvars)
      traffic += sum(num_bytes(v.aval) for v in operands)
  return Traced(
    flops=flops / _TRACED_IMAGES,
    traffic_bytes=traffic / _TRACED_IMAGES,
    kept_bytes=max(0, kept) / _TRACED_IMAGES,
  )


def trace_for(
  config: config_lib.Config, resolved: resolve.Resolved, platform: str
) -> Traced:
  """`trace` as a platform's compiler runs it.

  XLA for TPU computes norms and ReLU again wherever it reads them, whatever
  model.remat says (docs/performance.md): there at most what 'norms' keeps is
  counted. XLA for CPU keeps as much with recomputation as without, since it
  merges the second forward pass with the first, and computes in float32. In
  micro-batches the network runs forward twice.
  """
  if platform == 'cpu':
    config = config_lib.replace(
      config, model={'remat': 'none', 'compute_dtype': 'float32'}
    )
  share: dict[str, Any] = {
    'image_size': config.data.image_size,
    'num_classes': (
      resolved.num_classes
      if config.monitor.online_head and resolved.num_classes > 1
      else 0
    ),
    'views_dtype': program.views_dtype(config),
  }
  traced = trace(config.model, **share)
  if platform == 'tpu' and config.model.remat == 'none':
    norms = trace(dataclasses.replace(config.model, remat='norms'), **share)
    least = min(traced.kept_bytes, norms.kept_bytes)
    traced = dataclasses.replace(traced, kept_bytes=least)
  if config.train.micro_batches > 1 and config.train.accumulation == 'exact':
    traced = dataclasses.replace(
      traced,
      flops=traced.flops * 4 / 3,
      traffic_bytes=traced.traffic_bytes * 4 / 3,
    )
  return traced


def num_bytes(array: Any) -> int:
  """Of an array or its abstract form; 0 of what has no shape."""
  shape = getattr(array, 'shape', None)
  return 0 if shape is None else math.prod(shape) * array.dtype.itemsize


def tree_bytes(tree: Any) -> int:
  """Of all arrays of a tree."""
  return sum(num_bytes(leaf) for leaf in jax.tree.leaves(tree))


def state_bytes(state: TrainState, *, kind: str, num_devices: int) -> int:
  """Of the state on one device.

  Args:
    state: Shapes.
    kind: config.train.state_sharding.
    num_devices: Of the mesh.
  """

  def on_device(array: Any) -> int:
    axis = None
    if kind == 'fsdp':
      axis = state_sharding.sharded_axis(
        array.shape,
        num_devices=num_devices,
        min_size=state_sharding.MIN_SIZE,
      )
    return num_bytes(array) // (1 if axis is None else num_devices)

  pieces = (state.params, state.opt_state)
  whole = (state.step, state.model_state, state.extra)
  return sum(on_device(leaf) for leaf in jax.tree.leaves(pieces)) + (
    tree_bytes(whole)
  )


def estimate_cost(
  config: config_lib.Config,
  resolved: resolve.Resolved,
  *,
  topology: Topology,
  state: TrainState,
  num_views: int = 2,
) -> program.Cost:
  """A step in the words of a compiled one.

  Collectives are gradients, gathered embeddings and, with 'fsdp', parameters;
  those of batch norm are small and many, and not counted.

  Args:
    config: Of the run.
    resolved: For the topology.
    topology: What it runs on.
    state: Shapes.
    num_views: Of each image.
  """
  traced = trace_for(config, resolved, topology.platform)
  devices = resolved.num_devices
  # A trace is of two views.
  images = resolved.per_device_batch * num_views / 2
  fsdp = config.train.state_sharding == 'fsdp'
  own = state_bytes(
    state, kind=config.train.state_sharding, num_devices=devices
  )
  params = tree_bytes(state.params)
  of_images = int(2 * images * 3 * config.data.image_size**2)
  batch = of_images * jnp.dtype(program.views_dtype(config)).itemsize
  embeddings = (
    num_views * config.train.batch_size * models.embedding_dim(config.model)
  )
  collectives = {
    'all-reduce': _collective(0 if fsdp else params),
    'reduce-scatter': _collective(params // devices if fsdp else 0),
    'all-gather': _collective(4 * embeddings + (params if fsdp else 0)),
  }
  return program.Cost(
    device_kind=topology.chip.device_kind if topology.chip else 'cpu',
    num_devices=devices,
    argument_bytes=own + batch,
    output_bytes=own,
    # Gradients (and, gathered, parameters) live beside the activations.
    temporary_bytes=int(
      traced.kept_bytes * images / config.train.micro_batches
      + params * (2 if fsdp else 1)
      + resolved.loss_bytes_per_device
    ),
    aliased_bytes=own,
    flops=traced.flops * images,
    bytes_accessed=traced.traffic_bytes * images,
    # The state is read and written once.
    hbm_bytes=int(traced.traffic_bytes * images) + 2 * own,
    collectives={
      kind: total for kind, total in collectives.items() if total['num_bytes']
    }
    if devices > 1
    else {},
    image_bytes=of_images
    * (2 if config.model.compute_dtype == 'bfloat16' else 4),
    compile_seconds=0.0,
  )


def _collective(size: int) -> dict[str, int]:
  return {'count': 1, 'num_bytes': size, 'largest_array': size}
