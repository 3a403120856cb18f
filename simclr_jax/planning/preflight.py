"""What is known before the first step: advice, and whether memory suffices.

On CPUs the step is traced, as by `plan --quick`: seconds, where the compiler
takes minutes and the system ends what takes too much without a word. XLA for
CPUs keeps what the trace says, within a fifth (docs/planning.md). Accelerators
compile better than a trace knows, so there the compiled step decides.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import platform
from typing import Any

from absl import logging
import jax

from simclr_jax import config as config_lib
from simclr_jax import memory as memory_lib
from simclr_jax import models, processes, resolve
from simclr_jax.planning import advice, analytic, estimate, options, program
from simclr_jax.planning import topology as topology_lib
from simclr_jax.training import preflight
from simclr_jax.training.run import Run
from simclr_jax.training.state import TrainState
from simclr_jax.training.step import Batch, StepFn

# A trace on a CPU above this share of what there is is refused, since no run
# was seen to need less than the trace by so much; above 1 it is warned of.
_REFUSED = 1.5
# Of a CPU run besides its trace: XLA's own, which compiles and pads, the input
# pipeline; so that what is proposed does not just fit.
_CPU_FACTOR, _CPU_BYTES = 1.3, 3 * 10**9 // 2


@dataclasses.dataclass(frozen=True)
class _Verdict:
  """What a run needs, and what there is.

  Attributes:
    needed, usable: Bytes of all devices that share the memory.
    how: Who says what is needed.
    where: Whose memory it is.
    num_devices: That share it.
  """

  needed: int
  usable: int
  how: str
  where: str
  num_devices: int = 1

  def __str__(self) -> str:
    return (
      f'the training step needs about {memory_lib.format_bytes(self.needed)} '
      f'({self.how}), and there are {memory_lib.format_bytes(self.usable)} '
      f'({self.where})'
    )


class Preflight(preflight.Preflight):
  """Of one command; see `training.preflight`."""

  def __init__(self, *, check_memory: bool = True, network: str = ''):
    """Looks at nothing yet.

    Args:
      check_memory: Whether a run is refused that needs more than there is.
      network: See `options.find_flags`.
    """
    self._check_memory = check_memory
    self._network = network
    self._verdict: _Verdict | None = None

  def look(self, run: Run) -> None:
    """Advice, and on CPUs the memory.

    Raises:
      memory.DoesNotFit: In every process, if it does not suffice.
    """
    if jax.process_index() == 0:
      for warning in _advice(run):
        logging.warning('%s: %s', warning.field, warning.text)
    if not self._check_memory or _platform(run) != 'cpu':
      return
    self._verdict = verdict = _worst(_traced(run), platform.node())
    if verdict is None or verdict.needed <= verdict.usable:
      return
    if verdict.needed > _REFUSED * verdict.usable:
      raise memory_lib.DoesNotFit(self._refusal(run, verdict))
    logging.warning(
      'memory may not suffice: %s. If the run is killed (exit code 137): %s',
      verdict,
      ' or '.join(o.change for o in self._settings(run, verdict))
      or 'a smaller network, smaller images or a smaller batch',
    )

  def compile(
    self, run: Run, step_fn: StepFn, *, state: TrainState, batch: Batch
  ) -> None:
    """On accelerators, compiles the step, which the first call then finds.

    Raises:
      memory.DoesNotFit: In every process, if it needs more than a device has.
    """
    if not self._check_memory or _platform(run) == 'cpu':
      return
    mine = _compiled(run, step_fn, state=state, batch=batch)
    device = f'device of process {jax.process_index()}'
    self._verdict = verdict = _worst(mine, device)
    if verdict is not None and verdict.needed > verdict.usable:
      raise memory_lib.DoesNotFit(self._refusal(run, verdict))

  @contextlib.contextmanager
  def explaining(self, run: Run) -> Iterator[None]:
    """Says what would fit where memory runs out.

    Raises:
      memory.OutOfMemory: In the place of the error that says so.
    """
    try:
      yield
    except Exception as error:
      if not memory_lib.ran_out(error):
        raise
      said = str(error).strip().partition('\n')[0] or type(error).__name__
      verdict = self._verdict or _traced(run)
      raise memory_lib.OutOfMemory(
        f'memory ran out ({said[:200]})'
        + (f'; {verdict}' if verdict else '')
        + f'.\n{self._proposal(run, verdict)}'
      ) from error

  def _refusal(self, run: Run, verdict: _Verdict) -> str:
    return (
      f'not enough memory: {verdict}. Nothing has been trained.\n'
      f'{self._proposal(run, verdict)}\n'
      '--check_memory=false starts the run all the same'
    )

  def _proposal(self, run: Run, verdict: _Verdict | None) -> str:
    found = () if verdict is None else self._settings(run, verdict)
    if not found:
      return 'A smaller network, smaller images or a smaller batch need less'
    lines = ['Any of these fits, added to the same command:']
    for option in found:
      lines += [
        f'  {option.change}',
        f'      {memory_lib.format_bytes(option.needed)}; {option.remark}',
      ]
    return '\n'.join(lines)

  def _settings(self, run: Run, verdict: _Verdict) -> list[options.Option]:
    """Flags with which the run fits, by the estimate that refused it."""
    limit, ratio = float(verdict.usable), 1.0
    cost = _trace(run, run.abstract_state())
    if _platform(run) == 'cpu':
      limit = max(0.0, limit - _CPU_BYTES) / _CPU_FACTOR
    else:
      # What the compiler needs more than the trace, it needs elsewhere too.
      fixed = cost.memory_bytes - cost.temporary_bytes
      ratio = max(1.0, (verdict.needed - fixed) / max(1, cost.temporary_bytes))
    states: dict[config_lib.ModelConfig, TrainState] = {}

    def predict(
      config: config_lib.Config, topology: topology_lib.Topology
    ) -> estimate.Memory:
      if topology.num_devices != run.mesh.size:
        raise ValueError('these devices are not here')
      changed = _changed(run, config)
      if config.model not in states:
        states[config.model] = changed.abstract_state()
      traced = _trace(changed, states[config.model])
      temporary = int(ratio * traced.temporary_bytes)
      scaled = dataclasses.replace(traced, temporary_bytes=temporary)
      one = _memory(changed, scaled.memory_bytes)
      shared = {
        name: verdict.num_devices * getattr(one, name)
        for name in ('step', 'next_batch', 'pixels')
      }
      return dataclasses.replace(one, limit=int(limit), **shared)

    return options.find_flags(
      run.config, _topology(run), predict_fn=predict, network=self._network
    )


def _traced(run: Run) -> _Verdict | None:
  """Of this process; None where nobody knows what there is.

  The state is in memory already, so it counts on neither side.
  """
  usable, num_devices = memory_lib.usable(), len(run.mesh.local_devices)
  if _platform(run) != 'cpu':
    usable, num_devices = _of_a_device(run), 1
  if usable is None:
    return None
  cost = _trace(run, run.abstract_state())
  needed = _memory(run, cost.memory_bytes).needed - cost.output_bytes
  return _Verdict(
    needed=num_devices * needed,
    usable=usable.num_bytes,
    how='traced, not compiled',
    where=usable.limit,
    num_devices=num_devices,
  )


def _of_a_device(run: Run) -> memory_lib.Usable | None:
  device = run.mesh.local_devices[0]
  limit = (device.memory_stats() or {}).get('bytes_limit')
  if limit is None:
    return None
  return memory_lib.Usable(limit, f'what JAX may use of a {device.device_kind}')


def _compiled(
  run: Run, step_fn: Any, *, state: TrainState, batch: Batch
) -> _Verdict | None:
  """Of a device of this process; None where it does not say what it has."""
  usable = _of_a_device(run)
  how, step = 'compiled', 0
  try:
    found = step_fn.lower(state, batch).compile().memory_analysis()
  except jax.errors.JaxRuntimeError as error:
    if not memory_lib.ran_out(error) or usable is None:
      raise
    how = 'as its compiler says'
    cost = _trace(run, run.abstract_state())
    said, _ = program.parse_out_of_memory(str(error)) or (0, 0)
    step = max(
      cost.argument_bytes + said, cost.memory_bytes, usable.num_bytes + 1
    )
  else:
    if found is None or usable is None:
      return None
    step = (
      found.argument_size_in_bytes
      + found.temp_size_in_bytes
      + found.output_size_in_bytes
      - found.alias_size_in_bytes
    )
  return _Verdict(
    needed=_memory(run, step).needed,
    usable=usable.num_bytes,
    how=how,
    where=usable.limit,
  )


def _worst(mine: _Verdict | None, memory: str) -> _Verdict | None:
  """Of all processes; the needs of those that share a memory add up."""
  row = None if mine is None else dataclasses.asdict(mine)
  memories: dict[str, _Verdict] = {}
  for name, fields in processes.gather([memory, row]):
    if fields is None:
      continue
    verdict, other = _Verdict(**fields), memories.get(name)
    if other is not None:
      verdict = dataclasses.replace(
        min(verdict, other, key=lambda v: v.usable),
        needed=verdict.needed + other.needed,
        num_devices=verdict.num_devices + other.num_devices,
      )
    memories[name] = verdict
  return max(memories.values(), key=_share, default=None)


def _share(verdict: _Verdict) -> float:
  return verdict.needed / max(1, verdict.usable)


def _advice(run: Run) -> list[advice.Advice]:
  facts = advice.Facts(resolved=run.resolved, topology=_topology(run))
  return advice.find(run.config, facts, contrastive=run.loss_rows is None)


def _platform(run: Run) -> str:
  return str(run.mesh.devices.flat[0].platform)


def _topology(run: Run) -> topology_lib.Topology:
  device = run.mesh.devices.flat[0]
  return topology_lib.local(
    device.device_kind,
    platform=device.platform,
    num_devices=run.mesh.size,
    num_hosts=jax.process_count(),
    memory_per_device=None,
  )


def _changed(run: Run, config: config_lib.Config) -> Run:
  """The run with another config, as far as memory goes.

  Raises:
    ValueError: If that cannot run.
  """
  old = run.resolved
  resolved = resolve.resolve(
    config,
    num_examples=old.num_examples,
    num_classes=old.num_classes,
    num_devices=old.num_devices,
    num_hosts=old.num_hosts,
    num_views=run.objective.num_views,
    embedding_dim=models.embedding_dim(config.model),
  )
  model = models.make_model(
    config.model,
    image_size=config.data.image_size,
    num_classes=old.num_classes if config.monitor.online_head else 0,
  )
  return dataclasses.replace(run, config=config, resolved=resolved, model=model)


def _trace(run: Run, state: TrainState) -> program.Cost:
  return analytic.estimate_cost(
    run.config,
    run.resolved,
    topology=_topology(run),
    state=state,
    num_views=run.objective.num_views,
  )


def _memory(run: Run, step: int) -> estimate.Memory:
  return estimate.memory(
    run.config,
    step=step,
    topology=_topology(run),
    num_examples=run.resolved.num_examples,
    num_views=run.objective.num_views,
  )
