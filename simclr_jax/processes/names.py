"""What processes are called in messages."""

from __future__ import annotations

from collections.abc import Sequence

from simclr_jax import progress_bar

# Of all processes, once they have met; no question to JAX, which would start
# the devices for the sake of an error message.
_hosts: list[str] = []
_own = 0


def remember(hosts: Sequence[str], *, own: int) -> None:
  """Notes the host of every process, and the index of this one."""
  global _own
  _hosts[:] = hosts
  _own = own
  progress_bar.allow(own == 0)


def own_index() -> int:
  """Index of this process; 0 where there is a single one."""
  return _own


def name_of(process: int | None = None) -> str:
  """'process 3 of 8 on HOST'; '' where there is a single one.

  Args:
    process: Index; None for this one.
  """
  if len(_hosts) < 2:
    return ''
  process = _own if process is None else process
  return f'process {process} of {len(_hosts)} on {_hosts[process]}'


def name_all(processes: Sequence[int]) -> str:
  """Several by one name: 'processes 1, 3 of 4'."""
  if len(processes) == 1:
    return name_of(processes[0])
  if len(processes) == len(_hosts):
    return f'all {len(_hosts)} processes'
  shown = ', '.join(map(str, processes[:8]))
  more = ', ...' if len(processes) > 8 else ''
  return f'processes {shown}{more} of {len(_hosts)}'
