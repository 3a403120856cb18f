r"""Trains a classifier on labels, starting from a pretrained encoder.

  python -m simclr_jax.finetune --checkpoint=runs/mine --workdir=runs/mine_ft \
    --config=configs/finetune/few_labels.py
  python -m simclr_jax.finetune ... --config.labels.fraction=0.01 \
    --methods=finetune,scratch,frozen

Network, data and preprocessing come from the checkpoint's passport. The config
says which labels (--config.labels), how long and how fast, and from which layer
of the projection head on (--config.head_layer). `scratch` trains the same
network from its initialisation, `frozen` is a linear probe of the encoder, both
on the same labels. Prints a table and writes WORKDIR/finetune.json; WORKDIR is
a checkpoint that other commands read: with --step=best where a holdout chose
the step (--config.labels.holdout_fraction), else they take the newest. The test
split is used once.

The same command again resumes. While it trains, SIGTERM and Ctrl-C end it with
a checkpoint.

Exit codes: as `simclr_jax.main`: 0 finished, 1 failed, 2 wrong input, 3 needs
more memory than there is, 69 another process was lost, 75 stopped by a signal,
or by data that could not be read, after saving.
"""

from __future__ import annotations

from absl import flags

from simclr_jax import command_flags, flag_errors
from simclr_jax.finetuning import command_line, config, job, report

_METHODS = command_flags.DEFINE_string(
  'methods',
  'finetune',
  f'What to train and compare: some of {", ".join(job.METHODS)}.',
)
flags.adopt_module_key_flags(command_line)


def main(argv: list[str]) -> int:
  """Exit code of the command."""

  def read() -> tuple[config.FinetuneConfig, tuple[str, ...]]:
    settings = config.read_finetune(command_line.CONFIG.value)
    return settings, job.parse_methods(_METHODS.value)

  def train(
    asked: tuple[config.FinetuneConfig, tuple[str, ...]],
  ) -> report.Report | None:
    settings, methods = asked
    return job.finetune(
      settings,
      command_line.load_checkpoint(),
      workdir=command_line.WORKDIR.value,
      methods=methods,
      watchdog=command_line.make_watchdog(),
      check_memory=command_line.CHECK_MEMORY.value,
    )

  return command_line.run(
    argv, read=read, train=train, format_table=report.format_table
  )


if __name__ == '__main__':
  flag_errors.run(
    main,
    required=['config', 'checkpoint', 'workdir'],
    schema=config.FinetuneConfig,
  )
