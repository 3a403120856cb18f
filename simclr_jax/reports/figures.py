"""Small plots of a report: one panel each, in the style of evaluation.plots.

Panels stand side by side on a wide page and below each other on a phone, so
each is a figure of its own, with text that is legible at 320 px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np

from simclr_jax.evaluation import plots
from simclr_jax.evaluation.plots import BLUE, GRID, INK, MUTED, ORANGE

# Told apart also by people who do not see red and green (Okabe and Ito 2008,
# without yellow, which is invisible on white); lines differ in dashes, too.
COLOURS = (
  BLUE,
  ORANGE,
  '#009e73',
  '#cc79a7',
  '#5b5bd6',
  '#8c6d1f',
  '#56b4e9',
  '#b22234',
  '#3f7f5f',
  '#6b7280',
)
_DASHES = ('-', '--', '-.', ':')
_SIZE = (4.1, 2.8)  # inches
_DPI = 150


@dataclasses.dataclass(frozen=True)
class Reference:
  """A level to compare a curve with.

  Attributes:
    value: On the axis of the curve.
    label: What it is.
    below: Whether the label stands under its line.
  """

  value: float
  label: str
  below: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
  """Points over the steps.

  Attributes:
    label: For the legend; '' where there is only one line.
    points: (step, value), by step.
    intervals: (low, high) of every point; None without.
  """

  label: str
  points: Sequence[tuple[int, float]]
  intervals: Sequence[tuple[float, float]] | None = None


def curve(
  lines: Sequence[Line],
  *,
  title: str,
  reference: Reference | None = None,
  from_zero: bool = False,
  percent: bool = False,
) -> Figure:
  """Lines over the steps of training.

  Args:
    lines: At least one.
    title: Of the panel.
    reference: A dashed level.
    from_zero: Whether the axis starts at 0.
    percent: Whether values are shares, shown in per cent.
  """
  figure, axes = _panel()
  factor = 100.0 if percent else 1.0
  for i, line in enumerate(lines):
    steps, values = np.array(line.points, float).T
    style: dict[str, Any] = {
      'color': COLOURS[i % len(COLOURS)],
      'lw': 1.7,
      'ls': _DASHES[i // len(COLOURS) % len(_DASHES)],
      'marker': 'o' if len(steps) <= 25 else None,
      'ms': 4,
      'label': line.label,
    }
    values = factor * values
    axes.plot(steps, values, **style)
    if line.intervals is not None:
      low, high = factor * np.array(line.intervals, float).T
      axes.vlines(steps, low, high, color=style['color'], lw=1.4, alpha=0.6)
  if reference is not None:
    _draw_reference(axes, reference, factor)
  if from_zero:
    axes.set_ylim(bottom=0)
    # Room above the highest point, and for a level that lies on the axis.
    axes.margins(y=0.08)
  plots.style_axes(axes, title + (' (%)' if percent else ''))
  if any(line.label for line in lines):
    # Accuracies rise; 'best' sees no intervals.
    _legend(axes, place='lower right' if percent else 'best')
  return figure


def _draw_reference(axes: Any, reference: Reference, factor: float) -> None:
  axes.axhline(factor * reference.value, color=MUTED, lw=1.2, ls='--')
  axes.annotate(
    f'{reference.label}: {factor * reference.value:.3g}',
    (1, factor * reference.value),
    xycoords=('axes fraction', 'data'),
    xytext=(-4, -4 if reference.below else 4),
    textcoords='offset points',
    ha='right',
    va='top' if reference.below else 'bottom',
    color=MUTED,
    fontsize=9,
  )


def histograms(
  values: Mapping[str, np.ndarray], *, title: str, label: str
) -> Figure:
  """Densities over one another.

  Args:
    values: Name -> numbers; each is scaled to the same area.
    title: Of the panel.
    label: Of the axis.
  """
  figure, axes = _panel()
  everything = np.concatenate([v.ravel() for v in values.values()])
  low, high = float(everything.min()), float(everything.max())
  # Also where all values are the same.
  margin = max(1e-3, 0.02 * (high - low))
  bins = np.linspace(low - margin, high + margin, 61)
  for i, (name, numbers) in enumerate(values.items()):
    axes.hist(
      numbers.ravel(),
      bins=bins,
      density=True,
      histtype='stepfilled',
      color=(COLOURS[i], 0.28),
      edgecolor=COLOURS[i],
      lw=1.4,
      ls=_DASHES[i % len(_DASHES)],
      label=name,
    )
  plots.style_axes(axes, title)
  axes.set_xlabel(label, fontsize=9, color=MUTED)
  axes.set_yticks([])
  _legend(axes)
  return figure


def scatter(
  places_nx2: np.ndarray,
  groups: Mapping[str, np.ndarray],
  *,
  others: np.ndarray | None = None,
) -> Figure:
  """Points on a plane, groups in colours, with their names among them.

  Args:
    places_nx2: Where the points lie.
    groups: Name -> rows.
    others: Rows in grey.
  """
  figure = Figure(figsize=(5.6, 5.6), layout='constrained')
  axes = figure.subplots()
  if others is not None and len(others):
    x, y = places_nx2[others].T
    axes.scatter(x, y, s=9, color='#c5ccd4', lw=0)
  for i, (name, rows) in enumerate(groups.items()):
    colour = COLOURS[i % len(COLOURS)]
    x, y = places_nx2[rows].T
    axes.scatter(x, y, s=13, color=colour, alpha=0.75, lw=0)
    # The densest place of a class that lies in pieces is better than the
    # middle, where nothing may be.
    axes.annotate(
      name,
      places_nx2[rows][_densest(places_nx2[rows])],
      ha='center',
      va='center',
      fontsize=10,
      weight='bold',
      color=INK,
      parse_math=False,  # names come from whoever made the data
      bbox={
        'boxstyle': 'round,pad=.22',
        'fc': (1, 1, 1, 0.85),
        'ec': colour,
        'lw': 1.4,
      },
    )
  _bare(axes)
  return figure


def picture_map(
  places_nx2: np.ndarray, images: np.ndarray, *, per_side: int
) -> tuple[Figure, np.ndarray]:
  """Pictures where their embeddings lie, as many as do not overlap.

  Args:
    places_nx2: Where the points lie.
    images: f32 [n,H,W,3] in [0,1].
    per_side: Cells of the grid along each side; of the points of a cell the one
      nearest to its middle is shown.

  Returns:
    The figure and the rows that are shown.
  """
  low, high = places_nx2.min(0), places_nx2.max(0)
  cells_nx2 = (places_nx2 - low) / np.maximum(high - low, 1e-9) * per_side
  cells_nx2 = np.clip(cells_nx2, 0, per_side - 1e-6)
  index_nx2 = cells_nx2.astype(int)
  gaps_n = np.linalg.norm(cells_nx2 - index_nx2 - 0.5, axis=1)
  shown: dict[tuple[int, int], int] = {}
  for row in np.argsort(gaps_n, kind='stable'):
    shown.setdefault((int(index_nx2[row, 0]), int(index_nx2[row, 1])), int(row))
  height, width = images.shape[1:3]
  canvas = np.ones((per_side * height, per_side * width, 3), np.float32)
  for (column, line), row in shown.items():
    top = (per_side - 1 - line) * height
    canvas[top : top + height, column * width : (column + 1) * width] = images[
      row
    ]
  figure = Figure(figsize=(5.6, 5.6))
  axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
  axes.imshow(np.clip(canvas, 0, 1), interpolation='nearest')
  _bare(axes)
  return figure, np.array(sorted(shown.values()))


def to_png(figure: Figure) -> bytes:
  """The panel as a PNG, at twice the resolution of a page."""
  buffer = io.BytesIO()
  FigureCanvasAgg(figure).print_figure(
    buffer, format='png', dpi=_DPI, facecolor='white', metadata={'Software': ''}
  )
  return buffer.getvalue()


def _panel() -> tuple[Figure, Any]:
  figure = Figure(figsize=_SIZE, layout='constrained')
  return figure, figure.subplots()


def _legend(axes: Any, *, place: str = 'best') -> None:
  axes.legend(
    loc=place,
    fontsize=8.5,
    frameon=True,
    framealpha=0.85,
    edgecolor=GRID,
    labelcolor=INK,
  )


def _bare(axes: Any) -> None:
  axes.set_xticks([])
  axes.set_yticks([])
  for spine in axes.spines.values():
    spine.set_color(GRID)


def _densest(places_nx2: np.ndarray) -> int:
  """Row with the nearest third of its group closest by.

  Fewer would be content with two strays beside each other.
  """
  gaps = np.linalg.norm(places_nx2[:, None] - places_nx2[None], axis=-1)
  return int(np.argmin(np.sort(gaps, axis=1)[:, len(places_nx2) // 3]))
