"""Which form of NT-Xent a run takes, from the memory each would need (pure).

All forms give the same loss, gradient and metrics, up to rounding. N rows of
width d on D devices, n = N / D on each, C keys at a time; bytes of a device:

  plain     three arrays of n x N (logits, exponentials, the metrics' part) and
            the gathered keys with their gradient
  chunked   three arrays of n x C; gathered keys, their chunks and one temporary
  ring      three arrays of n x min(C, n); a few blocks of n x d, no gathered
            keys

The factors are those of compiled programs (XLA on CPU, float32), which the
estimate meets within a factor of two (tests/test_loss_choice.py).
"""

from __future__ import annotations

from typing import NamedTuple

from simclr_jax import config as config_lib

# Of a device's memory that the loss may take before it is put in chunks, and
# again that gathered keys may take before they go around a ring: 1/64 of the
# smallest accelerator in use (16 GiB), so that images never wait for logits.
COMFORTABLE_BYTES = 256 * 2**20
# Logits of a chosen chunk: enough work for one matrix product of any device.
CHUNK_LOGITS = 2**24
FLOAT_BYTES = 4


class LossChoice(NamedTuple):
  """What the objective runs.

  Attributes:
    implementation: 'plain', 'chunked' or 'ring'.
    chunk_size: Keys compared at a time on a device; 0 for 'plain'.
    bytes_per_device: Estimate of the loss and its gradient, temporaries alone.
  """

  implementation: str
  chunk_size: int
  bytes_per_device: int


def estimate_bytes(
  implementation: str,
  *,
  num_rows: int,
  dim: int,
  num_devices: int,
  chunk_size: int = 0,
) -> int:
  """Temporary memory of one device for loss and gradient, as derived above.

  Args:
    implementation: 'plain', 'chunked' or 'ring'.
    num_rows: N, all rows of the global batch (2B).
    dim: d, width of z.
    num_devices: D.
    chunk_size: C; of no effect on 'plain'.
  """
  local_rows = num_rows // num_devices
  if implementation == 'plain':
    numbers = 3 * local_rows * num_rows + 2 * (num_rows + local_rows) * dim
  elif implementation == 'chunked':
    numbers = 3 * local_rows * min(chunk_size, num_rows)
    numbers += (3 * num_rows + 3 * local_rows) * dim
  else:
    numbers = 3 * local_rows * min(chunk_size, local_rows)
    numbers += 6 * local_rows * dim
  return FLOAT_BYTES * numbers


def choose_chunk_size(*, num_rows: int, num_devices: int) -> int:
  """Keys at a time where the config leaves it open.

  A sixteenth of all keys, so that the chunked form takes a tenth of the plain
  one's memory; fewer where the logits would be more than 2**24 (64 MiB), never
  fewer than 128, below which matrix products are inefficient.
  """
  local_rows = max(1, num_rows // num_devices)
  chosen = min(num_rows // 16, CHUNK_LOGITS // local_rows)
  return max(128, chosen // 2 * 2)


def choose(
  loss: config_lib.LossConfig, *, num_rows: int, dim: int, num_devices: int
) -> LossChoice:
  """The form that `config.loss` names, or the one that fits.

  'auto' is 'plain' as long as that takes at most 256 MiB of a device, else
  'chunked', or 'ring' where there are several devices and the gathered keys
  (with the copies that the chunks need) alone would take more than that.

  Args:
    loss: Section of the config.
    num_rows: N, all rows of the global batch (2B).
    dim: d, width of z.
    num_devices: D, over which the rows are sharded.
  """
  sizes = {'num_rows': num_rows, 'dim': dim, 'num_devices': num_devices}
  implementation = loss.implementation
  if implementation == 'auto':
    gathered = 3 * FLOAT_BYTES * num_rows * dim
    if estimate_bytes('plain', **sizes) <= COMFORTABLE_BYTES:
      implementation = 'plain'
    elif num_devices > 1 and gathered > COMFORTABLE_BYTES:
      implementation = 'ring'
    else:
      implementation = 'chunked'
  if implementation == 'plain':
    return LossChoice('plain', 0, estimate_bytes('plain', **sizes))
  chunk_size = loss.chunk_size or choose_chunk_size(
    num_rows=num_rows, num_devices=num_devices
  )
  # What there is to compare at most at a time.
  here = num_rows // num_devices if implementation == 'ring' else num_rows
  chunk_size = min(chunk_size, here)
  return LossChoice(
    implementation,
    chunk_size,
    estimate_bytes(implementation, chunk_size=chunk_size, **sizes),
  )
