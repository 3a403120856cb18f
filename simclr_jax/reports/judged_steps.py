"""Probe and kNN by step: what the commands and the monitor have measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import re
from typing import Any

import numpy as np

from simclr_jax.evaluation import intervals as intervals_lib
from simclr_jax.evaluation import jobs, transform_probe
from simclr_jax.reports import document, figures
from simclr_jax.reports.run_data import RunData, finite

_HEADING = 'Accuracy by step'
_MONITOR = 'kNN during training'
_JOBS = {'linear_probe': 'linear probe', 'knn': 'kNN'}


def section(
  run: RunData, *, num_test: int = 0
) -> document.Section | document.Missing:
  """One line for each way of judging, with intervals.

  Args:
    run: To show.
    num_test: Held-out pictures that the monitor has judged on; 0 if that is
      not known, then its line has no intervals.
  """
  measured, notes = _measured(run)
  lines = [
    figures.Line(
      name,
      [(step, top1) for step, (top1, _) in sorted(by_step.items())],
      [interval for _, (_, interval) in sorted(by_step.items())],
    )
    for name, by_step in sorted(measured.items())
  ]
  if monitor := finite(run.series('knn_top1')):
    intervals = [
      _of_share(top1, num_test, run.config.knn.num_bootstrap)
      for _, top1 in monitor
      if num_test
    ]
    lines.append(figures.Line(_MONITOR, monitor, intervals or None))
    notes.append(
      f'{_MONITOR} judges with a bank of at most '
      f'{run.config.monitor.knn_max_bank:,} training pictures '
      'with a label (monitor.knn_max_bank).'
    )
  if not lines:
    return document.Missing(
      _HEADING,
      'nobody has judged this run: WORKDIR/probe is empty (simclr_jax.'
      'linear_probe and simclr_jax.knn write it; --follow judges every '
      "checkpoint), and monitor.knn_every = '0 steps'",
    )
  rows = [
    [
      document.Cell(line.label),
      document.Cell(f'{step:,}'),
      document.Cell(f'{value:.1%}', _interval(line, i)),
    ]
    for line in lines
    for i, (step, value) in enumerate(line.points)
  ]
  return document.Section(
    _HEADING,
    'Top-1 on the test split, with 95 % intervals over its pictures, not over '
    'seeds.',
    pictures=_pictures(lines),
    tables=(
      document.Table(
        ('judged by', 'step', 'top-1'),
        rows,
        folded=f'All {len(rows)} numbers' if len(rows) > 6 else '',
      ),
    ),
    notes=tuple(notes),
  )


def _pictures(lines: Sequence[figures.Line]) -> tuple[document.Picture, ...]:
  """The plot, where there is more than one step."""
  if len({step for line in lines for step, _ in line.points}) < 2:
    return ()
  last = '; '.join(
    f'{line.label} {line.points[-1][1]:.1%} at step {line.points[-1][0]:,}'
    for line in lines
  )
  return (
    document.Picture(
      'accuracy-by-step',
      figures.to_png(figures.curve(lines, title='top-1', percent=True)),
      alt=f'Top-1 accuracy by step. Last: {last}.',
    ),
  )


def _of_share(
  top1: float, num_test: int, num_bootstrap: int
) -> tuple[float, float]:
  """The interval that the monitor would have found: only a share is logged."""
  correct_n = np.arange(num_test) < round(top1 * num_test)
  return intervals_lib.bootstrap_accuracy(
    correct_n, num_resamples=num_bootstrap
  )


def _interval(line: figures.Line, i: int) -> str:
  if line.intervals is None:
    return ''
  low, high = line.intervals[i]
  return f'{low:.1%} to {high:.1%}'


_Scores = dict[str, dict[int, tuple[float, tuple[float, float]]]]


def _measured(run: RunData) -> tuple[_Scores, list[str]]:
  """Name -> step -> (top-1, interval), of WORKDIR/probe; and notes."""
  found: _Scores = {}
  notes: list[str] = []
  folder = run.workdir / jobs.FOLDER
  files = sorted(folder.glob('*-step*.json')) if folder.exists() else []
  for file in files:
    if file.name.startswith(transform_probe.NAME):
      continue  # Another section shows it.
    try:
      report = json.loads(file.read_text())
      name, step = _name(file.name, report), int(report['step'])
      result = report['result']
      best = result.get('headline', result)
      low, high = (float(v) for v in best['top1_interval'])
      score = float(best['top1'])
    except (KeyError, TypeError, ValueError, AttributeError):
      notes.append(f'{file.name} is left out: no result of probe or kNN.')
      continue
    if step <= run.loaded.step:
      found.setdefault(name, {})[step] = (score, (low, high))
  return found, notes


def _name(file: str, report: Mapping[str, Any]) -> str:
  """For people: 'kNN, k = 20', 'linear probe, random_init'.

  Raises:
    KeyError: If it is the report of another job.
  """
  name = _JOBS[report['job']]
  # What the file name says beyond the job: a baseline, few labels, a hash of
  # overridden fields. Numbers that are not comparable must not share a line.
  variant = re.sub(r'-step\d+\.json$', '', file).removeprefix(report['job'])
  if 'headline' in report['result']:
    name += f', k = {report["result"]["headline"]["k"]}'
  return f'{name}, {variant.strip("-")}' if variant else name
