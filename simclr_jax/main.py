"""Pretrains an encoder.

  python -m simclr_jax.main --config=configs/imagenet.py --workdir=runs/mine

The same command again resumes. On several hosts it runs once on each: Cloud TPU
slices, GKE, SLURM and Open MPI are recognised (`--distributed`), elsewhere
`--coordinator=HOST:PORT --num_processes=N --process_id=K` say who they are.
SIGTERM and Ctrl-C, in any of the processes, end all after the same step with a
checkpoint; a second one ends the process at once.

`--check_recipe` compares the finished run (also one that had finished before)
with the card of its recipe: loss, contrastive accuracy and kNN by epoch. A
recipe without a card is refused before the first step.

Exit codes:
  0   finished (and, with --check_recipe, as its recipe is known to go)
  1   failed: a loss that is no number, a full disk; or the run is not as
      --check_recipe expects
  2   the command, the config, the data or the workdir is wrong (no checkpoint
      in it is readable), or there is no measured card for --check_recipe:
      nothing was trained. After the training only where --check_recipe finds
      no number to compare: no whole epoch, or a workdir that goes on from
      another run
  3   the run needs more memory than there is: on CPUs by an estimate before the
      first step (--check_memory=false starts it all the same), on accelerators
      by the compiled step; the message names flags that fit
  69  another process was lost (--peer_timeout), did not come (--init_timeout),
      or a step did not end (--stall_timeout): the same command continues
  75  stopped by a signal, or because data could not be read for a minute, after
      saving: the same command continues
A second signal ends with 128 + its number. Where one process fails for itself,
the others end with its 1, 2 or 3. `--verbosity=1` shows where an error was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from absl import flags

from simclr_jax import (
  cards,
  command_flags,
  console,
  evaluation,
  flag_errors,
  multi_process,
  processes,
  retries,
  section_flags,
)
from simclr_jax import config as config_lib
from simclr_jax.planning import preflight as preflight_lib
from simclr_jax.training import checkpoint, failures, loop, storage
from simclr_jax.training import run as run_lib
from simclr_jax.training import watchdog as watchdog_lib
from simclr_jax.training.state import TrainState

_CONFIG = command_flags.DEFINE_config_file(
  'config', help_string='Config file, e.g. configs/cifar10.py[:preset].'
)
_WORKDIR = command_flags.DEFINE_address(
  'workdir', None, 'Folder of checkpoints and metrics, local or gs://.'
)
_CONTINUE_FROM = command_flags.DEFINE_address(
  'continue_from',
  None,
  'Workdir of another run, or one of its checkpoints: start from that state in '
  'a new --workdir, with another batch, length or learning rate. What that '
  'does is said before the first step.',
)
_STALL_TIMEOUT = command_flags.DEFINE_float(
  'stall_timeout',
  1800.0,
  'Longest time for one step, in seconds, after which this process ends; '
  'compiling, saves and evaluations are not counted. 0: any. Data that cannot '
  'be read are waited for at most half as long.',
)
_CHECK_RECIPE = command_flags.DEFINE_bool(
  'check_recipe',
  False,
  'At the end, compare the run with the measured card of its recipe, which '
  'must have one.',
)
_CHECK_MEMORY = command_flags.DEFINE_bool(
  'check_memory',
  True,
  'Refuse a run that needs more memory than there is, before its first step.',
)
flags.adopt_module_key_flags(multi_process)


def run(
  config: config_lib.Config,
  workdir: str,
  *,
  watchdog: watchdog_lib.Watchdog | None = None,
  continue_from: str | None = None,
  needs_card: bool = False,
  check_memory: bool = True,
) -> loop.Outcome:
  """Pretrains by `config` in `workdir`, resuming where it stopped.

  Args:
    config: Of the run.
    workdir: Of its checkpoints and metrics.
    watchdog: Told of every step.
    continue_from: Workdir or checkpoint of another run.
    needs_card: Whether a recipe without a measured card is refused.
    check_memory: Whether a run is refused that needs more than there is.

  Raises:
    ValueError: If config, data and devices do not fit together, or the workdir
      belongs to another config; with several processes
      processes.AgreedFailure, in all of them.
    memory.OutOfMemory: If it needs more memory than there is.
  """
  with processes.together(), section_flags.named('--config.data'):
    parts = run_lib.make_run(config, workdir=workdir)
    if needs_card:
      cards.require_card(
        config,
        fingerprint=parts.source.fingerprint,
        continues=continue_from is not None,
      )
    evaluate_fn = make_evaluate_fn(parts, workdir)
  return loop.pretrain(
    parts,
    workdir,
    evaluate_fn=evaluate_fn,
    watchdog=watchdog,
    continue_from=continue_from,
    preflight=preflight_lib.Preflight(
      check_memory=check_memory, network='model'
    ),
  )


def make_evaluate_fn(run: run_lib.Run, workdir: str) -> loop.EvaluateFn | None:
  """Periodic kNN on the test split; None where the config asks for none."""
  if not run.resolved.knn_every_steps:
    return None
  monitor = evaluation.KnnMonitor(run.config, workdir=workdir, train=run.source)

  def evaluate(
    run: run_lib.Run, state: TrainState, stop_fn: Callable[[], bool]
  ) -> Mapping[str, float] | None:
    variables = {'params': state.params, 'batch_stats': state.model_state}
    return monitor.evaluate(
      run.model, variables, mesh=run.mesh, stop_fn=stop_fn
    )

  return evaluate


def main(argv: list[str]) -> int:
  """Exit code of the command."""

  def pretrain() -> int:
    with processes.together():
      if len(argv) > 1:
        raise ValueError(f'unknown arguments {" ".join(argv[1:])}')
      config = config_lib.from_config_dict(_CONFIG.value)
      watchdog = watchdog_lib.Watchdog(
        _STALL_TIMEOUT.value, on_stall=multi_process.end
      )
    outcome = run(
      config,
      str(_WORKDIR.value),
      watchdog=watchdog,
      continue_from=_CONTINUE_FROM.value,
      needs_card=_CHECK_RECIPE.value,
      check_memory=_CHECK_MEMORY.value,
    )
    if not outcome.finished:
      return console.EXIT_STOPPED
    if not _CHECK_RECIPE.value:
      return 0
    return cards.announce(cards.check_recipe(str(_WORKDIR.value)))

  return multi_process.run(
    pretrain,
    codes={
      ValueError: console.EXIT_WRONG_INPUT,
      failures.NonFiniteLoss: console.EXIT_FAILED,
      checkpoint.DamagedCheckpoint: console.EXIT_WRONG_INPUT,
      storage.StorageFailed: console.EXIT_FAILED,
      retries.DataAway: console.EXIT_STOPPED,
      OSError: console.EXIT_FAILED,
    },
    agreed=(
      failures.NonFiniteLoss,
      failures.StoppedWithoutData,
      checkpoint.DamagedCheckpoint,
      storage.RunNotSaved,
    ),
  )


if __name__ == '__main__':
  flag_errors.run(main, required=['config', 'workdir'])
