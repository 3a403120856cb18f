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
# Side, width, batch: what a laptop trains, from larger to smaller.
_SMALL = ((96, 1.0, 256), (64, 0.5, 256), (32, 0.25, 128), (32, 0.125, 32))
_SMALL_DEPTH = 18


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


def find_flags(
  config: config_lib.Config,
  topology: Topology,
  *,
  predict_fn: PredictFn,
  network: str,
) -> list[Option]:
  """At most three sets of flags that fit, on the devices that are there.

  Args:
    config: That does not fit.
    topology: On these devices.
    predict_fn: Memory of another config.
    network: Section in which the command's config has depth and width; '' if
      it cannot change them.

  Returns:
    What keeps most of the recipe, a smaller batch, and a small run.
  """
  fitting = [
    option
    for option in find(config, topology, predict_fn=predict_fn)
    if option.fits and option.change.startswith('--')
  ]
  # The first of all, and the last, which is a batch.
  chosen = fitting[:1] + fitting[1:][-1:]
  for change, sections in _small_runs(config, network):
    try:
      changed = config_lib.replace(config, **sections)
      memory = predict_fn(changed, topology)
    except ValueError:
      continue
    if memory.fits:
      remark = 'a small run, for a laptop'
      chosen.append(Option(change, memory.needed, True, remark))
      break
  return chosen


def _small_runs(
  config: config_lib.Config, network: str
) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
  """(flags, what they change); never anything larger than it is."""
  for side, width, batch in _SMALL:
    sections: dict[str, dict[str, Any]] = {}
    flags = []
    for section, field, value in (
      ('data', 'image_size', side),
      ('model', 'depth', _SMALL_DEPTH),
      ('model', 'width', width),
      ('train', 'batch_size', batch),
    ):
      where = network if section == 'model' else section
      if where and value < getattr(getattr(config, section), field):
        sections.setdefault(section, {})[field] = value
        flags.append(f'--config.{where}.{field}={value}')
    if flags:
      yield ' '.join(flags), sections


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
      'another learning rate, and fewer negatives in pretraining',
      {'train': {'batch_size': batch}},
      topology,
    )
