"""What a rule of `advice.py` is given, and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses

from simclr_jax import config as config_lib
from simclr_jax import resolve
from simclr_jax.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known of the run besides its config.

  Attributes:
    resolved: Its derived numbers.
    topology: What it runs on.
    step_seconds: Least time of a step; None where no peak is published.
    bound: What bounds it, see `estimate.Roofline`.
    input_rate: Pairs of views a second that this machine makes; None if not
      measured.
    num_test: Examples of the test split; 0 if not known.
  """

  resolved: resolve.Resolved
  topology: Topology
  step_seconds: float | None = None
  bound: str | None = None
  input_rate: float | None = None
  num_test: int = 0


# A rule gives (field, text) for everything that it finds.
Found = Iterator[tuple[str, str]]
Rule = Callable[[config_lib.Config, Facts], Found]
