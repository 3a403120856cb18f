"""Compiles the real training step for a TPU slice that is not there."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import numpy as np

from benchmarks import hlo
from simclr_jax import config as config_lib
from simclr_jax.data.source import Example, Source
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import progress
from simclr_jax.training import run as run_lib


@dataclasses.dataclass(frozen=True)
class Cost:
  """What the compiled step costs one chip; bytes and FLOPs are per step.

  Attributes:
    topology: As asked for, e.g. 'v5e:8x16'.
    device_kind: As JAX names it.
    num_chips: JAX devices in it.
    images_per_chip: Of the global batch.
    argument_bytes, output_bytes, temporary_bytes, aliased_bytes: Memory; what
      is aliased (the donated state) is in both arguments and output.
    flops: XLA's count.
    bytes_accessed: XLA's count, over every memory and copy.
    hbm_bytes: Read from and written to the chip's memory (benchmarks/hlo.py).
    collectives: Count, bytes and largest array by kind.
    image_bytes: One chip's images in the compute dtype, to compare with.
    arithmetic_ms, memory_ms, accessed_ms: Least time by published peaks for
      flops, hbm_bytes and bytes_accessed.
    bound: 'memory' or 'arithmetic', the longer of the first two.
  """

  topology: str
  device_kind: str
  num_chips: int
  images_per_chip: int
  argument_bytes: int
  output_bytes: int
  temporary_bytes: int
  aliased_bytes: int
  flops: float
  bytes_accessed: float
  hbm_bytes: int
  collectives: dict[str, dict[str, int]]
  image_bytes: int
  arithmetic_ms: float
  memory_ms: float
  accessed_ms: float
  bound: str

  @property
  def moves_images(self) -> bool:
    """Whether a collective holds an array as large as a chip's images."""
    return any(
      kind['largest_array'] >= self.image_bytes
      for kind in self.collectives.values()
    )


@functools.cache
def devices_of(topology: str) -> tuple[Any, ...]:
  """Stand-ins for the devices of a slice.

  Raises:
    ValueError: If libtpu does not know the topology.
  """
  try:
    description = topologies.get_topology_desc(
      platform='tpu', topology_name=topology
    )
  except Exception as error:
    raise ValueError(
      f'--topologies: {topology!r} is no TPU topology that libtpu can compile '
      f"for (for example 'v5e:8x16', 'v5p:4x4x4', 'v6e:8x16'): {error}"
    ) from error
  return tuple(description.devices)


def measure(
  config: config_lib.Config,
  topology: str,
  *,
  num_examples: int,
  num_classes: int,
) -> Cost:
  """Compiles the step of a config for a slice; takes minutes.

  Args:
    config: With the global batch that the slice is to train.
    topology: Name that libtpu knows.
    num_examples: Of the training split that is not there, either.
    num_classes: Of its labels.
  """
  devices = devices_of(topology)
  mesh = mesh_lib.make_mesh(devices)
  source = Source(
    name='none',
    num_examples=num_examples,
    num_classes=num_classes,
    encoded=False,
    read=lambda i: Example(np.zeros((1, 1, 3), np.uint8), 0),
    example_id=str,
    fingerprint='none',
  )
  run = run_lib.make_run(config, mesh=mesh, source=source)
  # Outside of the mesh: the key that shapes are traced with is a real array.
  state = run.abstract_state()
  with (
    jax.set_mesh(mesh),
    jax.default_matmul_precision(config.train.matmul_precision),
  ):
    lowered = run.train_step().lower(state, _abstract_batch(config, run))
    compiled = lowered.compile()
  return _cost(compiled, config=config, topology=topology, devices=devices)


def _abstract_batch(
  config: config_lib.Config, run: run_lib.Run
) -> dict[str, jax.ShapeDtypeStruct]:
  size, batch = config.data.image_size, config.train.batch_size
  sharding = mesh_lib.batch_sharding(run.mesh)
  shapes = {
    'views': ((batch, run.objective.num_views, size, size, 3), jnp.float32),
    'label': ((batch,), jnp.int32),
  }
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    for name, (shape, dtype) in shapes.items()
  }


def _cost(
  compiled: Any,
  *,
  config: config_lib.Config,
  topology: str,
  devices: tuple[Any, ...],
) -> Cost:
  memory, counted = compiled.memory_analysis(), compiled.cost_analysis()
  program = hlo.Program(compiled.as_text())
  kind = devices[0].device_kind
  peak = progress.published_peak(kind)
  if peak is None or peak.bandwidth is None:
    raise ValueError(
      f'{kind}: no published peak in simclr_jax/training/progress.py; add its '
      'row there, else there is no roofline'
    )
  bfloat16 = config.model.compute_dtype == 'bfloat16'
  hbm_bytes = program.memory_traffic().hbm
  peak_flops = peak.bfloat16 if bfloat16 else peak.float32
  arithmetic = counted['flops'] / peak_flops
  memory_time = hbm_bytes / peak.bandwidth
  images = config.train.batch_size // len(devices)
  return Cost(
    topology=topology,
    device_kind=kind,
    num_chips=len(devices),
    images_per_chip=images,
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes,
    temporary_bytes=memory.temp_size_in_bytes,
    aliased_bytes=memory.alias_size_in_bytes,
    flops=counted['flops'],
    bytes_accessed=counted['bytes accessed'],
    hbm_bytes=hbm_bytes,
    collectives={
      name: dataclasses.asdict(total)
      for name, total in program.collectives().items()
    },
    image_bytes=(
      2 * images * 3 * config.data.image_size**2 * (2 if bfloat16 else 4)
    ),
    arithmetic_ms=1e3 * arithmetic,
    memory_ms=1e3 * memory_time,
    accessed_ms=1e3 * counted['bytes accessed'] / peak.bandwidth,
    bound='memory' if memory_time > arithmetic else 'arithmetic',
  )
