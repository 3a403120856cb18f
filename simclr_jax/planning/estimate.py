"""Times, hours, memory and disk from what a step costs (pure arithmetic)."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from simclr_jax import config as config_lib
from simclr_jax.planning.topology import Topology

# A GPU process takes three quarters of the memory at its start by default
# (docs.jax.dev, 'GPU memory allocation'): a step larger than that does not run
# unless XLA_PYTHON_CLIENT_MEM_FRACTION says more.
_GPU_SHARE = 0.75
# What a TPU's runtime and the program itself keep: XLA for TPU offers a program
# 15.75 of the 16 GiB of a v5e.
_TPU_SHARE = 15.75 / 16


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Least time of a step by published peaks; seconds.

  Attributes:
    arithmetic, memory: FLOPs and memory traffic of a device over its peaks.
    links: Bytes that collectives put on a device's links over their bandwidth;
      None where that is not published or nothing is known of them.
    bound: 'arithmetic', 'memory' or 'links', whichever is longest.
  """

  arithmetic: float
  memory: float
  links: float | None
  bound: str

  @property
  def floor(self) -> float:
    """Seconds of a step in which all three go on at once, at their peak."""
    return max(self.arithmetic, self.memory, self.links or 0.0)


def roofline(
  topology: Topology,
  *,
  compute_dtype: str,
  flops: float,
  hbm_bytes: float,
  collectives: Mapping[str, Mapping[str, Any]] | None,
) -> Roofline | None:
  """The roofline of a step (Williams et al. 2009), with links as a third roof.

  Args:
    topology: What it runs on.
    compute_dtype: config.model.compute_dtype.
    flops: Of one device and step.
    hbm_bytes: Through the memory of one device.
    collectives: As `hlo.Program.collectives` counts them; None if unknown.

  Returns:
    None where no peaks are published (CPU).
  """
  chip = topology.chip
  if chip is None or chip.bandwidth is None:
    return None
  peak = chip.bfloat16 if compute_dtype == 'bfloat16' else chip.float32
  shared = topology.devices_per_chip
  times: dict[str, float] = {
    'arithmetic': flops / (peak / shared),
    'memory': hbm_bytes / (chip.bandwidth / shared),
  }
  links = None
  if chip.link is not None and collectives is not None:
    sent = wire_bytes(collectives, num_devices=topology.num_devices)
    links = sent / (chip.link / shared)
    times['links'] = links
  return Roofline(
    arithmetic=times['arithmetic'],
    memory=times['memory'],
    links=links,
    bound=max(times, key=lambda name: times[name]),
  )


