"""What is read from a checkpoint: records, no code."""

from __future__ import annotations

import dataclasses
from typing import Any

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Restored:
  """A training state from disk.

  Attributes:
    state: As asked for, on the shardings asked for.
    step: Of the checkpoint.
    passport: JSON saved with it.
  """

  state: PyTree
  step: int
  passport: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LoadedState:
  """A training state from disk, whatever wrote it.

  Attributes:
    arrays: Nested dicts of NumPy arrays.
    passport: JSON saved with it.
    step: Of the checkpoint.
    path: Folder of the checkpoint.
  """

  arrays: dict[str, PyTree]
  passport: dict[str, Any]
  step: int
  path: str


@dataclasses.dataclass(frozen=True)
class LoadedEncoder:
  """A frozen encoder from disk.

  Attributes:
    variables: {'params', 'batch_stats'} of NumPy arrays.
    passport: JSON saved with it.
    step: Of the checkpoint.
    path: Folder of the checkpoint.
    fingerprint: Of the variables.
  """

  variables: dict[str, PyTree]
  passport: dict[str, Any]
  step: int
  path: str
  fingerprint: str
