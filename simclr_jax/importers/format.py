"""What a file format has to know to be imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from simclr_jax import config as config_lib

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Contents:
  """A file, read.

  Attributes:
    arrays: {name: array} of what may be a variable of a network.
    step: Training steps, as the file says; 0 where it does not.
    left_out: Why -> names that are no variables of a network.
    notes: What a person should know about how it was read.
  """

  arrays: Arrays
  step: int = 0
  left_out: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )
  notes: tuple[str, ...] = ()


class Plan(NamedTuple):
  """Which array is which variable.

  Attributes:
    config: With what the format decides.
    num_classes: Of the online head; 0 where the file has none.
    names: {our path: name in the file} of the whole network.
    pad: Zeros put around every picture, in pixels.
  """

  config: config_lib.Config
  num_classes: int
  names: dict[str, str]
  pad: int = 0


@dataclasses.dataclass(frozen=True)
class Format:
  """A format; functions only.

  Attributes:
    read: (file or folder, prefix) -> `Contents`. The prefix, if it is not '',
      is what the names of the network's variables begin with; it is removed.
    plan: (arrays, config) -> `Plan`.
    to_ours: (our path, array) -> array in our layout (HWIO, [in, out]).
    takes_unit_range: Whether networks of this format are known to be trained on
      pictures in [0, 1] without mean/std.
    antialias: Whether they were trained on images that were shrunk with
      antialias, as PyTorch's packages do.
  """

  read: Callable[[pathlib.Path, str], Contents]
  plan: Callable[[Arrays, config_lib.Config], Plan]
  to_ours: Callable[[str, np.ndarray], np.ndarray]
  takes_unit_range: bool
  antialias: bool = False


def same_layout(path: str, array: np.ndarray) -> np.ndarray:
  """`Format.to_ours` of a format that stores what we store."""
  del path
  return array


def decide(config: config_lib.Config, **fields: object) -> config_lib.Config:
  """`config` with fields of its model section as the format has them."""
  return config_lib.replace(config, model=fields)


def widen(arrays: Mapping[str, np.ndarray]) -> tuple[Arrays, tuple[str, ...]]:
  """float16 and bfloat16 as float32, which is exact; and a note that says so.

  What is float64 stays so, and is refused as misshapen.
  """
  wide: Arrays = {}
  kinds = set()
  for name, array in arrays.items():
    if array.dtype.name in ('float16', 'bfloat16'):
      kinds.add(array.dtype.name)
      array = array.astype(np.float32)
    wide[name] = array
  if not kinds:
    return wide, ()
  return wide, (f'{" and ".join(sorted(kinds))} widened to float32: exact',)
