r"""Trains a student on what a fine-tuned teacher says of unlabelled pictures.

  python -m simclr_jax.distill --checkpoint=runs/mine_ft \
    --workdir=runs/student --config=configs/distill/student.py
  python -m simclr_jax.distill ... --config.student.depth=18

--checkpoint is a workdir of `simclr_jax.finetune`; of it the step that its
holdout chose is taken (--step says otherwise). Pictures are those of the
teacher's training split, or others (--config.data); labels are read only where
--config.labelled_weight gives them a share of the loss. Prints a table and
writes WORKDIR/distill.json; WORKDIR is a checkpoint that other commands read:
with --step=best where a holdout chose the step (--config.use_holdout).

The same command again resumes. While it trains, SIGTERM and Ctrl-C end it with
a checkpoint.

Exit codes: as `simclr_jax.main`: 0 finished, 1 failed, 2 wrong input, 3 needs
more memory than there is, 69 another process was lost, 75 stopped by a signal,
or by data that could not be read, after saving.
"""

from __future__ import annotations

from absl import flags

from simclr_jax import flag_errors
from simclr_jax.finetuning import command_line, config, distillation, report

flags.adopt_module_key_flags(command_line)


def main(argv: list[str]) -> int:
  """Exit code of the command."""

  def train(settings: config.DistillConfig) -> report.Report | None:
    return distillation.distill(
      settings,
      command_line.load_chosen(),
      workdir=command_line.WORKDIR.value,
      watchdog=command_line.make_watchdog(),
      check_memory=command_line.CHECK_MEMORY.value,
    )

  return command_line.run(
    argv,
    read=lambda: config.read_distill(command_line.CONFIG.value),
    train=train,
    format_table=report.format_table,
  )


if __name__ == '__main__':
  flag_errors.run(
    main,
    required=['config', 'checkpoint', 'workdir'],
    schema=config.DistillConfig,
  )
