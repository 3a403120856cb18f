r"""Accuracy against the number of labels: fine-tuned, from scratch, frozen.

  python -m simclr_jax.label_efficiency --checkpoint=runs/mine \
    --workdir=runs/mine_labels --config=configs/finetune/few_labels.py \
    --labels=1,5,20,all --seeds=3

--labels are numbers of labels per class, shares ('1%') or 'all'. Every method
is given the same labels; a seed chooses these and the order of training. Prints
a table and writes WORKDIR/label_efficiency.json and .png; every classifier has
its folder in WORKDIR. The same command again goes on where it was stopped.

Exit codes: as `simclr_jax.main`: 0 finished, 1 failed, 2 wrong input, 69
another process was lost, 75 stopped by a signal after saving.
"""

from __future__ import annotations

import functools
import sys

from absl import app, flags
import jax

from simclr_jax import flag_errors, processes
from simclr_jax.finetuning import budgets, command_line, config, job, sweep

_LABELS = flags.DEFINE_string(
  'labels',
  '1,5,20,all',
  "Numbers of labels per class, shares of all labels ('1%'), or 'all'.",
)
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Seeds: 0 to this less 1.')
_METHODS = flags.DEFINE_string(
  'methods', ','.join(job.METHODS), 'What to compare.'
)
flags.adopt_module_key_flags(command_line)


def main(argv: list[str]) -> int:
  """Exit code of the command."""

  def work() -> bool:
    with processes.together():
      settings = config.read_finetune(command_line.CONFIG.value)
      methods = job.parse_methods(_METHODS.value)
      asked = budgets.parse_budgets(_LABELS.value)
      if not 1 <= _SEEDS.value <= 1000:
        raise ValueError(f'--seeds={_SEEDS.value}: 1 to 1000 are possible')
    found = sweep.sweep(
      settings,
      command_line.load_checkpoint(),
      workdir=command_line.WORKDIR.value,
      budgets=asked,
      seeds=_SEEDS.value,
      methods=methods,
      watchdog=command_line.make_watchdog(),
    )
    if found is not None and jax.process_index() == 0:
      print(sweep.format_table(found), flush=True)
      print(f'-> {found["file"]} and {found["plot"]}', file=sys.stderr)
    return found is not None

  return command_line.run(argv, work)


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'checkpoint', 'workdir'])
  app.run(
    main,
    flags_parser=functools.partial(
      flag_errors.parse, schema=config.FinetuneConfig
    ),
  )
