"""That all processes of a run are of one mind, before they train together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from etils import epath
import jax

from simclr_jax import config as config_lib
from simclr_jax import processes
from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training.run import Run

# Where a host keeps the data and how it reads them is its own matter; what it
# reads is in the fingerprint.
_OWN_MATTERS = (
  'config.data.data_dir',
  'config.data.path',
  'config.data.num_workers',
  'config.data.prefetch_batches',
)


def check_processes(run: Run) -> None:
  """Refuses processes with another config or other data.

  Raises:
    processes.AgreedFailure: In every process.
  """
  if jax.process_count() == 1:
    return
  fields = dict(_flat(config_lib.to_dict(run.config), 'config'))
  fields |= {
    name: value
    for name, value in _flat(dict(run.about), run.objective.name)
    if not name.endswith('.path')
  }
  source = run.source
  data = (
    f'{source.name}, {source.num_examples} examples, fingerprint '
    f'{source.fingerprint}'
  )
  processes.check_same(
    {name: v for name, v in fields.items() if name not in _OWN_MATTERS}
    | {'training data': data},
    consequence='they would train on other batches, or wait for each other for '
    'ever; give every process the same config and the same data',
  )


def check_workdir(workdir: epath.Path) -> None:
  """Refuses processes that see other checkpoints, or cannot look.

  Raises:
    processes.AgreedFailure: In every process.
  """
  with processes.together():
    steps = checkpoint_lib.list_steps(workdir)
  processes.check_same(
    {'checkpoints in the workdir': steps},
    consequence='they would start at different steps; all need one shared '
    'workdir',
  )


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
  if isinstance(value, dict):
    for key, each in value.items():
      yield from _flat(each, f'{name}.{key}')
  else:
    yield name, value
