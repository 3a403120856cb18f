"""What would make a configuration fit that does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

from simclr_jax import config as config_lib
from simclr_jax.planning import estimate
from simclr_jax.planning import topology as topology_lib
from simclr_jax.planning.topology import Topology

# (config, topology) -> its memory; ValueError where that cannot run.
PredictFn = Callable[[config_lib.Config, Topology], estimate.Memory]
_MOST_DOUBLINGS = 7
_MICRO_BATCHES = (2, 4, 8, 16, 32, 64)


@dataclasses.dataclass(frozen=True)
class Option:
  """A change, and whether it is enough by itself.

  Attributes:
    change: Flags to add, or other devices.
    needed: Bytes of a device with it.
    fits: Whether that is little enough.
    remark: What else it changes.
  """

  change: str
  needed: int
  fits: bool
  remark: str


def find(
  config: config_lib.Config, topology: Topology, *, predict_fn: PredictFn
) -> list[Option]:
  """Every change of the list below, with what it would need.

  What keeps the run as it is comes first: memory for arithmetic, then
  precision, then more devices, then what changes the result.

  Args:
    config: That does not fit.
    topology: On these devices.
    predict_fn: Memory of another config or topology.
  """
  options = []
  for change, remark, sections, devices in _candidates(config, topology):
    try:
      changed = config_lib.replace(config, **sections)
      memory = predict_fn(changed, devices)
    except ValueError:
      continue  # It cannot run at all: a batch that does not divide.
    option = Option(
      change=change,
      needed=memory.needed,
      fits=bool(memory.fits),
      remark=remark,
    )
    options.append(option)
  return _shortest_enough(options)


def _shortest_enough(options: list[Option]) -> list[Option]:
  """Of a series (micro-batches, batches, chips) up to the first that fits."""
  kept: list[Option] = []
  done: set[str] = set()
  for option in options:
    series = option.remark
    if series in done:
      continue
    if option.fits:
      done.add(series)
    # Of a series that does not fit, only the last says something.
    kept = [o for o in kept if o.remark != series] + [option]
  return kept


def _candidates(
  config: config_lib.Config, topology: Topology
) -> Iterator[tuple[str, str, dict[str, dict[str, Any]], Topology]]:
  """(flags, remark, what they change, topology); a remark for each series."""
  model = config.model
  for remat, cost in (('norms', 'little'), ('blocks', 'a third')):
    if model.remat in ('none', 'norms') and model.remat != remat:
      yield (
        f'--config.model.remat={remat}',
        f'the same values for {cost} more arithmetic',
        {'model': {'remat': remat}},
        topology,
      )
  if model.compute_dtype == 'float32':
    yield (
      '--config.model.compute_dtype=bfloat16',
      'activations rounded, faster',
      {'model': {'compute_dtype': 'bfloat16'}},
      topology,
    )
    yield (
      '--config.model.compute_dtype=bfloat16 --config.model.remat=blocks',
      'both of these',
      {'model': {'compute_dtype': 'bfloat16', 'remat': 'blocks'}},
      topology,
    )
  for implementation in ('chunked', 'ring'):
    if config.loss.implementation not in (implementation, 'ring'):
      yield (
        f'--config.loss.implementation={implementation}',
        f'the same loss without all logits ({implementation})',
        {'loss': {'implementation': implementation}},
        topology,
      )
  if config.train.state_sharding == 'replicated' and topology.num_devices > 1:
    yield (
      '--config.train.state_sharding=fsdp',
      'the same values for gathered parameters in each step',
      {'train': {'state_sharding': 'fsdp'}},
      topology,
    )
  yield from _series(config, topology)


def _series(
  config: config_lib.Config, topology: Topology
) -> Iterator[tuple[str, str, dict[str, dict[str, Any]], Topology]]:
  """What has a size: the smallest that is enough is wanted."""
  for parts in _MICRO_BATCHES:
    if parts > config.train.micro_batches:
      yield (
        f'--config.train.micro_batches={parts}',
        'the same loss for a third more arithmetic; batch norm sees one part',
        {'train': {'micro_batches': parts}},
        topology,
      )
  for doubling in range(1, _MOST_DOUBLINGS + 1):
    more = topology_lib.scaled(topology, 2**doubling)
    yield f'{more.num_chips} chips', 'the same run', {}, more
  for halving in range(1, _MOST_DOUBLINGS + 1):
    batch = config.train.batch_size // 2**halving
    yield (
      f'--config.train.batch_size={batch}',
      'fewer negatives and another learning rate: another recipe',
      {'train': {'batch_size': batch}},
      topology,
    )
