"""Whether a data set fits on the devices, and how it lies there."""

from __future__ import annotations

import os
import pathlib

from absl import logging
import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
import numpy as np

# Of the free memory, at most this share for pixels: a step needs the rest.
MOST_SHARE = 0.75
# Copies on every device spare the exchange, if they are no more than this.
REPLICATED_SHARE = 0.25


def choose_placement(
  wanted: str, *, num_bytes: int, mesh: Mesh, what: str
) -> str:
  """'replicated' or 'sharded', checked against the free memory of the devices.

  'auto' replicates what takes at most a quarter of it. All processes come to
  the same answer: the device with the least memory decides.

  Args:
    wanted: `config.data.device_cache`.
    num_bytes: Of all pixels together.
    mesh: The devices.
    what: The data, for the message, with number and size of the pictures.

  Raises:
    ValueError: If it would take more than three quarters of the free memory.
  """
  devices = mesh.devices.size
  free = free_bytes(mesh)
  if free is None:
    logging.warning(
      '%s takes %s; how much memory the devices have is not known',
      what,
      _size(num_bytes),
    )
    return 'replicated' if wanted == 'auto' else wanted
  chosen = wanted
  if wanted == 'auto':
    fits = num_bytes <= REPLICATED_SHARE * free
    chosen = 'replicated' if fits or devices == 1 else 'sharded'
  needed = num_bytes if chosen == 'replicated' else -(-num_bytes // devices)
  if needed <= MOST_SHARE * free:
    return chosen
  advice = [
    'config.data.canvas_size smaller (its square counts)',
    "config.data.augment_on='hybrid', which keeps no pixels on the devices",
  ]
  if chosen == 'replicated' and devices > 1:
    advice.insert(0, "config.data.device_cache='sharded'")
  elif chosen == 'sharded':
    advice.insert(0, 'more devices')
  raise ValueError(
    f'{what} does not fit on the devices: {chosen}, it takes '
    f'{_size(needed)} of each, {_size(free)} are free on the fullest, and '
    f'{1 - MOST_SHARE:.0%} of that must be left for the training step. '
    f'Choose {"; or ".join(advice)}'
  )


def free_bytes(mesh: Mesh) -> int | None:
  """Free memory of the fullest device; None if one does not tell."""
  free = [_free_on(device) for device in mesh.local_devices]
  least = -1 if None in free else min(x for x in free if x is not None)
  if jax.process_count() > 1:
    # In MiB: JAX has no 64-bit integers by default.
    everyone = multihost_utils.process_allgather(np.int32(least >> 20))
    least = int(np.min(everyone)) << 20
  return None if least < 0 else least


def _free_on(device: jax.Device) -> int | None:
  stats = device.memory_stats()
  if stats and 'bytes_limit' in stats:
    return int(stats['bytes_limit'] - stats.get('bytes_in_use', 0))
  if device.platform == 'cpu':
    # The devices of a process share the host's memory.
    return _host_free_bytes() // jax.local_device_count()
  return None


def _host_free_bytes() -> int:
  """What the kernel says can be had, page cache included."""
  meminfo = pathlib.Path('/proc/meminfo')
  if meminfo.exists():
    for line in meminfo.read_text().splitlines():
      if line.startswith('MemAvailable:'):
        return int(line.split()[1]) * 1024
  return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _size(num_bytes: int) -> str:
  return f'{num_bytes:,} bytes ({num_bytes / 2**30:,.2f} GiB)'
