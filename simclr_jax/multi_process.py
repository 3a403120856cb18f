"""Commands that run as one process on each host: their flags and their end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import glob
import importlib.metadata
import importlib.util
import os
import threading
import traceback
from typing import NoReturn

from absl import flags, logging

import simclr_jax
from simclr_jax import command_flags, console, memory, processes, retries

DISTRIBUTED = command_flags.DEFINE_enum(
  'distributed',
  'auto',
  list(processes.MODES),
  "'auto': join the other processes of a Cloud TPU slice, GKE, SLURM or Open "
  "MPI job where there are several. 'on': an error where none is found. 'off': "
  'this process alone.',
)
COORDINATOR = command_flags.DEFINE_string(
  'coordinator',
  None,
  'HOST:PORT of process 0, where no environment tells it; with '
  '--num_processes and --process_id.',
)
NUM_PROCESSES = command_flags.DEFINE_integer(
  'num_processes', None, 'Processes of the run; see --coordinator.'
)
PROCESS_ID = command_flags.DEFINE_integer(
  'process_id', None, 'Index of this process, from 0; see --coordinator.'
)
INIT_TIMEOUT = command_flags.DEFINE_float(
  'init_timeout', 300.0, 'Longest wait for the other processes, in seconds.'
)
PEER_TIMEOUT = command_flags.DEFINE_float(
  'peer_timeout',
  100.0,
  'Silence after which another process is given up and this one ends, in '
  'seconds. (One that dies is noticed at once.)',
)
flags.adopt_module_key_flags(console)

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
_leaving = threading.Lock()


def run(
  body: Callable[[], int],
  *,
  codes: Mapping[type[Exception], int],
  agreed: tuple[type[Exception], ...] = (),
) -> int:
  """Joins the processes that the flags or the environment tell of, and runs.

  A process that fails alone tells the others, which end with its exit code: a
  launcher that sees console.EXIT_PEER_LOST would start a command again that
  fails again. It does not return then: exit handlers of the runtime would wait
  for the others.

  Args:
    body: The command; its exit code.
    codes: Exit codes of the exceptions that are no bugs, besides those of
      memory.
    agreed: Exceptions that `body` raises in every process or in none.
  """
  try:
    console.start(devices=False)
    session = _join()
  except ValueError as error:
    return console.fail(error, code=console.EXIT_WRONG_INPUT)
  except processes.NotStarted as error:
    return console.fail(error, code=console.EXIT_PEER_LOST)
  try:
    if not session.is_single:
      _check_versions()
    code = body()
  except processes.AgreedFailure as error:
    code = _say_agreed(error, codes)
  except Exception as error:
    why = _explained(error)
    known = next((codes[k] for k in codes if isinstance(why, k)), None)
    if isinstance(why, memory.OutOfMemory):
      known = console.EXIT_DOES_NOT_FIT
    if session.is_single:
      if known is None:
        raise
      return console.fail(why, code=known)
    if known is None or not isinstance(why, (*agreed, memory.DoesNotFit)):
      _leave_alone(session, why, known)
    code = console.fail(why, code=known)
  except BaseException as error:
    if session.is_single:
      raise
    _leave_alone(session, error, console.INTERRUPTED)
  session.finish()
  return code


def end(why: str, code: int | None = None) -> NoReturn:
  """Ends this process because the run cannot go on; from any thread.

  Args:
    why: For people.
    code: Of the process that failed; None where one was lost.
  """
  with _leaving:
    if code is not None:
      console.say(why)
      console.exit_now(code)
    console.say(
      f'{why}. The same command continues from the newest checkpoint, if there '
      'is one'
    )
    console.exit_now(console.EXIT_PEER_LOST)


def _join() -> processes.Session:
  """As flags and environment say.

  Raises:
    ValueError: If they contradict each other.
    processes.NotStarted: If the runtime cannot be started.
  """
  launch = processes.find_launch(
    os.environ,
    mode=DISTRIBUTED.value,
    coordinator=COORDINATOR.value,
    num_processes=NUM_PROCESSES.value,
    process_id=PROCESS_ID.value,
    on_tpu_vm=_on_tpu_vm(),
  )
  return processes.join(
    launch,
    end_fn=end,
    init_timeout=INIT_TIMEOUT.value,
    peer_timeout=PEER_TIMEOUT.value,
  )


def _check_versions() -> None:
  """Refuses processes that run other code.

  Raises:
    processes.AgreedFailure: In every process.
  """
  versions = {'simclr_jax': simclr_jax.__version__}
  versions |= {name: _version(name) for name in _PACKAGES}
  processes.check_same(
    versions,
    consequence='they would compute other programs, or wait for each other for '
    'ever; install the same packages on every host',
  )


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return 'unknown'  # Vendored, or its metadata cannot be read.


def _on_tpu_vm() -> bool:
  """Whether there is a TPU, and what drives it; asks no network."""
  return importlib.util.find_spec('libtpu') is not None and bool(
    glob.glob('/dev/accel[0-9]*') or glob.glob('/dev/vfio/[0-9]*')
  )


def _say_agreed(
  error: processes.AgreedFailure, codes: Mapping[type[Exception], int]
) -> int:
  """The same words and the same exit code in every process."""
  if error.error is not None and not console.raised_here(error.error):
    traceback.print_exception(error.error)
  console.say(str(error), where=error.where)
  logging.debug('where it happened', exc_info=error)
  if error.is_away:
    kinds = (kind for kind in codes if issubclass(retries.DataAway, kind))
    return codes[next(kinds)]
  return console.EXIT_WRONG_INPUT if error.is_mistake else console.EXIT_FAILED


def _leave_alone(
  session: processes.Session, error: BaseException, code: int | None
) -> NoReturn:
  """Ends this process for a reason of its own, which the others are told."""
  if session.blames_others(error):
    end(f'another process was lost: {console.first_line(error)}')
  with _leaving:
    if code is None or code == console.INTERRUPTED:
      code = console.unexpected(error)
    elif isinstance(error, Exception):
      code = console.fail(error, code=code)
    session.fail(console.first_line(error), code=_final(code))
    console.exit_now(code)


def _explained(error: Exception) -> Exception:
  """The error, in our words where memory ran out."""
  if not memory.ran_out(error):
    return error
  said = str(error).strip().partition('\n')[0] or type(error).__name__
  return memory.OutOfMemory(
    f'memory ran out ({said[:200]}): a smaller batch (--eval.batch_size, '
    '--config.train.batch_size) or smaller images need less'
  )


def _final(code: int) -> int | None:
  """An exit code after which the same command would fail again, else None."""
  final = (
    console.EXIT_FAILED,
    console.EXIT_WRONG_INPUT,
    console.EXIT_DOES_NOT_FIT,
  )
  return code if code in final else None
