"""Bits in use of images that are stored with 16, e.g. 12 of a microscope."""

from __future__ import annotations

from absl import logging
import numpy as np

STORED = 16


def check_range(name: str, highest: np.ndarray, *, bits: int) -> None:
  """Warns where `config.data.bits` does not fit the images of a split.

  Args:
    name: Split, for people.
    highest: Largest value of each image, 0 for those of 8 bits.
    bits: `config.data.bits`.
  """
  deep = highest[highest > 0]
  if not len(deep):
    return
  top = int(deep.max())
  used = max(top.bit_length(), 8)
  remedy = (
    f'--config.data.bits={used} mends it (knn, linear_probe and report of a '
    f'checkpoint that was trained so: --data.bits={used}, embed: --bits={used})'
  )
  if used < bits:
    logging.warning(
      '%s: its %d 16-bit images use 0 to %d of %d, which makes them %d times '
      'too dark; %s',
      name,
      len(deep),
      top,
      2**bits - 1,
      2 ** (bits - used),
      remedy,
    )
  elif used > bits:
    logging.warning(
      '%s: %d of its %d 16-bit images have values above %d (up to %d), which '
      'become white; %s',
      name,
      int((deep >= 2**bits).sum()),
      len(deep),
      2**bits - 1,
      top,
      remedy,
    )


def tag(highest: np.ndarray, bits: int) -> bytes:
  """Part of a fingerprint: empty where `bits` changes no pixel."""
  changes = bits != STORED and bool(highest.any())
  return f'bits {bits}'.encode() if changes else b''
