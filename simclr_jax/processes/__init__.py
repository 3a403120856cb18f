"""Several processes, one run: started, in agreement, ended together."""

from simclr_jax.processes.agreement import (
  AgreedFailure,
  check_same,
  from_first,
  gather,
  together,
)
from simclr_jax.processes.devices import check_devices
from simclr_jax.processes.launch import MODES, Launch, find_launch
from simclr_jax.processes.names import name_of, own_index
from simclr_jax.processes.session import NotStarted, Session, join

__all__ = [
  'MODES',
  'AgreedFailure',
  'Launch',
  'NotStarted',
  'Session',
  'check_devices',
  'check_same',
  'find_launch',
  'from_first',
  'gather',
  'join',
  'name_of',
  'own_index',
  'together',
]
