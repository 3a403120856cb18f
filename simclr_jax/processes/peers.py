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
import socket
import threading
import time
from typing import Any

from simclr_jax.processes import addresses as addresses_lib
from simclr_jax.processes.line import GOODBYE_SECONDS, Line, Watched

_CONNECT_SECONDS = 5.0

# (why the run cannot go on, exit code of the process that failed; None where
# it was lost).
OnLost = Callable[[str, int | None], None]


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
    self._spokes: dict[int, Watched] = {}
    self._lock = threading.Lock()
    self._ended = False
    self._listener = addresses_lib.listen_anywhere()
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
      self._spokes[process] = Watched(
        line,
        name=self._names[process],
        timeout=self._timeout,
        on_message=lambda message: self._hear(process, message),
        on_gone=lambda why: self._lost(process, why),
      )

  def _hear(self, process: int, message: dict[str, Any]) -> None:
    if 'failed' in message:
      why = f'{self._names[process]} failed: {message["failed"]}'
      self._lost(process, why, code=_code(message))

  def _lost(self, process: int, why: str, code: int | None = None) -> None:
    if self._tell(why, code=code, besides=process):
      self._on_lost(why, code)

  def _tell(self, why: str, *, code: int | None, besides: int = 0) -> bool:
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
      spoke.line.send(lost=why, code=code)
    # This process holds the runtime's service: if it were the first to go, the
    # runtime would abort the others before they have read the message.
    _close_all(list(spokes.values()))
    return True

  def fail(self, text: str, *, code: int | None = None) -> None:
    """Tells all others what failed in this process; see `OnLost`."""
    if not self._tell(f'{self._names[0]} failed: {text}', code=code):
      time.sleep(GOODBYE_SECONDS)

  def leave(self) -> None:
    """Says goodbye to all."""
    with self._lock:
      self._ended = True
      spokes = list(self._spokes.values())
    for spoke in spokes:
      spoke.left.set()
      spoke.line.send(left=True)
    # With something unread the system would reset the connections, and who had
    # not yet read the goodbye would never see it.
    _close_all(spokes)
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
    self._hub = Watched(
      line,
      name=name,
      timeout=timeout,
      on_message=self._hear,
      on_gone=lambda why: on_lost(why, None),
    )

  def _hear(self, message: dict[str, Any]) -> None:
    if 'lost' in message:
      self._hub.left.set()
      self._on_lost(str(message['lost']), _code(message))

  def fail(self, text: str, *, code: int | None = None) -> None:
    """Tells process 0, and so all others, what failed in this process."""
    self._end(failed=text, code=code)

  def leave(self) -> None:
    """Says goodbye."""
    self._end(left=True)

  def _end(self, **message: Any) -> None:
    self._hub.left.set()
    if self._hub.line.send(**message):
      self._hub.line.close()


def _code(message: dict[str, Any]) -> int | None:
  code = message.get('code')
  return code if isinstance(code, int) else None


def _close_all(spokes: Sequence[Watched]) -> None:
  """Waits until the others have closed too, but not for ever."""
  closing = [
    threading.Thread(target=spoke.line.close, daemon=True) for spoke in spokes
  ]
  for thread in closing:
    thread.start()
  deadline = time.monotonic() + GOODBYE_SECONDS
  for thread in closing:
    thread.join(max(0.0, deadline - time.monotonic()))


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
