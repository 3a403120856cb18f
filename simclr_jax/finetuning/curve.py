"""The picture of a label-efficiency sweep."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter
import numpy as np

from simclr_jax.evaluation import plots
from simclr_jax.finetuning import report

_COLORS = {
  'finetune': plots.BLUE,
  'frozen': plots.ORANGE,
  'scratch': plots.MUTED,
}


def draw(found: Mapping[str, Any]) -> Figure:
  """Accuracy by number of labels: a line through the means, a dot per seed.

  The axis begins below the lowest dot; the dashed line, where it is in sight,
  is what guessing the commonest class gives.

  Args:
    found: Report of `sweep.sweep`.
  """
  figure = Figure(figsize=(6.6, 4.2), layout='constrained')
  axes = figure.subplots()
  lines: dict[str, list[Mapping[str, Any]]] = {}
  for row in found['summary']:
    lines.setdefault(row['method'], []).append(row)
  ends = []
  for position, (method, rows) in enumerate(lines.items()):
    rows = sorted(rows, key=lambda row: row['num_labels'])
    labels = np.array([row['num_labels'] for row in rows])
    means = np.array([row['top1_mean'] for row in rows])
    color = _COLORS[method]
    axes.plot(labels, means, color=color, lw=2, zorder=3)
    # Side by side, else the dots of one method hide another's.
    aside = 1.05 ** (position - (len(lines) - 1) / 2)
    for row in rows:
      axes.plot(
        [row['num_labels'] * aside] * len(row['top1']),
        row['top1'],
        'o',
        color=color,
        ms=4.5,
        mec='white',
        mew=0.6,
        zorder=4,
      )
    ends.append((float(means[-1]), report.TITLES[method], color))
  lowest = min(min(row['top1']) for row in found['summary'])
  bottom = max(0.0, math.floor(10 * (lowest - 0.04)) / 10)
  if found['majority'] > bottom:
    axes.axhline(found['majority'], color=plots.GRID, lw=1.4, ls='--')
  axes.set_ylim(bottom, 1)
  _name_lines(axes, ends, step=0.06 * (1 - bottom))
  ticks = sorted({row['num_labels'] for row in found['summary']})
  axes.set_xscale('log')
  axes.set_xticks(ticks, [f'{tick:,}' for tick in ticks])
  axes.xaxis.set_minor_locator(NullLocator())
  axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  axes.set_xlabel('labels', fontsize=9, color=plots.MUTED)
  seeds = len(found['summary'][0]['top1'])
  axes.set_title(
    f'top-1 on {found["data"]["test"]["name"]}, {seeds} '
    f'seed{"s" if seeds > 1 else ""}',
    loc='left',
    fontsize=10.5,
    color=plots.INK,
  )
  axes.grid(color=plots.GRID, lw=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(labelsize=8.5, colors=plots.MUTED, length=0)
  for side, spine in axes.spines.items():
    spine.set_visible(side in ('left', 'bottom'))
    spine.set_color(plots.GRID)
  return figure


def _name_lines(
  axes: Any, ends: list[tuple[float, str, str]], *, step: float
) -> None:
  """Names at the right, the best first, moved down where ends are close."""
  height = math.inf
  for value, title, color in sorted(ends, reverse=True):
    height = min(value, height - step)
    axes.annotate(
      title,
      (1, height),
      xycoords=('axes fraction', 'data'),
      xytext=(8, 0),
      textcoords='offset points',
      va='center',
      color=color,
      fontsize=9,
      annotation_clip=False,
    )
