"""What every command shares: log, compilation cache, errors in one line."""

from __future__ import annotations

import logging as std_logging
import pathlib
import sys
import traceback

from absl import flags, logging

from simclr_jax import compilation_cache, processes, progress_bar

EXIT_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_DOES_NOT_FIT = 3  # The memory is too small: the same would happen again.
EXIT_PEER_LOST = 69  # EX_UNAVAILABLE of sysexits.h: the same command continues.
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command continues.


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


def start() -> None:
  """Sets up log and compilation cache; call first in a command's main."""
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  if not any(isinstance(f, _LibraryChatter) for f in handler.filters):
    handler.addFilter(_LibraryChatter())
  compilation_cache.enable()


def fail(error: BaseException, *, code: int) -> int:
  """Says what went wrong, in one line if this package said so itself.

  A ValueError that a library raised is a bug of ours, not a user's mistake, and
  comes with its traceback and exit code 1. `--verbosity=1` shows every one.
  """
  if not raised_here(error):
    traceback.print_exception(error)
    if processes.name_of():
      say(f'{type(error).__name__}: {error}')
    return EXIT_FAILED
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
  progress_bar.clear()
  print(f'{prefix}: {text}', file=sys.stderr, flush=True)


def raised_here(error: BaseException) -> bool:
  """Whether the last frame of the traceback lies in this package.

  What the system says about a file that it names counts too: nothing is learnt
  from the line of a library that asked for it.
  """
  if isinstance(error, OSError) and error.filename is not None:
    return True
  frames = traceback.extract_tb(error.__traceback__)
  package = pathlib.Path(__file__).resolve().parent
  return not frames or pathlib.Path(frames[-1].filename).is_relative_to(package)
