"""What every benchmark's result says about where it came from."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import shlex
import sys
from typing import Any


def hardware() -> str:
  """The devices that JAX computes on, and the host's processors."""
  import jax

  device = jax.devices()[0]
  return (
    f'{jax.device_count()} x {device.device_kind}, host with '
    f'{os.cpu_count()} x {_processor()}'
  )


def command() -> str:
  """The command line, as it can be typed again."""
  module = sys.modules['__main__'].__spec__
  name = module.name if module else sys.argv[0]
  return shlex.join(['python', '-m', name, *sys.argv[1:]])


def report(benchmark: str, rows: list[dict[str, Any]], *, out: str) -> None:
  """Prints one JSON line and writes it, indented, where `out` says."""
  result = {
    'benchmark': benchmark,
    'command': command(),
    'hardware': hardware(),
    'rows': rows,
  }
  if out:
    path = pathlib.Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + '\n')
  print(json.dumps(result))


def _processor() -> str:
  info = pathlib.Path('/proc/cpuinfo')
  if info.exists():
    for line in info.read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()
