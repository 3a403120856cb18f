"""What every command shares: log, compilation cache, errors in one line."""

from __future__ import annotations

import logging as std_logging
import pathlib
import sys
import traceback

from absl import flags, logging

from simclr_jax import compilation_cache

DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'Call jax.distributed.initialize() first: one process per host of a TPU pod '
  'slice, GKE or SLURM job.',
)

EXIT_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: the same command continues.


_CHATTY = ('jax', 'orbax', 'tensorflow_datasets')


class _LibraryChatter(std_logging.Filter):
  """Drops what libraries report about normal work.

  Orbax writes some fifty INFO lines for each checkpoint; the run's own lines
  would drown. `--verbosity=1` lets everything through.
  """

  def filter(self, record: std_logging.LogRecord) -> bool:
    path = record.pathname.replace('\\', '/')
    return (
      not any(f'/{name}/' in path for name in _CHATTY)
      or record.levelno >= std_logging.WARNING
      or logging.level_debug()
    )


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
  if not _raised_here(error):
    traceback.print_exception(error)
    return EXIT_FAILED
  print(f'error: {error}', file=sys.stderr, flush=True)
  logging.debug('where it happened', exc_info=error)
  return code


def _raised_here(error: BaseException) -> bool:
  """Whether the last frame of the traceback lies in this package."""
  frames = traceback.extract_tb(error.__traceback__)
  package = pathlib.Path(__file__).resolve().parent
  return not frames or pathlib.Path(frames[-1].filename).is_relative_to(package)
