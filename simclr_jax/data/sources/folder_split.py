"""Splits of a folder: 'train', 'a/b', '' (all), '[:80%]', 'a[80%:]'.

Which side of a percentage a picture falls on follows from a hash of its path
alone: shares come out about as large as named, and pictures that are added or
removed later move no other one from one side to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import os
import re
from typing import NamedTuple

_PATTERN = re.compile(r'(.*)\[(?:(\d+)%)?:(?:(\d+)%)?\]')


class FolderSplit(NamedTuple):
  """A sub-folder and the share of it that is taken.

  Attributes:
    folder: Relative; '' is the whole.
    low: Least percentage taken, 0 to 100.
    high: Percentage from which on nothing is taken.
  """

  folder: str
  low: int = 0
  high: int = 100


def parse(split: str) -> FolderSplit:
  """Reads a split.

  Raises:
    ValueError: If it looks like a slice, but is none of percentages, or takes
      nothing.
  """
  if not split.endswith(']') or '[' not in split:
    return FolderSplit(split)
  match = _PATTERN.fullmatch(split)
  if match:
    folder, low, high = match.groups()
    parsed = FolderSplit(folder, int(low or 0), int(high or 100))
    if parsed.low < parsed.high <= 100:
      return parsed
  raise ValueError(
    f'split {split!r} of a folder: a part must be named by percentages that '
    "rise from 0 to 100, such as '[:80%]' and '[80%:]' or 'train[:10%]'; "
    'numbers of pictures would mean others as soon as one is added'
  )


def choose(split: FolderSplit, paths: Sequence[str]) -> list[bool]:
  """Whether each path (relative to the split's folder) belongs to the split."""
  if (split.low, split.high) == (0, 100):
    return [True] * len(paths)
  return [split.low <= _percentage(path) < split.high for path in paths]


def _percentage(path: str) -> float:
  """Uniform in [0, 100), the same on every machine."""
  digest = hashlib.sha256(os.fsencode(path)).digest()
  return int.from_bytes(digest[:6], 'big') * 100 / 2**48