def wire_bytes(
  collectives: Mapping[str, Mapping[str, Any]], *, num_devices: int
) -> float:
  """Bytes that one of N devices must send, by the best algorithms there are.

  Of a result of n bytes (Thakur et al. 2005, 'Optimization of collective
  communication operations in MPICH'): all-reduce 2n(N-1)/N, all-gather and
  all-to-all n(N-1)/N, reduce-scatter n(N-1) (its result is one part of N), a
  permutation or broadcast n.
  """
  n = num_devices
  share = (n - 1) / n
  factors = {
    'all-reduce': 2 * share,
    'all-gather': share,
    'all-to-all': share,
    'reduce-scatter': n - 1,
    'collective-permute': 1,
    'collective-broadcast': 1,
  }
  return sum(
    factors[kind] * total['num_bytes'] for kind, total in collectives.items()
  )


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device while a run trains.

  Attributes:
    step: Of the step's program: state, batch, results, temporaries.
    next_batch: Views that are put there one batch ahead.
    pixels: Of the data set, for data.augment_on='device'.
    limit: What a program may take; None where not known.
    available: The memory of which `limit` is the usable part.
  """

  step: int
  next_batch: int
  pixels: int
  limit: int | None
  available: int | None

  @property
  def needed(self) -> int:
    """All of it."""
    return self.step + self.next_batch + self.pixels

  @property
  def fits(self) -> bool | None:
    """None where nobody knows how much there is."""
    return None if self.limit is None else self.needed <= self.limit


def usable_memory(topology: Topology) -> int | None:
  """Bytes of a device that a program may take."""
  available = topology.memory_per_device
  if available is None:
    return None
  if topology.text == 'local':
    return available  # The device itself says what it lets one have.
  share = {'gpu': _GPU_SHARE, 'tpu': _TPU_SHARE}[topology.platform]
  return int(available * share)


def memory(
  config: config_lib.Config,
  *,
  step: int,
  topology: Topology,
  num_examples: int,
  num_views: int = 2,
  limit: int | None = None,
) -> Memory:
  """Memory of one device.

  Args:
    config: Of the run.
    step: Bytes of the step's program.
    topology: What it runs on.
    num_examples: Of the training split.
    num_views: Of each image.
    limit: What the compiler says that a program may take; default: as
      `usable_memory` says.
  """
  return Memory(
    step=step,
    next_batch=batch_bytes(
      config, num_devices=topology.num_devices, num_views=num_views
    ),
    pixels=pixel_bytes(config, num_examples=num_examples, topology=topology),
    limit=usable_memory(topology) if limit is None else limit,
    available=topology.memory_per_device,
  )


def batch_bytes(
  config: config_lib.Config, *, num_devices: int, num_views: int = 2
) -> int:
  """Views of one batch on one device, in the type that the step gets."""
  size = 4
  if (
    config.data.augment_on != 'host'
    and config.model.compute_dtype == 'bfloat16'
  ):
    size = 2
  images = config.train.batch_size // num_devices
  return num_views * images * 3 * config.data.image_size**2 * size


def pixel_bytes(
  config: config_lib.Config, *, num_examples: int, topology: Topology
) -> int:
  """The data set on one device for augment_on='device', else 0.

  As `augmentation.device_memory` places it: copies up to a quarter of the
  memory, else in parts. Images of one size (`data.canvas_size` 0) are taken to
  be as large as the views.
  """
  if config.data.augment_on != 'device':
    return 0
  side = config.data.canvas_size or config.data.image_size
  whole = num_examples * 3 * side**2
  placement = config.data.device_cache
  if placement == 'auto':
    memory = topology.memory_per_device
    small = memory is None or whole <= memory / 4
    placement = 'replicated' if small else 'sharded'
  return (
    whole if placement == 'replicated' else -(-whole // topology.num_devices)
  )


@dataclasses.dataclass(frozen=True)
class Duration:
  """How long a run takes if a step takes `seconds`.

  Attributes:
    seconds: Of a step.
    hours: Of all steps; without start, compilation, evaluation and saves.
    chip_hours: What is paid for.
    images_per_second: Over all devices.
  """

  seconds: float
  hours: float
  chip_hours: float
  images_per_second: float


def duration(
  seconds: float, *, total_steps: int, batch_size: int, num_chips: int
) -> Duration:
  """Hours of a run from the seconds of a step."""
  hours = seconds * total_steps / 3600
  return Duration(
    seconds=seconds,
    hours=hours,
    chip_hours=hours * num_chips,
    images_per_second=batch_size / seconds,
  )


@dataclasses.dataclass(frozen=True)
class Disk:
  """Bytes of checkpoints, uncompressed (compression saves a few per cent).

  Attributes:
    state, encoder: Items of one checkpoint; it holds both.
    at_most: What the workdir needs at the moment at which a new checkpoint is
      whole and the oldest not yet gone.
    checkpoints: How many that are.
    hours_between: At the least time of a step; None where that is not known.
  """

  state: int
  encoder: int
  at_most: int
  checkpoints: int
  hours_between: float | None


def disk(
  checkpoint: config_lib.CheckpointConfig,
  *,
  state_bytes: int,
  encoder_bytes: int,
  steps_between: int,
  step_seconds: float | None,
) -> Disk:
  """Disk that a run's checkpoints need."""
  count = checkpoint.keep_latest + checkpoint.keep_best + 1
  between = None
  if step_seconds is not None:
    between = steps_between * step_seconds / 3600
  return Disk(
    state=state_bytes,
    encoder=encoder_bytes,
    at_most=count * (state_bytes + encoder_bytes),
    checkpoints=count,
    hours_between=between,
  )
