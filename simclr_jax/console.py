"""What every command shares: log, compilation cache, errors in one line."""

from __future__ import annotations

import atexit
from collections.abc import Callable
import contextlib
import logging as std_logging
import os
import pathlib
import resource
import sys
import threading
import traceback
from typing import NoReturn

from absl import flags, logging

from simclr_jax import (
  compilation_cache,
  home,
  paths,
  processes,
  progress_bar,
  writes,
)

EXIT_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_DOES_NOT_FIT = 3  # The memory is too small: the same would happen again.
EXIT_PEER_LOST = 69  # EX_UNAVAILABLE of sysexits.h: the same command continues.
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command continues.
INTERRUPTED = 130  # 128 + SIGINT, as a shell has it.
_ATEXIT_SECONDS = 5.0

_CHATTY = ('jax', 'orbax', 'tensorflow_datasets', 'faiss')


class _LibraryChatter(std_logging.Filter):
  """Drops what libraries report about normal work, and what process 0 says too.

  Orbax writes some fifty INFO lines for each checkpoint, FAISS one for each
  library that it tries; the run's own lines would drown. Of several processes
  only the first says how it goes; what goes wrong is said by each, with its
  name. `--verbosity=1` lets everything through.
  """

  def filter(self, record: std_logging.LogRecord) -> bool:
    if record.levelno >= std_logging.WARNING:
      progress_bar.clear()
      if name := processes.name_of():
        record.msg = f'({name}) {record.msg}'
      return True
    if logging.level_debug():
      progress_bar.clear()
      return True
    path = record.pathname.replace('\\', '/')
    is_chatter = any(f'/{name}/' in path for name in _CHATTY)
    said = not is_chatter and processes.own_index() == 0
    if said:
      progress_bar.clear()
    return said


class _Formatter(std_logging.Formatter):
  """'23:05:41 message': time of day, 'warning: ' where it is one."""

  def __init__(self) -> None:
    super().__init__(datefmt='%H:%M:%S')

  def format(self, record: std_logging.LogRecord) -> str:
    """The line; with the place in the code at `--verbosity=1`."""
    if logging.level_debug():
      return logging.PythonFormatter().format(record)
    text = super().format(record)
    warns = record.levelno >= std_logging.WARNING
    level = f'{record.levelname.lower()}: ' if warns else ''
    return f'{self.formatTime(record, self.datefmt)} {level}{text}'


def start(*, devices: bool = True) -> None:
  """Sets up log, compilation cache and devices; call first in a command's main.

  Args:
    devices: Whether the command uses them, and starts nothing before it does.

  Raises:
    ValueError: If there are no such devices as JAX_PLATFORMS wants.
  """
  home.provide()
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  if not any(isinstance(f, _LibraryChatter) for f in handler.filters):
    handler.addFilter(_LibraryChatter())
    handler.setFormatter(_Formatter())
  compilation_cache.enable()
  _allow_open_files()
  if devices:
    processes.check_devices()


def leave(command: Callable[[], int | None]) -> NoReturn:
  """Runs a command and ends this process at once, with its exit code.

  An orderly end would free what the frames of an exception hold and join the
  threads of the libraries. Either may wait for a minute, or for ever: for a
  thread of tf.data that sleeps, or for a read of a disk that has gone away.
  So nothing is freed, and handlers of `atexit` have five seconds.

  Args:
    command: Gives the exit code; its SystemExit passes.
  """
  kept: BaseException | None = None
  try:
    code = command() or 0
  except SystemExit:
    raise
  except BaseException as error:
    kept, code = error, unexpected(error)
  timer = threading.Timer(_ATEXIT_SECONDS, exit_now, args=(code,))
  timer.daemon = True
  timer.start()
  atexit._run_exitfuncs()
  exit_now(code)
  raise kept or AssertionError('os._exit returned')  # Keeps it until then.


def unexpected(error: BaseException) -> int:
  """Says what nobody expected, last in one line; its exit code."""
  if isinstance(error, KeyboardInterrupt):
    say('interrupted')
    logging.debug('where it happened', exc_info=error)
    return INTERRUPTED
  if remote := paths.explain(error):
    say(remote.text)
    logging.debug('where it happened', exc_info=error)
    return EXIT_WRONG_INPUT if remote.is_mistake else EXIT_FAILED
  traceback.print_exception(error)
  say(first_line(error))
  return EXIT_FAILED


def first_line(error: BaseException) -> str:
  """Kind and first line of an error; of a ValueError the line alone."""
  if isinstance(error, KeyboardInterrupt):
    return 'interrupted'
  lines = str(error).strip().splitlines()
  name = type(error).__name__
  if not lines:
    return name
  return lines[0] if isinstance(error, ValueError) else f'{name}: {lines[0]}'


def exit_now(code: int) -> NoReturn:
  """Ends this process without exit handlers, which may wait for others."""
  logging.flush()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):  # A pipe that is closed.
      stream.flush()
  os._exit(code)


def _allow_open_files() -> None:
  """Raises the limit on open files as far as the system allows.

  It is 1024 on most machines, less than the record files of ImageNet.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if soft != hard:
    # Where hard is infinite the system may still refuse it.
    with contextlib.suppress(ValueError, OSError):
      resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def fail(error: BaseException, *, code: int) -> int:
  """Says what went wrong, in one line if this package said so itself.

  A ValueError that a library raised is a bug of ours, not a user's mistake, and
  comes with its traceback and exit code 1. `--verbosity=1` shows every one.
  """
  if not raised_here(error):
    return unexpected(error)
  say(str(error))
  logging.debug('where it happened', exc_info=error)
  return code


def say(text: str, *, where: str = '') -> None:
  """An error in one line, with the name of the process where it happened.

  Args:
    text: What is wrong.
    where: Default: this process, if there are several.
  """
  where = where or processes.name_of()
  prefix = f'error ({where})' if where else 'error'
  progress_bar.say(f'{prefix}: {text}')


def raised_here(error: BaseException) -> bool:
  """Whether the last frame of the traceback lies in this package.

  What the system says about a file that it names counts too: nothing is learnt
  from the line of a library that asked for it.
  """
  if isinstance(error, OSError) and error.filename is not None:
    return True
  if isinstance(error, OSError) and writes.is_full(error):
    return True
  frames = traceback.extract_tb(error.__traceback__)
  package = pathlib.Path(__file__).resolve().parent
  return not frames or pathlib.Path(frames[-1].filename).is_relative_to(package)
