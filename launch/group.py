"""Processes that are one run: their output, signals, and their end."""

from __future__ import annotations

from collections.abc import Sequence
import ctypes
import dataclasses
import os
import selectors
import shlex
import signal
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

  def __init__(self, *, grace: float):
    """Starts nothing yet.

    Args:
      grace: Seconds that are left to the others when one has ended badly.
    """
    self._grace = grace
    self._selector = selectors.DefaultSelector()
    self._processes: list[subprocess.Popen[bytes]] = []
    self._ended_by_us: set[int] = set()
    self._deadline: float | None = None
    self._passed_on = float('-inf')

  def start(self, commands: Sequence[Command]) -> None:
    """Starts all of them.

    Raises:
      OSError: If one cannot be started; others may run by then.
    """
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
        if index not in self._ended_by_us:
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
