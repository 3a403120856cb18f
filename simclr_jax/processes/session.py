"""Joining the processes of a run, and leaving them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import os
import secrets
import signal
import socket
import threading
from typing import NoReturn

from absl import logging
import jax

from simclr_jax.processes import addresses, agreement, names, peers
from simclr_jax.processes.devices import check_devices
from simclr_jax.processes.launch import Launch
from simclr_jax.processes.line import GOODBYE_SECONDS

# What the runtime says where a process on the other side of a collective or of
# its service has gone.
_LOSS_WORDS = (
  'gloo',
  'coordination',
  'heartbeat',
  'unavailable',
  'deadline_exceeded',
  'connection',
  'socket',
  'peer',
  'nccl',
  'aborted',
)
# Our own word comes first; the runtime aborts the process with a page of C++.
_RUNTIME_IS_SLOWER = 3
_RUNTIME_SECONDS = 30

_DETECTION = {'flags': 'deactivate', 'SLURM': 'slurm'}

# Of what failed, for the others: a message has to fit into a line.
_MOST_CHARACTERS = 4000

# Says why, and ends the process; with the exit code of the process that failed,
# or None where one was lost.
EndFn = Callable[[str, int | None], NoReturn]


class NotStarted(Exception):
  """The processes did not find each other."""


class Session:
  """This process among those of its run; a single one has nothing to do."""

  def __init__(self) -> None:
    self._line: peers.Hub | peers.Spoke | None = None
    self.is_single = True

  def finish(self) -> None:
    """Leaves when all others do too; every process has to call it."""
    if self.is_single:
      return
    self.is_single = True
    jax.distributed.shutdown()
    if self._line is not None:
      self._line.leave()

  def fail(self, text: str, *, code: int | None = None) -> None:
    """Tells the others why this process ends; it has to end then.

    Args:
      text: What failed.
      code: With which they end, too; None where the same command may go on.
    """
    if self._line is not None:
      self._line.fail(text[:_MOST_CHARACTERS], code=code)

  def blames_others(self, error: BaseException) -> bool:
    """Whether an error of the runtime only follows from a lost process.

    Where the processes watch each other, `end_fn` ends this one before it
    returns, with a reason; on a machine that is too busy for that, the words of
    the runtime have to do.
    """
    if self.is_single or not _is_from_runtime(error):
      return False
    if self._line is not None:
      # The one that watches the connections knows in a moment.
      threading.Event().wait(GOODBYE_SECONDS)
    text = str(error).lower()
    return any(word in text for word in _LOSS_WORDS)


def _is_from_runtime(error: BaseException | None) -> bool:
  while error is not None:
    if isinstance(error, jax.errors.JaxRuntimeError):
      return True
    error = error.__cause__ or error.__context__
  return False


def join(
  launch: Launch,
  *,
  end_fn: EndFn,
  init_timeout: float = 300.0,
  peer_timeout: float = 100.0,
) -> Session:
  """Starts JAX's multi-process runtime; call before anything touches a device.

  Args:
    launch: From `find_launch`.
    end_fn: See `EndFn`; called in another thread when a process fails or is
      lost, or when the others do not come.
    init_timeout: Longest wait for the other processes, seconds.
    peer_timeout: Silence after which a process is lost, seconds.

  Raises:
    NotStarted: If the runtime cannot be started.
    ValueError: If there are no such devices as JAX_PLATFORMS wants.
  """
  for name, value in (('init', init_timeout), ('peer', peer_timeout)):
    if value < 1:
      raise ValueError(f'--{name}_timeout={value}: at least 1 s')
  session = Session()
  if launch.is_single:
    check_devices()
    return session
  # It would own SIGTERM, and then a second one could not end the process.
  jax.config.update('jax_enable_preemption_service', False)
  with _deadline(launch, init_timeout, end_fn):
    _check_port(launch)
    _initialize(launch, init_timeout, peer_timeout)
  check_devices()
  session.is_single = jax.process_count() == 1
  if not session.is_single:
    _delay_aborts()
    session._line = _watch_each_other(peer_timeout, end_fn)
    logging.info(
      '%d processes, found by %s, on %s',
      jax.process_count(),
      launch.by,
      names.name_of(),
    )
  return session


@contextlib.contextmanager
def _deadline(launch: Launch, seconds: float, end_fn: EndFn) -> Iterator[None]:
  """Ends the process if the others do not come; the runtime would abort it."""
  whom = 'the other processes'
  if launch.process_id:
    whom = f'process 0 at {launch.coordinator or "the first host"}'
  timer = threading.Timer(
    seconds,
    end_fn,
    args=(
      f'waited {seconds:g} s (--init_timeout) for {whom}, in vain. Does the '
      'command run on every host, with the same --coordinator and '
      '--num_processes, and does a firewall let them through? '
      '(--distributed=off: this process alone)',
      None,
    ),
  )
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _check_port(launch: Launch) -> None:
  """The runtime crashes where its port is taken."""
  if launch.process_id != 0 or launch.coordinator is None:
    return
  port = int(launch.coordinator.rpartition(':')[2])
  try:
    socket.create_server(('', port)).close()
  except OSError as error:
    raise NotStarted(
      f'port {port} of --coordinator={launch.coordinator} cannot be opened '
      f'here ({error.strerror}); does another run use it?'
    ) from error


def _initialize(
  launch: Launch, init_timeout: float, peer_timeout: float
) -> None:
  slower = int(_RUNTIME_IS_SLOWER * peer_timeout + _RUNTIME_SECONDS)
  try:
    with _no_proxy():
      jax.distributed.initialize(
        coordinator_address=launch.coordinator,
        num_processes=launch.num_processes,
        process_id=launch.process_id,
        # Else JAX asks every kind of cluster about the devices to use, over the
        # network too, and flags within SLURM would get one GPU.
        cluster_detection_method=_DETECTION.get(launch.by),
        initialization_timeout=int(init_timeout + _RUNTIME_SECONDS),
        heartbeat_timeout_seconds=slower,
        shutdown_timeout_seconds=slower,
      )
  except (RuntimeError, ValueError, OSError) as error:
    raise NotStarted(
      f'JAX could not start {launch.by}: {error}. '
      'Give --coordinator=HOST:PORT --num_processes=N --process_id=K, or '
      '--distributed=off for this process alone'
    ) from error
  if launch.all_devices and not os.environ.get('JAX_LOCAL_DEVICE_IDS'):
    # JAX's detection gives each task of SLURM one GPU, also where it has the
    # node to itself: seven of eight would idle.
    for platform in ('cuda', 'rocm'):
      jax.config.update(f'jax_{platform}_visible_devices', 'all')


@contextlib.contextmanager
def _no_proxy() -> Iterator[None]:
  """Keeps gRPC from asking a proxy for process 0, which it cannot reach.

  gRPC reads these variables once, when it makes the connection; which address
  that has, only JAX's detection knows with most launchers.
  """
  names = [f'{kind}_proxy' for kind in ('grpc', 'https', 'http')]
  hidden = {n: os.environ.pop(n) for n in names if n in os.environ}
  try:
    yield
  finally:
    os.environ |= hidden


def _delay_aborts() -> None:
  """Gives us the last word where process 0, and the service in it, is killed.

  The runtime's client aborts the process within milliseconds then; under load
  that is sooner than our thread has read of the closed connection. So SIGABRT
  runs sleep(SIGABRT), six seconds, in the thread that aborts, and then the
  abort goes on.
  """
  libc = ctypes.CDLL(None)
  libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
  libc.signal.restype = ctypes.c_void_p
  libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


def _watch_each_other(
  timeout: float, end_fn: EndFn
) -> peers.Hub | peers.Spoke | None:
  """Connects this process; None if some cannot reach the first."""
  hub = None
  mine: dict[str, object] = {'host': socket.gethostname()}
  if jax.process_index() == 0:
    hub = peers.Hub(
      token=secrets.token_hex(16), timeout=timeout, on_lost=end_fn
    )
    mine |= {
      'token': hub.token,
      'addresses': [(host, hub.port) for host in addresses.own_addresses()],
    }
  everyone = agreement.gather(mine)
  hosts = [each['host'] for each in everyone]
  names.remember(hosts, own=jax.process_index())
  line: peers.Hub | peers.Spoke | None = hub
  problem = None
  if hub is not None:
    hub.accept([names.name_of(k) for k in range(jax.process_count())])
  else:
    first = everyone[0]
    try:
      line = peers.Spoke(
        [(host, port) for host, port in first['addresses']],
        process=jax.process_index(),
        token=first['token'],
        name=names.name_of(0),
        timeout=timeout,
        on_lost=end_fn,
      )
    except OSError as error:
      problem = str(error)
  problems = {k: why for k, why in enumerate(agreement.gather(problem)) if why}
  if problems and jax.process_index() == 0:
    some = next(iter(problems))
    logging.warning(
      '%s cannot reach %s (%s): a lost process will be noticed later, by '
      "JAX's own runtime, and without a reason",
      names.name_all(list(problems)),
      names.name_of(0),
      problems[some],
    )
  return line
