"""Pretrains an encoder.

  python -m simclr_jax.main --config=configs/imagenet.py --workdir=gs://b/run

The same command again resumes. Exit codes: 0 finished, 1 failed, 2 the command
or config is wrong, 75 stopped by a signal after saving (run it again).
"""

from __future__ import annotations

from collections.abc import Mapping
import sys

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import config_flags

from simclr_jax import config as config_lib
from simclr_jax import evaluation
from simclr_jax.training import loop
from simclr_jax.training import run as run_lib
from simclr_jax.training.state import TrainState

EXIT_WRONG_INPUT = 2
EXIT_STOPPED = 75  # sysexits.h EX_TEMPFAIL: the same command continues.

_CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='Config file, e.g. configs/cifar10.py[:preset].'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of checkpoints and metrics, local or gs://.'
)
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed',
  False,
  'Call jax.distributed.initialize() first: one process per host of a TPU pod '
  'slice, GKE or SLURM job.',
)


def run(config: config_lib.Config, workdir: str) -> loop.Outcome:
  """Pretrains by `config` in `workdir`, resuming where it stopped."""
  parts = run_lib.make_run(config, workdir=workdir)
  return loop.pretrain(parts, workdir, evaluate_fn=make_evaluate_fn(config))


def make_evaluate_fn(
  config: config_lib.Config,
) -> loop.EvaluateFn | None:
  """Periodic kNN on the test split, or None where the config asks for none."""
  if config.monitor.knn_every.split()[0].strip('0.') == '':
    return None
  monitor = evaluation.KnnMonitor(config)

  def evaluate(run: run_lib.Run, state: TrainState) -> Mapping[str, float]:
    variables = {'params': state.params, 'batch_stats': state.model_state}
    return monitor.evaluate(run.model, variables, mesh=run.mesh)

  return evaluate


def main(argv: list[str]) -> int:
  if len(argv) > 1:
    print(f'error: unknown arguments {argv[1:]}', file=sys.stderr)
    return EXIT_WRONG_INPUT
  logging.set_verbosity(logging.INFO)
  try:
    config = config_lib.from_config_dict(_CONFIG.value)
    if _DISTRIBUTED.value:
      jax.distributed.initialize()
    outcome = run(config, _WORKDIR.value)
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return EXIT_WRONG_INPUT
  return 0 if outcome.finished else EXIT_STOPPED


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  sys.exit(app.run(main))
