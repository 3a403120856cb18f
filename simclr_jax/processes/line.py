"""A line of TCP between two processes: messages, and signs of life."""

from __future__ import annotations

from collections.abc import Callable
import json
import socket
import threading
import time
from typing import Any

# Longest wait for others to hear why this process ends, seconds.
GOODBYE_SECONDS = 3.0
_MOST_BYTES = 65_536  # of a message


class Line:
  """Messages over one connection, whole or not at all."""

  def __init__(self, connection: socket.socket):
    self._connection = connection
    self._rest = b''
    self._sending = threading.Lock()

  def send(self, **message: Any) -> bool:
    """False if the other end is gone."""
    data = json.dumps(message).encode() + b'\n'
    try:
      with self._sending:
        self._connection.sendall(data)
    except OSError:
      return False
    return True

  def receive(self, timeout: float) -> list[dict[str, Any]] | None:
    """What has come within `timeout` seconds; None: the other end is gone."""
    try:
      self._connection.settimeout(timeout)
      data = self._connection.recv(_MOST_BYTES)
    except TimeoutError:
      return []
    except OSError:
      return None
    if not data:
      return None
    *lines, self._rest = (self._rest + data).split(b'\n')
    if len(self._rest) > _MOST_BYTES:
      return None
    try:
      found = [json.loads(line) for line in lines]
    except ValueError:
      return None
    return found if all(isinstance(m, dict) for m in found) else None

  def close(self) -> None:
    """Lets what was sent arrive: reads until the other end has closed too."""
    try:
      self._connection.shutdown(socket.SHUT_WR)
      deadline = time.monotonic() + GOODBYE_SECONDS
      while time.monotonic() < deadline and self.receive(0.1) is not None:
        pass
    except OSError:
      pass  # It is gone: nothing more can arrive.
    self.hang_up()

  def hang_up(self) -> None:
    """Closes at once."""
    self._connection.close()


class Watched:
  """The other end of a line, listened to in a thread of its own."""

  def __init__(
    self,
    line: Line,
    *,
    name: str,
    timeout: float,
    on_message: Callable[[dict[str, Any]], None],
    on_gone: Callable[[str], None],
  ):
    self.line = line
    self._name = name
    self._timeout = timeout
    self._on_message = on_message
    self._on_gone = on_gone
    # It said goodbye, or this process did: its silence means nothing.
    self.left = threading.Event()
    threading.Thread(target=self._listen, daemon=True, name='peers').start()

  def _listen(self) -> None:
    pause = _pause(self._timeout)
    silent, before, next_sign = 0.0, time.monotonic(), 0.0
    while not self.left.is_set():
      now = time.monotonic()
      if now >= next_sign:
        self.line.send(alive=True)
        next_sign = now + pause
      messages = self.line.receive(max(next_sign - now, 0.01))
      if messages is None:
        break
      # A pause of this process itself (Ctrl-Z) is not held against the others.
      now, elapsed = time.monotonic(), time.monotonic() - before
      before = now
      silent = 0.0 if messages else silent + min(elapsed, 2 * pause)
      for message in messages:
        if 'left' in message:
          self.left.set()
          # The other end waits for that before it goes.
          self.line.hang_up()
        self._on_message(message)
      if silent > self._timeout:
        self._on_gone(
          f'{self._name} has given no sign of life for {self._timeout:g} s '
          '(--peer_timeout): it hangs, was stopped, or the network between is '
          'broken'
        )
        return
    if not self.left.is_set():
      self._on_gone(
        f'{self._name} ended without a word (killed, out of memory, or its '
        'host is gone)'
      )


def _pause(timeout: float) -> float:
  """Seconds between two signs of life."""
  return min(1.0, timeout / 5)
