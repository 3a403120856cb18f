"""Linear probe: how well a linear classifier does on frozen features.

  python -m simclr_jax.linear_probe --checkpoint=WORKDIR
  python -m simclr_jax.linear_probe --checkpoint=WORKDIR --follow
  python -m simclr_jax.linear_probe --checkpoint=WORKDIR --random_init

The network and the preprocessing come from the checkpoint's passport; a field
is changed by --probe.FIELD, --data.FIELD or --eval.FIELD. The learning rate and
weight decay are selected on a part of the training split; the test split is
used once. Prints one line and writes WORKDIR/probe/*.json.

Exit codes: 0 done, 1 the number could not be written, 2 no honest number can
be given (the reason is on stderr), 69 another process was lost.
"""

from __future__ import annotations

from absl import flags

from simclr_jax import flag_errors, section_flags
from simclr_jax.evaluation import command_line, jobs

section_flags.define('probe')
flags.adopt_module_key_flags(command_line)


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  return command_line.run(argv, section='probe', judge_fn=jobs.run_probe)


if __name__ == '__main__':
  flag_errors.run(main, required=['checkpoint'])
