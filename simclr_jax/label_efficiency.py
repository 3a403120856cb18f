r"""Accuracy against the number of labels: fine-tuned, from scratch, frozen.

  python -m simclr_jax.label_efficiency --checkpoint=runs/mine \
    --workdir=runs/mine_labels --config=configs/finetune/few_labels.py \
    --labels=1,5,20,all --seeds=3

--labels are numbers of labels per class, shares ('1%') or 'all'. Every method
is given the same labels; a seed chooses these and the order of training. Prints
a table and writes WORKDIR/label_efficiency.json and .png; every classifier has
its folder in WORKDIR. The same command again goes on where it was stopped.

Exit codes: as `simclr_jax.main`: 0 finished, 1 failed, 2 wrong input, 3 needs
more memory than there is, 69 another process was lost, 75 stopped by a signal,
or by data that could not be read, after saving.
"""

from __future__ import annotations

from typing import NamedTuple

from absl import flags

from simclr_jax import command_flags, flag_errors
from simclr_jax.finetuning import (
  budgets,
  command_line,
  config,
  job,
  report,
  sweep,
)

_LABELS = command_flags.DEFINE_string(
  'labels',
  '1,5,20,all',
  "Numbers of labels per class, shares of all labels ('1%'), or 'all'.",
)
_SEEDS = command_flags.DEFINE_integer('seeds', 3, 'Seeds: 0 to this less 1.')
_METHODS = command_flags.DEFINE_string(
  'methods', ','.join(job.METHODS), 'What to compare.'
)
flags.adopt_module_key_flags(command_line)


class _Asked(NamedTuple):
  """What the flags ask for."""

  settings: config.FinetuneConfig
  methods: tuple[str, ...]
  budgets: tuple[budgets.Budget, ...]


def _read() -> _Asked:
  if not 1 <= _SEEDS.value <= 1000:
    raise ValueError(f'--seeds={_SEEDS.value}: 1 to 1000 are possible')
  return _Asked(
    settings=config.read_finetune(command_line.CONFIG.value),
    methods=job.parse_methods(_METHODS.value),
    budgets=budgets.parse_budgets(_LABELS.value),
  )


def main(argv: list[str]) -> int:
  """Exit code of the command."""

  def train(asked: _Asked) -> report.Report | None:
    return sweep.sweep(
      asked.settings,
      command_line.load_checkpoint(),
      workdir=command_line.WORKDIR.value,
      budgets=asked.budgets,
      seeds=_SEEDS.value,
      methods=asked.methods,
      watchdog=command_line.make_watchdog(),
      check_memory=command_line.CHECK_MEMORY.value,
    )

  return command_line.run(
    argv, read=_read, train=train, format_table=sweep.format_table
  )


if __name__ == '__main__':
  flag_errors.run(
    main,
    required=['config', 'checkpoint', 'workdir'],
    schema=config.FinetuneConfig,
  )
