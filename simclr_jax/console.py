"""What every command shares: a readable log and errors without a traceback."""

from __future__ import annotations

import logging as std_logging
import sys

from absl import flags, logging

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
  """Sets up the log; call first in a command's main."""
  if logging.get_verbosity() < logging.INFO:
    logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  if not any(isinstance(f, _LibraryChatter) for f in handler.filters):
    handler.addFilter(_LibraryChatter())


def fail(error: BaseException, *, code: int) -> int:
  """Says what went wrong; the traceback is for `--verbosity=1`."""
  print(f'error: {error}', file=sys.stderr, flush=True)
  logging.debug('where it happened', exc_info=error)
  return code
