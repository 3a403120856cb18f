"""Flags that the commands which train classifiers share, and how they end."""

from __future__ import annotations

from collections.abc import Callable
import sys
from typing import TypeVar

from absl import flags
import jax

from simclr_jax import command_flags, console, multi_process, processes, retries
from simclr_jax.finetuning import derive, report
from simclr_jax.training import checkpoint, choice, failures, storage
from simclr_jax.training import passport as passport_lib
from simclr_jax.training import watchdog as watchdog_lib

T = TypeVar('T')
CONFIG = command_flags.DEFINE_config_file(
  'config',
  help_string='Config file: of configs/finetune, or configs/distill.',
)
CHECKPOINT = command_flags.DEFINE_address(
  'checkpoint',
  None,
  'Workdir of a run whose encoder is taken, or a checkpoint.',
)
STEP = command_flags.DEFINE_string(
  'step', '', "Step of the checkpoint, or 'best'; default: the newest."
)
WORKDIR = command_flags.DEFINE_address(
  'workdir', None, 'New folder of checkpoints, metrics and results.'
)
STALL_TIMEOUT = command_flags.DEFINE_float(
  'stall_timeout',
  1800.0,
  'Longest time for one step, in seconds, after which this process ends; '
  'compiling, saves and evaluations are not counted. 0: any. Data that cannot '
  'be read are waited for at most half as long.',
)
CHECK_MEMORY = command_flags.DEFINE_bool(
  'check_memory',
  True,
  'Refuse a run that needs more memory than there is, before its first step.',
)
flags.adopt_module_key_flags(multi_process)

CODES = {
  ValueError: console.EXIT_WRONG_INPUT,
  failures.NonFiniteLoss: console.EXIT_FAILED,
  checkpoint.DamagedCheckpoint: console.EXIT_WRONG_INPUT,
  storage.StorageFailed: console.EXIT_FAILED,
  retries.DataAway: console.EXIT_STOPPED,
  OSError: console.EXIT_FAILED,
}


def load_checkpoint() -> checkpoint.LoadedEncoder:
  """The encoder that --checkpoint and --step name.

  Raises:
    ValueError: If there is none.
    checkpoint.DamagedCheckpoint: If none is readable.
  """
  step = choice.parse_step(STEP.value)
  return checkpoint.load_encoder(CHECKPOINT.value, step=step)


def load_chosen() -> checkpoint.LoadedEncoder:
  """As `load_checkpoint`; without --step the one that its holdout chose."""
  loaded = load_checkpoint()
  config = passport_lib.config_from_passport(loaded.passport, where=loaded.path)
  # --checkpoint may name a single step; then that is the choice.
  is_workdir = checkpoint.list_steps(CHECKPOINT.value)
  if STEP.value or not derive.holds_out(config) or not is_workdir:
    return loaded
  return checkpoint.load_encoder(CHECKPOINT.value, step='best')


def make_watchdog() -> watchdog_lib.Watchdog:
  """As --stall_timeout says."""
  return watchdog_lib.Watchdog(STALL_TIMEOUT.value, on_stall=multi_process.end)


def run(
  argv: list[str],
  *,
  read: Callable[[], T],
  train: Callable[[T], report.Report | None],
  format_table: Callable[[report.Report], str],
) -> int:
  """Exit code of a command.

  Args:
    argv: What is left of the command line.
    read: What the flags ask for.
    train: Does that; None if a signal stopped it after saving.
    format_table: Of what it found.
  """

  def work() -> int:
    with processes.together():
      if len(argv) > 1:
        raise ValueError(f'unknown arguments {" ".join(argv[1:])}')
      asked = read()
    found = train(asked)
    if found is None:
      return console.EXIT_STOPPED
    if jax.process_index() == 0:
      print(format_table(found), flush=True)
      files = (found[name] for name in ('file', 'plot') if name in found)
      print(f'-> {" and ".join(files)}', file=sys.stderr)
    return 0

  return multi_process.run(
    work,
    codes=CODES,
    agreed=(
      failures.NonFiniteLoss,
      failures.StoppedWithoutData,
      checkpoint.DamagedCheckpoint,
      storage.RunNotSaved,
    ),
  )
