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
import ctypes
import dataclasses
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from typing import IO

_PEER_LOST = 69
_STOPPED = 75
_WRONG_INPUT = 2
_PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class Command:
  """One process to be: its argument vector, and what its environment adds."""

  argv: tuple[str, ...]
  environment: dict[str, str]

  def __str__(self) -> str:
    """A line that a shell reads back."""
    words = [f'{k}={v}' for k, v in self.environment.items()]
    return shlex.join(['env', *words, *self.argv])


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


def worst(codes: Sequence[int]) -> int:
  """The exit code that says most about why a run ended.

  Args:
    codes: Of the processes as subprocess gives them: negative for a signal.
  """

  def severity(code: int) -> int:
    if code == 0:
      return 0
    if code == _STOPPED:
      return 1
    if code == _PEER_LOST:
      return 2
    if code < 0 or code > 128:
      return 3
    return 5 if code == _WRONG_INPUT else 4

  code = max(codes, key=severity)
  return 128 - code if code < 0 else code


class Group:
  """Running processes, their output and their end."""

  def __init__(self, commands: Sequence[Command], *, grace: float):
    self._grace = grace
    self._selector = selectors.DefaultSelector()
    self._processes: list[subprocess.Popen[bytes]] = []
    self._ended_by_us: set[int] = set()
    self._deadline: float | None = None
    self._passed_on = float('-inf')
    for index, command in enumerate(commands):
      process = subprocess.Popen(
        command.argv,
        env={**os.environ, **command.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A group of its own: the terminal's Ctrl-C would reach it besides ours,
        # and a second signal ends a run before it has saved.
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == 'linux' else None,
      )
      self._processes.append(process)
      for stream, target in (
        (process.stdout, sys.stdout),
        (process.stderr, sys.stderr),
      ):
        assert stream is not None
        self._selector.register(
          stream, selectors.EVENT_READ, _Lines(f'[{index}] ', target)
        )

  def pass_on(self, number: int) -> None:
    """The signal `number` to every process that runs.

    A second one ends a run before it has saved, and `timeout` sends two at once
    (to its child and to its group): those within a second are one.
    """
    now = time.monotonic()
    if now - self._passed_on > 1:
      self._passed_on = now
      self._send(number)

  def _send(self, number: int) -> None:
    for process in self._running():
      process.send_signal(number)

  def wait(self) -> int:
    """Copies output until all have ended; the exit code of the worst."""
    while self._running() or self._selector.get_map():
      for key, _ in self._selector.select(timeout=0.2):
        self._copy(key)
      self._end_the_rest()
      if not self._running():
        # Grandchildren may hold the pipes; what is there now is all.
        self._drain()
        break
    codes = [process.wait() for process in self._processes]
    own = [c for i, c in enumerate(codes) if i not in self._ended_by_us]
    return worst(own or codes)

  def close(self) -> None:
    """Leaves no process behind, whatever happened."""
    self._send(signal.SIGKILL)
    for process in self._processes:
      process.wait()
    self._selector.close()

  def _running(self) -> list[subprocess.Popen[bytes]]:
    return [p for p in self._processes if p.poll() is None]

  def _copy(self, key: selectors.SelectorKey) -> bool:
    data = os.read(key.fd, 1 << 16)
    key.data.write(data)
    if not data:
      self._selector.unregister(key.fileobj)
    return bool(data)

  def _drain(self) -> None:
    while ready := self._selector.select(timeout=0):
      for key, _ in ready:
        self._copy(key)
    for key in list(self._selector.get_map().values()):
      key.data.write(b'')

  def _end_the_rest(self) -> None:
    bad = [p for p in self._processes if p.poll() not in (None, 0, _STOPPED)]
    running = self._running()
    if not bad or not running:
      return
    if self._deadline is None:
      index = self._processes.index(bad[0])
      _say(
        f'process {index} ended with {bad[0].returncode}; the others have '
        f'{self._grace:g} s'
      )
      self._deadline = time.monotonic() + self._grace
    elif time.monotonic() > self._deadline:
      for process in running:
        index = self._processes.index(process)
        _say(f'process {index} is ended')
        self._ended_by_us.add(index)
        process.kill()


class _Lines:
  """Writes whole lines with a prefix, so that those of processes do not mix."""

  def __init__(self, prefix: str, target: IO[str]):
    self._prefix = prefix
    self._target = target
    self._rest = b''

  def write(self, data: bytes) -> None:
    """Nothing: the stream has ended."""
    *lines, self._rest = (self._rest + data).split(b'\n')
    if not data and self._rest:
      lines, self._rest = [*lines, self._rest], b''
    for line in lines:
      self._target.write(f'{self._prefix}{line.decode(errors="replace")}\n')
    self._target.flush()


def _die_with_parent() -> None:
  # Else a killed launcher would leave processes that hold GPUs and the workdir.
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _say(text: str) -> None:
  print(f'launch.local: {text}', file=sys.stderr, flush=True)


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
  group = Group(commands, grace=options.grace)
  try:
    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, lambda n, _: group.pass_on(n))
    return group.wait()
  finally:
    group.close()


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
