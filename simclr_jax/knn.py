"""kNN: how well the nearest training images tell the class of a test image.

  python -m simclr_jax.knn --checkpoint=WORKDIR
  python -m simclr_jax.knn --checkpoint=WORKDIR --knn.ks=20,200
  python -m simclr_jax.knn --checkpoint=WORKDIR --features=raw_pixels

Cosine similarity, plain votes and votes weighted by exp(similarity /
temperature), for every k and temperature of the config. The line on stdout is
for the first of each: none is selected on the test split. The network and the
preprocessing come from the checkpoint's passport; a field is changed by
--knn.FIELD, --data.FIELD or --eval.FIELD. Writes WORKDIR/probe/*.json.

Exit codes: 0 done, 1 the number could not be written, 2 no honest number can
be given (the reason is on stderr), 69 another process was lost.
"""

from __future__ import annotations

from absl import flags

from simclr_jax import flag_errors, section_flags
from simclr_jax.evaluation import command_line, jobs

section_flags.define('knn')
flags.adopt_module_key_flags(command_line)


def main(argv: list[str]) -> int:
  """Exit code of the command."""
  return command_line.run(argv, section='knn', judge_fn=jobs.run_knn)


if __name__ == '__main__':
  flag_errors.run(main, required=['checkpoint'])
