"""Which devices a plan is for: 'v5e:8x16', 'h200:8' or 'local' (no JAX)."""

from __future__ import annotations

import dataclasses
import math
import re

from simclr_jax import chips

LOCAL = 'local'
# A v4 host shows one device for each chip; compiled ahead of time, libtpu has
# one for each of its two cores.
_COMPILED_DEVICES = {'v4': 2}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices of one kind.

  Attributes:
    text: As given.
    platform: 'tpu', 'gpu', or that of the devices here for 'local'.
    chip: What is published of them; None for those nobody publishes (CPU).
    num_devices: JAX devices.
    num_chips: What one pays for.
    num_hosts: Each with its own input pipeline.
    memory_per_device: Bytes; None where not known.
  """

  text: str
  platform: str
  chip: chips.Chip | None
  num_devices: int
  num_chips: int
  num_hosts: int
  memory_per_device: int | None

  @property
  def devices_per_chip(self) -> int:
    """JAX devices that share a chip, its arithmetic, memory and links."""
    return self.num_devices // self.num_chips

  @property
  def label(self) -> str:
    """For people."""
    name = self.chip.device_kind if self.chip else self.platform
    devices = (
      f' ({self.num_devices} JAX devices)' if self.devices_per_chip > 1 else ''
    )
    return (
      f'{self.num_chips} x {name}{devices} on {self.num_hosts} '
      f'host{"s" if self.num_hosts > 1 else ""}'
    )


def parse(text: str) -> Topology:
  """The devices that a name stands for.

  Args:
    text: 'v5e:8x16' (chips along each axis, as Google and libtpu count them; so
      v3:8x8 is 64 chips of 2 cores) or 'h200:8'. Not 'local', which only JAX
      can tell: see `local`.

  Raises:
    ValueError: If it is neither, or the accelerator is unknown.
  """
  match = re.fullmatch(r'([\w\-]+):(\d+(?:x\d+)*)', text)
  if match is None:
    raise ValueError(
      f"--topology={text!r} is neither 'local' nor of the form "
      "'ACCELERATOR:CHIPS', such as 'v5e:8x16', 'v5p:4x4x4', 'h200:8'"
    )
  chip = chips.named(match[1])
  dims = [int(d) for d in match[2].split('x')]
  num_chips = math.prod(dims)
  if not num_chips:
    raise ValueError(f'--topology={text!r} has no chips')
  if chip.platform == 'gpu' and len(dims) > 1:
    raise ValueError(
      f"--topology={text!r}: GPUs have no grid; write '{chip.name}:{num_chips}'"
    )
  per_chip = _COMPILED_DEVICES.get(chip.name, chip.devices_per_chip)
  return Topology(
    text=text,
    platform=chip.platform,
    chip=chip,
    num_devices=num_chips * per_chip,
    num_chips=num_chips,
    num_hosts=-(-num_chips // chip.chips_per_host),
    memory_per_device=chip.memory // per_chip if chip.memory else None,
  )


def local(
  device_kind: str,
  *,
  platform: str,
  num_devices: int,
  num_hosts: int,
  memory_per_device: int | None,
) -> Topology:
  """The devices of this process, as JAX says they are.

  Args:
    device_kind: As JAX names it.
    platform: As JAX names it.
    num_devices: All of them.
    num_hosts: Processes.
    memory_per_device: What a device says it has; None if it does not, then
      the published figure counts.
  """
  chip = chips.find(device_kind)
  per_chip = chip.devices_per_chip if chip else 1
  if memory_per_device is None and chip and chip.memory:
    memory_per_device = chip.memory // per_chip
  return Topology(
    text=LOCAL,
    platform=platform,
    chip=chip,
    num_devices=num_devices,
    num_chips=max(1, num_devices // per_chip),
    num_hosts=num_hosts,
    memory_per_device=memory_per_device,
  )


def scaled(topology: Topology, factor: int) -> Topology:
  """The same devices, `factor` times as many."""
  per_host = -(-topology.num_chips // topology.num_hosts)
  if topology.chip:
    per_host = max(per_host, topology.chip.chips_per_host)
  num_chips = topology.num_chips * factor
  return dataclasses.replace(
    topology,
    num_devices=topology.num_devices * factor,
    num_chips=num_chips,
    num_hosts=-(-num_chips // per_host),
  )
