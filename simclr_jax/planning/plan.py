"""Everything that is known of a run before it: the record, and its JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from simclr_jax import config as config_lib
from simclr_jax import resolve
from simclr_jax.planning import advice, estimate, host_input, options, program
from simclr_jax.planning import split as split_lib
from simclr_jax.planning.topology import Topology

# Of the least time, which no run reaches (docs/planning.md).
MULTIPLES = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Plan:
  """Everything that is known before a run.

  Attributes:
    config: Of the run.
    topology: What it runs on.
    split: Its training images; only their number counts.
    resolved: Derived numbers.
    parameters: Count by top-level scope.
    groups: What the optimizer does to which parameters, in words.
    forward_flops: Of one view.
    how: Who says what the step costs.
    cost: Of one device and step; None if it needs more memory than there is.
    memory: Of one device.
    roofline: Least time of a step; None where no peak is published.
    durations: Hours at MULTIPLES of the least time.
    input_rate: Of this machine; None if not measured.
    disk: Checkpoints.
    warnings: Known bad combinations.
    options: What would make it fit, where it does not.
    options_how: Who says so.
  """

  config: config_lib.Config
  topology: Topology
  split: split_lib.Split
  resolved: resolve.Resolved
  parameters: dict[str, int]
  groups: list[str]
  forward_flops: int
  how: str
  cost: program.Cost | None
  memory: estimate.Memory
  roofline: estimate.Roofline | None
  durations: list[estimate.Duration]
  input_rate: host_input.InputRate | None
  disk: estimate.Disk
  warnings: list[advice.Advice]
  options: list[options.Option]
  options_how: str

  def to_json(self) -> dict[str, Any]:
    """All of it, as JSON."""
    roofline, cost, rate = self.roofline, self.cost, self.input_rate
    return {
      'topology': dataclasses.asdict(self.topology)
      | {'label': self.topology.label},
      'data': {
        'num_examples': self.split.num_examples,
        'num_classes': self.split.num_classes,
        'origin': self.split.origin,
      },
      'resolved': dataclasses.asdict(self.resolved),
      'parameters': self.parameters,
      'forward_flops_per_view': self.forward_flops,
      'how': self.how,
      'step': None
      if cost is None
      else dataclasses.asdict(cost) | {'memory_bytes': cost.memory_bytes},
      'memory': dataclasses.asdict(self.memory)
      | {'needed': self.memory.needed, 'fits': self.memory.fits},
      'roofline': None
      if roofline is None
      else dataclasses.asdict(roofline) | {'floor': roofline.floor},
      'durations': [
        {'times_the_least': m, **dataclasses.asdict(d)}
        for m, d in zip(MULTIPLES, self.durations, strict=False)
      ],
      'input': {
        'measured': None if rate is None else dataclasses.asdict(rate),
        'needed_per_host': needed_input(self),
      },
      'checkpoints': dataclasses.asdict(self.disk),
      'warnings': [dataclasses.asdict(w) for w in self.warnings],
      'options': [dataclasses.asdict(o) for o in self.options],
      'options_how': self.options_how,
      'config': config_lib.to_dict(self.config),
    }


def needed_input(plan: Plan) -> float | None:
  """Pairs of views a second that each host must make at the least step time."""
  if plan.roofline is None or plan.config.data.augment_on == 'device':
    return None
  return plan.resolved.per_host_batch / plan.roofline.floor
