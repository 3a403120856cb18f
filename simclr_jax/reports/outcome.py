"""The table of a job of its own: what `finetune` or `distill` has judged."""

from __future__ import annotations

from collections.abc import Mapping
import json
from typing import Any

from simclr_jax.evaluation import occurring
from simclr_jax.finetuning import report as report_lib
from simclr_jax.reports import document, kinds
from simclr_jax.reports.run_data import RunData

_COLUMNS = ('', 'top-1', 'top-5', 'step', 'labels')


def sections(run: RunData) -> tuple[document.Section | document.Missing, ...]:
  """One, or none where such a checkpoint has no table."""
  result = kinds.of(run).result
  if result is None:
    return ()
  heading, name = result
  file = run.workdir / name
  if not file.exists():
    reason = (
      f'there is no {name} in the workdir: the job had not come to its end, or '
      'this is one of several networks of a job, whose table lies in the '
      'folder above'
    )
    return (document.Missing(heading, reason),)
  try:
    return (_section(run, heading, json.loads(file.read_text())),)
  except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
    return (document.Missing(heading, f'{name} cannot be read ({error!r})'),)


def _section(
  run: RunData, heading: str, report: Mapping[str, Any]
) -> document.Section:
  rows, first = report['rows'], report['rows'][0]['accuracy']
  mine = run.passport['objective']
  ours = tuple(i for i, row in enumerate(rows) if row['kind'] == mine)
  notes = [
    f'{report_lib.TITLES[row["kind"]]}: {note}'
    for row in rows
    for note in row.get('notes') or ()
  ]
  notes += [
    f'The table is of step {rows[i]["step"]:,}; the rest of this page is of '
    f'step {run.loaded.step:,}.'
    for i in ours
    if rows[i]['step'] != run.loaded.step
  ]
  return document.Section(
    heading,
    f'Top-1 accuracy of the classifiers on {first["num_images"]:,} test images '
    f'of {occurring.classes_text(first["num_test_classes"])}, with 95 % '
    'intervals over them. The commonest class alone gives '
    f'{first["majority"]:.1%}.',
    tables=(
      document.Table(_COLUMNS, [_row(row) for row in rows], highlighted=ours),
    ),
    notes=tuple(notes),
  )


def _row(row: Mapping[str, Any]) -> list[document.Cell]:
  accuracy = row['accuracy']
  low, high = accuracy['top1_interval']
  top5, step = accuracy['top5'], row['step']
  chosen = row.get('holdout_top1')
  return [
    document.Cell(report_lib.TITLES[row['kind']]),
    document.Cell(f'{accuracy["top1"]:.1%}', f'{low:.1%} to {high:.1%}'),
    document.Cell('-' if top5 is None else f'{top5:.1%}'),
    document.Cell(
      '-' if step is None else f'{step:,} of {row["total_steps"]:,}',
      '' if chosen is None else f'chosen by a holdout, {chosen:.1%} there',
    ),
    document.Cell(f'{row["num_labels"]:,}'),
  ]
