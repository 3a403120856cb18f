"""What h knows of a picture and z has forgotten: table 3 of the SimCLR paper.

  python -m simclr_jax.probe_transforms --checkpoint=WORKDIR
  python -m simclr_jax.probe_transforms --checkpoint=WORKDIR --tasks=rotation

A linear probe on h (the backbone's output, which is what one uses) and one on z
(the projection head's, which the loss sees) tell whether a picture is in colour
or grey, how it is rotated, whether it has noise, and its class. Each picture of
a split is there once, in one variant at random. Network and preprocessing come
from the checkpoint's passport; a field is changed by --probe.FIELD,
--data.FIELD (--data.train_split='train[:20%]' is faster) or --eval.FIELD.
The probe is linear, on all labels and standardised features, whatever
the passport says. Writes WORKDIR/probe/*.json; other --tasks or --noise_std
than the default ones have a file of their own, which no report shows.

Exit codes: 0 done, 1 the table could not be written, 2 no honest number can
be given (the reason is on stderr), 69 another process was lost.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from simclr_jax import command_flags, flag_errors, section_flags
from simclr_jax.evaluation import command_line, jobs, transform_probe

_TASKS = command_flags.DEFINE_list(
  'tasks',
  list(transform_probe.DEFAULT_TASKS),
  'What to tell from h and z.',
)
_NOISE_STD = command_flags.DEFINE_float(
  'noise_std',
  transform_probe.NOISE_STD,
  'Standard deviation of the noise, of pixels in [0, 1].',
)
section_flags.define('probe')
flags.adopt_module_key_flags(command_line)


def main(argv: list[str]) -> int:
  """Exit code of the command."""

  def judge_fn(subject: jobs.Subject, **options: Any) -> jobs.Report:
    # Also a value that the passport has already: who gives it counts on it.
    given = section_flags.given(('probe',)).get('probe', {})
    transform_probe.check_fields(given)
    return transform_probe.run(
      subject, tasks=_TASKS.value, noise_std=_NOISE_STD.value, **options
    )

  return command_line.run(
    argv,
    section='probe',
    judge_fn=judge_fn,
    summary_fn=transform_probe.format_table,
    same=(_TASKS, _NOISE_STD),
  )


if __name__ == '__main__':
  flag_errors.run(main, required=['checkpoint'])
