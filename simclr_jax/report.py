"""Shows what a run did and learnt: a table, and a page to look at.

  python -m simclr_jax.report --workdir=runs/demo
  python -m simclr_jax.report --workdir=runs/demo --check_recipe

Writes WORKDIR/report/: report.html (complete in itself, no network), pictures
of use elsewhere as PNG, and comparison.json. Model, data and preprocessing come
from the checkpoint's passport (a field is changed by --data.FIELD, such as
--data.path=PLACE where the images have been moved, or --eval.FIELD); features
are shared with the probe's and kNN's cache. What a run does not hold is left
out, and the page says so.
--workdir is of a pretraining run, of finetune or distill (`--step=best` where a
holdout chose the step), or of imported weights; the page says which.
`--check_recipe` writes no page: it compares a pretraining run with the card of
its recipe.

Exit codes: 0 done (the run passes), 1 the run is not what its recipe is known
to give, 2 wrong input, or nothing to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
import os

from absl import flags, logging

from simclr_jax import cards, command_parser, console, paths, reports
from simclr_jax.evaluation import comparison as comparison_lib
from simclr_jax.training import checkpoint, choice


def main(arguments: Sequence[str] | None = None) -> int:
  """The command."""
  parser = _make_parser()
  options = parser.parse_args(arguments)
  if not options.workdir:
    parser.error('--workdir= is empty; it must name a path')
  # absl's log wants its flags read; the command's own are argparse's.
  flags.FLAGS(['report'])
  logging.use_absl_handler()
  try:
    console.start()
    options.workdir = paths.read(options.workdir)
    step = choice.parse_step(options.step)
    if options.check_recipe:
      return cards.announce(cards.check_recipe(options.workdir, step=step))
    report = reports.make_report(
      options.workdir,
      labels_per_class=options.labels_per_class,
      step=step,
      overrides=command_parser.sections(options),
    )
  except (ValueError, checkpoint.DamagedCheckpoint) as error:
    return console.fail(error, code=console.EXIT_WRONG_INPUT)
  except OSError as error:
    return console.fail(error, code=console.EXIT_FAILED)
  if report.comparison is None:
    print(f'No table: {report.no_table}.')
  else:
    print(comparison_lib.format_table(report.comparison, titles=report.titles))
  if report.verdict is not None:
    print(f'\n{report.verdict.headline}')
  print(f'To look at: {os.fspath(report.page)}')
  return 0


def _make_parser() -> command_parser.ArgumentParser:
  parser = command_parser.ArgumentParser()
  parser.add_argument(
    '--workdir',
    required=True,
    help='Folder of the run, of a classifier or of imported weights.',
  )
  parser.add_argument(
    '--labels_per_class',
    type=int,
    default=5,
    help='Of the probe with few labels.',
  )
  parser.add_argument(
    '--step',
    default='',
    help="Step of the checkpoint, or 'best'; default: the newest.",
  )
  parser.add_argument(
    '--check_recipe',
    action='store_true',
    help='Only compare the run with the card of its recipe.',
  )
  for section in ('data', 'eval'):
    parser.add_section(section)
  return parser


if __name__ == '__main__':
  console.leave(main)
