"""Who is still there: a line of TCP from every process to the first.

JAX's runtime notices a lost process too, but ends the others with an abort and
a page of C++, after a time-out even where the operating system knew at once,
and cannot say why a process ended. So each process tells the first every moment
that it is alive, and in the end that it leaves, or what failed; the first tells
the others. A closed connection without such a word is a process that died.

Its threads touch no device. `on_lost` is called in one of them, since the main
thread may hang in a collective for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import hmac
import json
import socket
import threading
import time
from typing import Any

# Longest wait for others to hear why this process ends, seconds.
GOODBYE_SECONDS = 3.0
_CONNECT_SECONDS = 5.0
_LINE = 65_536  # bytes of a message, at most

OnLost = Callable[[str], None]


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
      data = self._connection.recv(_LINE)
    except TimeoutError:
      return []
    except OSError:
      return None
    if not data:
      return None
    *lines, self._rest = (self._rest + data).split(b'\n')
    if len(self._rest) > _LINE:
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


class _Watched:
  """The other end of a line, listened to in a thread of its own."""

  def __init__(
    self,
    line: Line,
    *,
    name: str,
    timeout: float,
    on_message: Callable[[dict[str, Any]], None],
    on_gone: OnLost,
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


class Hub:
  """In process 0: hears all others, and passes on what befell one."""

  def __init__(self, *, token: str, timeout: float, on_lost: OnLost):
    """Listens on a free port.

    Args:
      token: What a process has to say to be believed.
      timeout: Silence after which a process is lost, seconds.
      on_lost: Told why the run cannot go on; once, after all others were.
    """
    self.token = token
    self._timeout = timeout
    self._on_lost = on_lost
    self._names: Sequence[str] = ()
    self._spokes: dict[int, _Watched] = {}
    self._lock = threading.Lock()
    self._ended = False
    self._listener = _listen_anywhere()
    self.port: int = self._listener.getsockname()[1]

  def accept(self, names: Sequence[str]) -> None:
    """Takes connections from now on; `names` of all processes."""
    self._names = names
    threading.Thread(target=self._accept, daemon=True, name='peers').start()

  def _accept(self) -> None:
    while True:
      try:
        connection, _ = self._listener.accept()
      except OSError:
        return  # closed
      threading.Thread(
        target=self._greet, args=(connection,), daemon=True, name='peers'
      ).start()

  def _greet(self, connection: socket.socket) -> None:
    """Believes who knows the token; strangers (port scans) are hung up on."""
    line = Line(connection)
    hello = (line.receive(_CONNECT_SECONDS) or [{}])[0]
    process = hello.get('process')
    process = process if isinstance(process, int) else 0
    known = hmac.compare_digest(
      str(hello.get('token')).encode(), self.token.encode()
    )
    if not known or not 0 < process < len(self._names):
      connection.close()
      return
    with self._lock:
      # Within the lock: who is welcome is told what befalls another.
      line.send(welcome=True)
      self._spokes[process] = _Watched(
        line,
        name=self._names[process],
        timeout=self._timeout,
        on_message=lambda message: self._hear(process, message),
        on_gone=lambda why: self._lost(process, why),
      )

  def _hear(self, process: int, message: dict[str, Any]) -> None:
    if 'failed' in message:
      self._lost(process, f'{self._names[process]} failed: {message["failed"]}')

  def _lost(self, process: int, why: str) -> None:
    if self._tell(why, besides=process):
      self._on_lost(why)

  def _tell(self, why: str, *, besides: int = 0) -> bool:
    """To all who are still there; returns when they have left.

    False if they were told something before: this process is ending.
    """
    with self._lock:
      if self._ended:
        return False
      self._ended = True
      spokes = {k: s for k, s in self._spokes.items() if k != besides}
    for spoke in spokes.values():
      spoke.left.set()
      spoke.line.send(lost=why)
    # This process holds the runtime's service: if it were the first to go, the
    # runtime would abort the others before they have read the message.
    closing = [
      threading.Thread(target=spoke.line.close, daemon=True)
      for spoke in spokes.values()
    ]
    for thread in closing:
      thread.start()
    deadline = time.monotonic() + GOODBYE_SECONDS
    for thread in closing:
      thread.join(max(0.0, deadline - time.monotonic()))
    return True

  def fail(self, text: str) -> None:
    """Tells all others what failed in this process."""
    if not self._tell(f'{self._names[0]} failed: {text}'):
      time.sleep(GOODBYE_SECONDS)

  def leave(self) -> None:
    """Says goodbye to all."""
    with self._lock:
      self._ended = True
      spokes = list(self._spokes.values())
    for spoke in spokes:
      spoke.left.set()
      spoke.line.send(left=True)
    self._listener.close()


class Spoke:
  """In any other process: tells process 0 that this one is alive."""

  def __init__(
    self,
    addresses: Sequence[tuple[str, int]],
    *,
    process: int,
    token: str,
    name: str,
    timeout: float,
    on_lost: OnLost,
  ):
    """Connects to the first address that answers as process 0 would.

    Args:
      addresses: (host, port) that process 0 may have.
      process: Index of this process.
      token: See `Hub`.
      name: Of process 0.
      timeout: Silence after which process 0 is lost, seconds.
      on_lost: Told why the run cannot go on.

    Raises:
      OSError: If none answers.
    """
    self._on_lost = on_lost
    line = _connect(addresses, process=process, token=token)
    self._hub = _Watched(
      line,
      name=name,
      timeout=timeout,
      on_message=self._hear,
      on_gone=on_lost,
    )

  def _hear(self, message: dict[str, Any]) -> None:
    if 'lost' in message:
      self._hub.left.set()
      self._on_lost(str(message['lost']))

  def fail(self, text: str) -> None:
    """Tells process 0, and so all others, what failed in this process."""
    self._end(failed=text)

  def leave(self) -> None:
    """Says goodbye."""
    self._end(left=True)

  def _end(self, **message: Any) -> None:
    self._hub.left.set()
    if self._hub.line.send(**message):
      self._hub.line.close()


def _listen_anywhere() -> socket.socket:
  """A free port on all interfaces, of both families where there are both."""
  if socket.has_dualstack_ipv6():
    try:
      return socket.create_server(
        ('::', 0), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True
      )
    except OSError:
      pass  # IPv6 is compiled in and switched off.
  return socket.create_server(('0.0.0.0', 0), backlog=512)


def _connect(
  addresses: Sequence[tuple[str, int]], *, process: int, token: str
) -> Line:
  reasons = []
  for host, port in addresses:
    try:
      connection = socket.create_connection((host, port), _CONNECT_SECONDS)
    except OSError as error:
      reasons.append(f'{host}:{port}: {error}')
      continue
    line = Line(connection)
    line.send(process=process, token=token)
    answer = line.receive(_CONNECT_SECONDS)
    if answer and 'welcome' in answer[0]:
      connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
      return line
    connection.close()
    reasons.append(f'{host}:{port}: no process of this run answers')
  raise OSError('; '.join(reasons) or 'no address')


def own_addresses() -> list[str]:
  """What other hosts may reach this one by, the likeliest first."""
  host = socket.gethostname()
  found = [host, socket.getfqdn()]
  try:
    found += [str(info[4][0]) for info in socket.getaddrinfo(host, None)]
  except OSError:
    pass  # The name means nothing here, as in some containers.
  for family, target in (
    (socket.AF_INET, '192.0.2.1'),
    (socket.AF_INET6, '2001:db8::1'),
  ):
    try:
      with socket.socket(family, socket.SOCK_DGRAM) as probe:
        # Sends nothing: only asks which interface leads outside (the target is
        # an address for documentation, RFC 5737 and 3849).
        probe.connect((target, 9))
        found.append(probe.getsockname()[0])
    except OSError:
      pass  # No such route.
  # Last: right only where all processes share a host.
  loopback = '127.0.0.1'
  return [*dict.fromkeys(x for x in found if x != loopback), loopback]
