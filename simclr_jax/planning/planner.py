"""Puts a plan together: what a run needs, how long it takes, what is wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import logging
import jax

from simclr_jax import config as config_lib
from simclr_jax import models, resolve
from simclr_jax.data.sources import slices
from simclr_jax.planning import (
  advice,
  analytic,
  compiling,
  estimate,
  host_input,
  options,
  program,
)
from simclr_jax.planning import split as split_lib
from simclr_jax.planning import topology as topology_lib
from simclr_jax.planning.plan import MULTIPLES, Plan
from simclr_jax.planning.topology import Topology
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import optimizer as optimizer_lib
from simclr_jax.training import run as run_lib

# A step that compiled in less is compiled again with each option.
_CHEAP_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Effort:
  """How much trouble to take.

  Attributes:
    quick: Trace instead of compiling.
    compile_timeout: Seconds for one step.
    input_seconds: To measure the input pipeline; 0 does not.
  """

  quick: bool = False
  compile_timeout: float = 1800.0
  input_seconds: float = 3.0


def make_plan(
  config: config_lib.Config,
  topology_text: str,
  *,
  split: split_lib.Split,
  effort: Effort,
) -> Plan:
  """The plan of a run.

  Args:
    config: Of the run.
    topology_text: As `topology.parse` reads it, or 'local'.
    split: The training images.
    effort: How much trouble to take.

  Raises:
    ValueError: If topology, config and data do not fit together, or the
      compiler for the topology is missing.
    TimeoutError: If compiling took too long.
    RuntimeError: If a compiler broke down.
  """
  return _Planner(config, topology_text, split=split, effort=effort).plan()


class _Planner:
  """One plan in the making."""

  def __init__(
    self,
    config: config_lib.Config,
    topology_text: str,
    *,
    split: split_lib.Split,
    effort: Effort,
  ):
    config_lib.validate(config)
    self._config, self._split, self._effort = config, split, effort
    self._topology = (
      self._look_around()
      if topology_text == topology_lib.LOCAL
      else topology_lib.parse(topology_text)
    )
    self._resolved = self._resolve(config, self._topology)
    self._run = run_lib.make_run(
      # One device here stands for all: shapes do not depend on their number.
      config_lib.replace(config, train={'micro_batches': 1}),
      mesh=mesh_lib.make_mesh(jax.devices('cpu')[:1]),
      source=split_lib.stand_in(split),
    )
    self._state = self._run.abstract_state()

  def plan(self) -> Plan:
    config, topology = self._config, self._topology
    # Seconds before minutes: what is wrong with the views comes out here.
    rate = self._measure_input()
    cost, used, how = self._find_cost()
    memory = self._memory(config, topology, cost=cost, used=used)
    # A step that does not fit has no program; its arithmetic is still known.
    known = cost or self._traced(config, topology)
    roofline = estimate.roofline(
      topology,
      compute_dtype=config.model.compute_dtype,
      flops=known.flops,
      hbm_bytes=known.hbm_bytes,
      collectives=known.collectives,
    )
    floor = roofline.floor if roofline else None
    found: list[options.Option] = []
    options_how = ''
    if memory.fits is False:
      found, options_how = self._find_options(memory, cost)
    return Plan(
      config=config,
      topology=topology,
      split=self._split,
      resolved=self._resolved,
      parameters={
        name: models.count_parameters(tree)
        for name, tree in self._state.params.items()
      },
      groups=describe_groups(self._state.params, config),
      forward_flops=models.count_flops(self._run.model, config.data.image_size),
      how=how,
      cost=cost,
      memory=memory,
      roofline=roofline,
      durations=self._durations(floor),
      input_rate=rate,
      disk=self._disk(floor),
      warnings=advice.find(
        config,
        advice.Facts(
          resolved=self._resolved,
          topology=topology,
          step_seconds=floor,
          bound=roofline.bound if roofline else None,
          input_rate=rate.pairs_per_second if rate else None,
          num_test=self._num_test(),
        ),
      ),
      options=found,
      options_how=options_how,
    )

  def _look_around(self) -> Topology:
    answer = compiling.compile_local(None, timeout=self._effort.compile_timeout)
    assert answer.devices is not None
    return topology_lib.local(**answer.devices)

  def _resolve(
    self, config: config_lib.Config, topology: Topology
  ) -> resolve.Resolved:
    return resolve.resolve(
      config,
      num_examples=self._split.num_examples,
      num_classes=self._split.num_classes,
      num_devices=topology.num_devices,
      num_hosts=topology.num_hosts,
      embedding_dim=models.embedding_dim(config.model),
    )

  def _traced(
    self, config: config_lib.Config, topology: Topology
  ) -> program.Cost:
    return analytic.estimate_cost(
      config,
      self._resolve(config, topology),
      topology=topology,
      state=self._state,
    )

  def _find_cost(
    self,
  ) -> tuple[program.Cost | None, tuple[int, int] | None, str]:
    """(cost, memory used and at most where too large, who says so)."""
    config, topology = self._config, self._topology
    if self._effort.quick:
      return (
        self._traced(config, topology),
        None,
        'traced, not compiled (--quick): an estimate',
      )
    logging.info('compiling the step for %s', topology.label)
    answer, how = self._compile(config, topology)
    if topology.platform == 'gpu' and topology.text != topology_lib.LOCAL:
      assert answer.cost is not None  # The CPU compiler knows no limit.
      # That compiler's fusions say nothing of a GPU's traffic.
      traced = self._traced(config, topology)
      cost = dataclasses.replace(
        answer.cost,
        device_kind=traced.device_kind,
        hbm_bytes=traced.hbm_bytes,
      )
      return cost, None, how
    return answer.cost, answer.out_of_memory, how

  def _compile(
    self, config: config_lib.Config, topology: Topology
  ) -> tuple[compiling.Answer, str]:
    share: dict[str, Any] = {
      'timeout': self._effort.compile_timeout,
      'num_examples': self._split.num_examples,
      'num_classes': self._split.num_classes,
    }
    if topology.text == topology_lib.LOCAL:
      answer = compiling.compile_local(config, **share)
      return answer, 'compiled for the devices here'
    if topology.platform == 'tpu':
      answer = compiling.compile_tpu(config, topology, **share)
      return answer, 'compiled by libtpu; no device was needed'
    answer = compiling.compile_simulated(
      config, num_devices=topology.num_devices, **share
    )
    return answer, (
      'an estimate: FLOPs, memory and collectives from another compiler (XLA '
      f'for CPUs, {topology.num_devices} simulated devices), memory traffic '
      'from tracing'
    )

  def _memory(
    self,
    config: config_lib.Config,
    topology: Topology,
    *,
    cost: program.Cost | None,
    used: tuple[int, int] | None = None,
  ) -> estimate.Memory:
    step, limit = used or (None, None)
    if step is None:
      assert cost is not None
      step = cost.memory_bytes
    return estimate.memory(
      config,
      step=step,
      topology=topology,
      num_examples=self._split.num_examples,
      limit=limit,
    )

  def _find_options(
    self, memory: estimate.Memory, cost: program.Cost | None
  ) -> tuple[list[options.Option], str]:
    traced = self._traced(self._config, self._topology)
    cheap = (
      cost is not None
      and not self._effort.quick
      and not cost.cached
      and cost.compile_seconds < _CHEAP_SECONDS
    )
    fixed = traced.memory_bytes - traced.temporary_bytes
    # Never below the trace: what a compiler saves without being told (on a TPU
    # the norms), it does not save once more with 'norms' or 'blocks'.
    ratio = max(1.0, (memory.step - fixed) / max(1, traced.temporary_bytes))

    def predict(
      config: config_lib.Config, topology: Topology
    ) -> estimate.Memory:
      if cheap and topology is self._topology:
        self._resolve(config, topology)  # Refuses what cannot run.
        answer, _ = self._compile(config, topology)
        return self._memory(
          config, topology, cost=answer.cost, used=answer.out_of_memory
        )
      other = self._traced(config, topology)
      scaled = dataclasses.replace(
        other, temporary_bytes=int(ratio * other.temporary_bytes)
      )
      found = self._memory(config, topology, cost=scaled)
      return dataclasses.replace(found, limit=memory.limit)

    found = options.find(self._config, self._topology, predict_fn=predict)
    if cheap:
      return found, 'each compiled (other numbers of chips: estimated)'
    return found, (
      'each traced, and scaled up if this step needs more than its own trace'
    )

  def _measure_input(self) -> host_input.InputRate | None:
    if not self._effort.input_seconds:
      return None
    logging.info('measuring the input pipeline')
    return host_input.measure(
      self._config, self._split, seconds=self._effort.input_seconds
    )

  def _durations(self, floor: float | None) -> list[estimate.Duration]:
    if floor is None:
      return []
    return [
      estimate.duration(
        multiple * floor,
        total_steps=self._resolved.total_steps,
        batch_size=self._config.train.batch_size,
        num_chips=self._topology.num_chips,
      )
      for multiple in MULTIPLES
    ]

  def _disk(self, floor: float | None) -> estimate.Disk:
    state = self._state
    encoder = (state.params, state.model_state)
    return estimate.disk(
      self._config.checkpoint,
      state_bytes=analytic.tree_bytes(state),
      encoder_bytes=analytic.tree_bytes(encoder),
      steps_between=self._resolved.checkpoint_every_steps,
      step_seconds=floor,
    )

  def _num_test(self) -> int:
    """Examples of the test split where its size is published, else 0."""
    data = self._config.data
    published = split_lib.PUBLISHED.get(data.name.partition(':')[0])
    if published is None or not data.test_split:
      return 0
    return len(slices.parse(data.test_split, published.sizes)[1])


def describe_groups(params: Any, config: config_lib.Config) -> list[str]:
  """What the optimizer does to which parameters."""
  groups = optimizer_lib.describe_parameters(params, config.optim)
  return list(optimizer_lib.format_groups(groups))
