"""Starts N processes of one run on this machine.

  python -m launch.local --num_processes=2 --gpus=0,1,2,3 -- \
    --config=configs/imagenet.py --workdir=runs/v1

Each process gets its share of the GPUs, or `--cpu_devices` simulated devices.
Lines of process I begin with `[I]`. Signals go to all processes. When one ends
badly, the others are given `--grace` seconds. The exit code is that of the
worst end: 2 (wrong input), 1 and other failures, 128 + the signal that killed
it, 69 (a peer was lost), 75 (stopped, continues), 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import signal
import socket
import sys

from launch.group import Command, Group

_WRONG_INPUT = 2


def make_commands(options: argparse.Namespace, *, port: int) -> list[Command]:
  """The processes of a run.

  Args:
    options: Of the command line.
    port: On which process 0 listens for the others.

  Raises:
    ValueError: If the devices cannot be shared out.
  """
  count = options.num_processes
  if count < 1:
    raise ValueError(f'--num_processes={count}: at least 1')
  if bool(options.gpus) == bool(options.cpu_devices):
    raise ValueError(
      'give --gpus=0,1,... (shared out) or --cpu_devices=N (simulated, for '
      'each process): without, every process would take every device'
    )
  if not options.args:
    raise ValueError('flags of the run are missing: end the line with -- FLAGS')
  shares = _gpu_shares(options.gpus, count) if options.gpus else None
  commands = []
  for index in range(count):
    environment = (
      {'CUDA_VISIBLE_DEVICES': shares[index]}
      if shares
      else _simulated(options.cpu_devices)
    )
    argv = (
      *(options.python, '-m', options.module),
      f'--coordinator=127.0.0.1:{port}',
      f'--num_processes={count}',
      f'--process_id={index}',
      *options.args,
    )
    commands.append(Command(argv, environment))
  return commands


def _gpu_shares(gpus: str, count: int) -> list[str]:
  names = gpus.split(',')
  if len(set(names)) != len(names) or not all(names):
    raise ValueError(f'--gpus={gpus}: different numbers (or UUIDs) are wanted')
  if len(names) % count:
    raise ValueError(
      f'--gpus={gpus}: {len(names)} GPUs cannot be shared evenly by '
      f'--num_processes={count}'
    )
  share = len(names) // count
  return [','.join(names[i * share : (i + 1) * share]) for i in range(count)]


def _simulated(devices: int) -> dict[str, str]:
  if devices < 1:
    raise ValueError(f'--cpu_devices={devices}: at least 1')
  kept = [
    flag
    for flag in os.environ.get('XLA_FLAGS', '').split()
    if 'xla_force_host_platform_device_count' not in flag
  ]
  flags = [*kept, f'--xla_force_host_platform_device_count={devices}']
  return {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ' '.join(flags)}


def _free_port() -> int:
  with socket.socket() as sock:
    sock.bind(('127.0.0.1', 0))
    return sock.getsockname()[1]


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog='python -m launch.local', allow_abbrev=False
  )
  parser.add_argument('--num_processes', type=int, required=True)
  parser.add_argument('--gpus', default='', help='to be shared out: 0,1,2,3')
  parser.add_argument(
    '--cpu_devices', type=int, default=0, help='simulated, for each process'
  )
  parser.add_argument('--module', default='simclr_jax.main')
  parser.add_argument('--python', default=sys.executable)
  parser.add_argument('--port', type=int, default=0, help='default: a free one')
  parser.add_argument('--grace', type=float, default=15.0)
  parser.add_argument('--dry_run', action='store_true')
  parser.add_argument('args', nargs='*', help='flags of the run, after --')
  return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
  """Exit code of the command."""
  options = _parse(argv)
  try:
    commands = make_commands(options, port=options.port or _free_port())
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return _WRONG_INPUT
  if options.dry_run:
    print(*commands, sep='\n')
    return 0
  group = Group(grace=options.grace)
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, _: group.pass_on(n))
  try:
    group.start(commands)
    return group.wait()
  except OSError as error:
    print(f'error: {options.python}: {error.strerror}', file=sys.stderr)
    return _WRONG_INPUT
  finally:
    group.close()


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
