"""Pretrains an encoder.

  python -m simclr_jax.main --config=configs/imagenet.py --workdir=gs://b/run

The same command again resumes. Exit codes: 0 finished, 1 failed, 2 the command,
the config or the workdir is wrong, 75 stopped by a signal after saving (run it
again). `--verbosity=1` shows where an error happened.
"""

from __future__ import annotations

from collections.abc import Mapping

from absl import app, flags
import jax
from ml_collections import config_flags

from simclr_jax import config as config_lib
from simclr_jax import console, evaluation, flag_errors
from simclr_jax.training import checkpoint, failures, loop, storage
from simclr_jax.training import run as run_lib
from simclr_jax.training.state import TrainState

_CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='Config file, e.g. configs/cifar10.py[:preset].'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of checkpoints and metrics, local or gs://.'
)
flags.adopt_module_key_flags(console)


def run(config: config_lib.Config, workdir: str) -> loop.Outcome:
  """Pretrains by `config` in `workdir`, resuming where it stopped.

  Raises:
    ValueError: If config, data and devices do not fit together, or the workdir
      belongs to another config.
  """
  parts = run_lib.make_run(config, workdir=workdir)
  evaluate_fn = make_evaluate_fn(parts, workdir)
  return loop.pretrain(parts, workdir, evaluate_fn=evaluate_fn)


def make_evaluate_fn(run: run_lib.Run, workdir: str) -> loop.EvaluateFn | None:
  """Periodic kNN on the test split; None where the config asks for none."""
  if not run.resolved.knn_every_steps:
    return None
  monitor = evaluation.KnnMonitor(run.config, workdir=workdir, train=run.source)

  def evaluate(run: run_lib.Run, state: TrainState) -> Mapping[str, float]:
    variables = {'params': state.params, 'batch_stats': state.model_state}
    return monitor.evaluate(run.model, variables, mesh=run.mesh)

  return evaluate


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  console.start()
  try:
    if len(argv) > 1:
      raise ValueError(f'unknown arguments {" ".join(argv[1:])}')
    config = config_lib.from_config_dict(_CONFIG.value)
    if console.DISTRIBUTED.value:
      jax.distributed.initialize()
    outcome = run(config, str(_WORKDIR.value))
  except ValueError as error:
    return console.fail(error, code=console.EXIT_WRONG_INPUT)
  except (
    failures.NonFiniteLoss,
    checkpoint.DamagedCheckpoint,
    storage.StorageFailed,
  ) as error:
    return console.fail(error, code=console.EXIT_FAILED)
  return 0 if outcome.finished else console.EXIT_STOPPED


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=flag_errors.parse)
