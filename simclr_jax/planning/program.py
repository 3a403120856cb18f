"""Compiles the real training step for devices, there or not, without a run."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import time
from typing import Any

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data.source import Example, Source
from simclr_jax.planning import cost_cache, hlo
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import run as run_lib


@dataclasses.dataclass(frozen=True)
class Cost:
  """What the compiled step costs one device; bytes and FLOPs are per step.

  Attributes:
    device_kind: As JAX names it.
    num_devices: JAX devices compiled for.
    argument_bytes, output_bytes, temporary_bytes, aliased_bytes: Memory; what
      is aliased (the donated state) is in both arguments and output.
    flops: XLA's count.
    bytes_accessed: XLA's count, over every memory and copy.
    hbm_bytes: Read from and written to the device's memory (planning/hlo.py).
    collectives: Count, bytes and largest array by kind.
    image_bytes: One device's images in the compute dtype, to compare with.
    compile_seconds: Of the compiler, when it ran.
    cached: Whether it ran in an earlier call.
  """

  device_kind: str
  num_devices: int
  argument_bytes: int
  output_bytes: int
  temporary_bytes: int
  aliased_bytes: int
  flops: float
  bytes_accessed: float
  hbm_bytes: int
  collectives: dict[str, dict[str, int]]
  image_bytes: int
  compile_seconds: float
  cached: bool = False

  @property
  def memory_bytes(self) -> int:
    """Of one device while the step runs."""
    return (
      self.argument_bytes
      + self.temporary_bytes
      + self.output_bytes
      - self.aliased_bytes
    )

  @property
  def moves_images(self) -> bool:
    """Whether a collective holds an array as large as a device's images."""
    return any(
      kind['largest_array'] >= self.image_bytes
      for kind in self.collectives.values()
    )


class OutOfMemory(ValueError):
  """The compiler found no way to fit the step into a device.

  Attributes:
    used, limit: Bytes of a device, of the program and at most.
  """

  def __init__(self, used: int, limit: int):
    super().__init__(
      f'the step needs {used / 1e9:.2f} GB of a device, which has '
      f'{limit / 1e9:.2f} GB'
    )
    self.used, self.limit = used, limit


@functools.cache
def devices_of(topology: str) -> tuple[Any, ...]:
  """Stand-ins for the devices of a TPU slice.

  Raises:
    ValueError: If libtpu does not know the topology, or another process uses
      libtpu.
  """
  try:
    description = topologies.get_topology_desc(
      platform='tpu', topology_name=topology
    )
  except Exception as error:
    if 'lockfile' in str(error):
      raise ValueError(
        'another process of this machine has loaded libtpu, which one may at a '
        'time: wait for it, or set ALLOW_MULTIPLE_LIBTPU_LOAD=1 if it only '
        'compiles'
      ) from error
    raise ValueError(
      f'{topology!r} is no TPU topology that libtpu can compile '
      f"for (for example 'v5e:8x16', 'v5p:4x4x4', 'v6e:8x16'): {error}"
    ) from error
  return tuple(description.devices)


def compile_step(
  config: config_lib.Config,
  devices: tuple[Any, ...],
  *,
  num_examples: int,
  num_classes: int,
) -> Cost:
  """Compiles the step of a config for devices; minutes for a large one.

  A step that was compiled before, for the same devices by the same versions, is
  read from the cache (`cost_cache.py`).

  Args:
    config: With the global batch that the devices are to train.
    devices: Of one kind, real or from `devices_of`.
    num_examples: Of the training split, which need not be there.
    num_classes: Of its labels.

  Raises:
    OutOfMemory: If the compiler says so itself (that for TPUs does).
    ValueError: If config, data set and devices do not fit together.
  """
  mesh = mesh_lib.make_mesh(devices)
  run = run_lib.make_run(
    config,
    mesh=mesh,
    source=absent_source(num_examples=num_examples, num_classes=num_classes),
  )
  # Outside of the mesh: the key that shapes are traced with is a real array.
  state = run.abstract_state()
  with (
    jax.set_mesh(mesh),
    jax.default_matmul_precision(config.train.matmul_precision),
  ):
    step: Any = run.train_step()  # Jit-compiled; its type says callable only.
    batch = _abstract_batch(run)
    lowered = step.lower(state, batch)
    key = cost_cache.make_key(lowered.as_text(), devices)
    if found := cost_cache.load(key):
      return Cost(**{**found, 'cached': True})
    begin = time.monotonic()
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      too_much = parse_out_of_memory(str(error))
      if too_much is None:
        raise
      used, limit = too_much
      given = _argument_bytes((state, batch))
      raise OutOfMemory(used + given, limit) from error
  cost = _cost(
    compiled,
    config=config,
    devices=devices,
    compile_seconds=time.monotonic() - begin,
  )
  cost_cache.save(key, dataclasses.asdict(cost))
  return cost


def absent_source(*, num_examples: int, num_classes: int) -> Source:
  """Stands for a training split of which only the size is known."""
  return Source(
    name='none',
    num_examples=num_examples,
    num_classes=num_classes,
    encoded=False,
    read=lambda i: Example(np.zeros((1, 1, 3), np.uint8), 0),
    example_id=str,
    fingerprint='none',
  )


_OUT_OF_MEMORY = re.compile(
  r'Ran out of memory on HBM, the total memory required for HLO temporaries '
  r'\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)'
)
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def parse_out_of_memory(message: str) -> tuple[int, int] | None:
  """(bytes of temporaries, bytes there) in what XLA for TPU says, else None."""
  found = _OUT_OF_MEMORY.search(message)
  if found is None:
    return None
  used, used_unit, limit, limit_unit = found.groups()
  return (
    int(float(used) * _UNITS[used_unit]),
    int(float(limit) * _UNITS[limit_unit]),
  )


def _argument_bytes(tree: Any) -> int:
  """Of abstract arrays with shardings, on one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def views_dtype(config: config_lib.Config) -> Any:
  """Type in which the step gets its views (training/feeding.py)."""
  on_devices = config.data.augment_on != 'host'
  narrow = on_devices and config.model.compute_dtype == 'bfloat16'
  return jnp.bfloat16 if narrow else jnp.float32


def _abstract_batch(run: run_lib.Run) -> dict[str, jax.ShapeDtypeStruct]:
  config = run.config
  size, batch = config.data.image_size, config.train.batch_size
  sharding = mesh_lib.batch_sharding(run.mesh)
  views = (batch, run.objective.num_views, size, size, 3)
  shapes = {
    'views': (views, views_dtype(config)),
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
  devices: tuple[Any, ...],
  compile_seconds: float,
) -> Cost:
  memory, counted = compiled.memory_analysis(), compiled.cost_analysis()
  program = hlo.Program(compiled.as_text())
  bfloat16 = config.model.compute_dtype == 'bfloat16'
  images = config.train.batch_size // len(devices)
  return Cost(
    device_kind=devices[0].device_kind,
    num_devices=len(devices),
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes,
    temporary_bytes=memory.temp_size_in_bytes,
    aliased_bytes=memory.alias_size_in_bytes,
    flops=counted['flops'],
    bytes_accessed=counted['bytes accessed'],
    hbm_bytes=program.memory_traffic().hbm,
    collectives={
      name: dataclasses.asdict(total)
      for name, total in program.collectives().items()
    },
    image_bytes=(
      2 * images * 3 * config.data.image_size**2 * (2 if bfloat16 else 4)
    ),
    compile_seconds=compile_seconds,
  )
