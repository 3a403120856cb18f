"""Starts `compile_worker.py` with the JAX that a topology needs."""

from __future__ import annotations

from collections.abc import Mapping
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

from absl import logging

from simclr_jax import config as config_lib
from simclr_jax.planning import program
from simclr_jax.planning import topology as topology_lib

NO_LIBTPU = (
  'libtpu is not installed: it holds the TPU compiler (and needs no TPU). '
  "pip install '.[tpu-compile]' in the clone, or pip install libtpu; or give "
  '--quick, which estimates without compiling'
)
_SAY_EVERY_SECONDS = 30.0
_LAST_LINES = 15


class Answer(NamedTuple):
  """What a compiler says of a step.

  Attributes:
    cost: None if the step needs more memory than there is, or none was asked
      for.
    out_of_memory: (bytes used, bytes at most), then.
    devices: Of this machine, for 'local'.
  """

  cost: program.Cost | None
  out_of_memory: tuple[int, int] | None
  devices: dict[str, Any] | None


def compile_tpu(
  config: config_lib.Config,
  topology: topology_lib.Topology,
  *,
  timeout: float,
  **split: int,
) -> Answer:
  """By libtpu, for a slice that need not be there.

  Args:
    config: Of the run.
    topology: A slice.
    timeout: Seconds after which it is given up.
    **split: num_examples and num_classes.

  Raises:
    ValueError: If libtpu is missing or refuses the topology, or config, data
      and devices do not fit together.
    TimeoutError: If it took longer.
    RuntimeError: If the compiler broke down.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError(NO_LIBTPU)
  return _ask(
    config,
    tpu=topology.text,
    timeout=timeout,
    # No accelerator is taken, nobody asked about other machines of a pod, and
    # a training or another plan may have libtpu loaded: nothing runs here.
    environment={
      'JAX_PLATFORMS': 'cpu',
      'TPU_SKIP_MDS_QUERY': '1',
      'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    },
    **split,
  )


def compile_simulated(
  config: config_lib.Config,
  *,
  num_devices: int,
  timeout: float,
  **split: int,
) -> Answer:
  """By XLA for CPUs, for as many simulated devices; as `compile_tpu`."""
  return _ask(
    config,
    tpu='',
    timeout=timeout,
    environment={
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={num_devices}',
    },
    **split,
  )


def compile_local(
  config: config_lib.Config | None, *, timeout: float, **split: int
) -> Answer:
  """For the devices here; `config` None only asks what there is.

  Without the three quarters of each GPU that JAX takes at its start: a run may
  be training there.
  """
  environment = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
  return _ask(config, tpu='', timeout=timeout, environment=environment, **split)


def _ask(
  config: config_lib.Config | None,
  *,
  tpu: str,
  timeout: float,
  environment: Mapping[str, str],
  num_examples: int = 0,
  num_classes: int = 0,
) -> Answer:
  request = {
    'config': None if config is None else config_lib.to_dict(config),
    'tpu': tpu,
    'num_examples': num_examples,
    'num_classes': num_classes,
  }
  text = _run(json.dumps(request), environment=environment, timeout=timeout)
  answer = json.loads(text)
  if 'error' in answer:
    raise ValueError(answer['error'])
  used = answer.get('out_of_memory')
  cost = answer.get('cost')
  return Answer(
    cost=program.Cost(**cost) if cost else None,
    out_of_memory=(used[0], used[1]) if used else None,
    devices=answer.get('devices'),
  )


def _run(
  request: str, *, environment: Mapping[str, str], timeout: float
) -> str:
  """Answer of the worker, of which it is said now and then that it works."""
  begin = time.monotonic()
  done = threading.Event()
  speaker = threading.Thread(target=_speak, args=(done, begin), daemon=True)
  with subprocess.Popen(
    [sys.executable, '-m', 'simclr_jax.planning.compile_worker'],
    env={**os.environ, 'PYTHONPATH': _python_path(), **environment},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    speaker.start()
    try:
      answer, errors = process.communicate(request, timeout=timeout)
    except subprocess.TimeoutExpired:
      raise TimeoutError(
        f'compiling took longer than --compile_timeout={timeout:g} seconds; '
        'give more, or --quick, which estimates without compiling'
      ) from None
    finally:
      done.set()
      process.kill()  # Of no effect once it has ended.
  if process.returncode:
    tail = '\n'.join(errors.splitlines()[-_LAST_LINES:])
    raise RuntimeError(
      f'compiling ended with exit code {process.returncode}:\n{tail}'
    )
  return answer


def _speak(done: threading.Event, begin: float) -> None:
  while not done.wait(_SAY_EVERY_SECONDS):
    logging.info(
      'still compiling, %.0f s; a ResNet-50 takes minutes',
      time.monotonic() - begin,
    )


def _python_path() -> str:
  """What this process can import, the other can."""
  return os.pathsep.join(p for p in (os.getcwd(), *sys.path) if p)
