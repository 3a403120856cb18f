"""Compiles one step in a process of its own: JSON in, JSON out.

Of its own, because platform, number of simulated devices and libtpu are settled
when JAX starts, and because a plan must neither take an accelerator nor stay in
one that it has looked at. `compiling.py` starts it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from typing import Any

import jax

from simclr_jax import config as config_lib
from simclr_jax.augmentation import device_memory
from simclr_jax.planning import program
from simclr_jax.training import mesh as mesh_lib


def work(request: dict[str, Any]) -> dict[str, Any]:
  """The answer to a request.

  Args:
    request: 'config' (as a dict), 'num_examples', 'num_classes', and 'tpu' (a
      topology for libtpu; '' for the devices that JAX finds).

  Returns:
    'devices' (what there is), and 'cost', 'out_of_memory' ([used, limit]) or
    'error'.
  """
  answer: dict[str, Any] = {}
  try:
    if request['tpu']:
      devices = program.devices_of(request['tpu'])
    else:
      devices = tuple(jax.devices())
      answer['devices'] = {
        'device_kind': devices[0].device_kind,
        'platform': devices[0].platform,
        'num_devices': len(devices),
        'num_hosts': jax.process_count(),
        'memory_per_device': device_memory.free_bytes(
          mesh_lib.make_mesh(devices)
        ),
      }
    if request['config'] is not None:
      cost = program.compile_step(
        config_lib.from_config_dict(request['config']),
        devices,
        num_examples=request['num_examples'],
        num_classes=request['num_classes'],
      )
      answer['cost'] = dataclasses.asdict(cost)
  except program.OutOfMemory as error:
    answer['out_of_memory'] = [error.used, error.limit]
  except ValueError as error:
    answer['error'] = str(error)
  return answer


def main() -> None:
  """Answers the request on stdin by one line on stdout."""
  request = json.load(sys.stdin)
  # Libraries print; the answer must stand alone.
  with contextlib.redirect_stdout(sys.stderr):
    answer = work(request)
  print(json.dumps(answer), flush=True)


if __name__ == '__main__':
  main()
