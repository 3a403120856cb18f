"""Pictures of a run: curves, pairs of views, nearest neighbours.

Drawn with matplotlib's objects, not pyplot: no global state, no display.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import io
import math
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np

INK, MUTED, GRID = '#1f2933', '#7b8794', '#e4e7eb'
BLUE, ORANGE = '#2563eb', '#d9730d'
_DPI = 110
_TILE = 0.62  # inches
_PAIRS_PER_LINE = 6


def training_curves(
  records: Sequence[Mapping[str, Any]], *, batch_size: int, scale: str
) -> Figure:
  """Loss, contrastive accuracy and learning rate over the steps.

  The dashed lines are what embeddings that ignore the image give: log(2B - 1)
  on the paper's scale, twice that on the official one; 1 / B for the accuracy.

  Args:
    records: Lines of metrics.jsonl, with 'step'.
    batch_size: B, images.
    scale: `LossConfig.scale`.

  Raises:
    ValueError: If no record has a step and a loss.
  """
  chance_loss = math.log(2 * batch_size - 1) * (2 if scale == 'official' else 1)
  panels = [
    ('contrast_loss', 'contrastive loss', chance_loss, 'all alike'),
    ('contrast_acc', 'contrastive accuracy', 1 / batch_size, 'guessing'),
    ('learning_rate', 'learning rate', None, ''),
  ]
  figure = Figure(figsize=(11, 3.1), layout='constrained')
  for axes, (name, title, chance, label) in zip(
    figure.subplots(1, len(panels)), panels, strict=True
  ):
    points = [(r['step'], float(r[name])) for r in records if name in r]
    if not points:
      raise ValueError(
        f'no line of the metrics holds {name!r}; there is nothing to draw'
      )
    steps, values = np.array(points, float).T
    axes.plot(steps, values, color=BLUE, lw=1.6)
    if chance is not None:
      axes.axhline(chance, color=ORANGE, lw=1.2, ls='--')
      # Above the accuracy's line, below the loss's: where no curve runs.
      below = name == 'contrast_loss'
      axes.annotate(
        f'{label}: {chance:.3g}',
        (1, chance),
        xycoords=('axes fraction', 'data'),
        xytext=(-4, -5 if below else 5),
        textcoords='offset points',
        ha='right',
        va='top' if below else 'bottom',
        color=ORANGE,
        fontsize=8.5,
      )
    if name == 'contrast_acc':
      axes.set_ylim(0, max(1.05 * values.max(), 4 / batch_size))
    style_axes(axes, title)
  return figure


def style_axes(axes: Any, title: str) -> None:
  """The look of all plots: a title at the left, a light grid, no box."""
  axes.set_title(title, loc='left', fontsize=10.5, color=INK)
  axes.set_xlabel('step', fontsize=9, color=MUTED)
  axes.grid(color=GRID, lw=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(labelsize=8.5, colors=MUTED, length=0)
  for side, spine in axes.spines.items():
    spine.set_visible(side in ('left', 'bottom'))
    spine.set_color(GRID)


def view_sheet(originals: np.ndarray, views: np.ndarray) -> Figure:
  """Images beside the augmented views that training pulls together.

  Args:
    originals: f32 [n,H,W,3] in [0,1].
    views: f32 [n,V,H,W,3] in [0,1].
  """
  tiles = np.concatenate([originals[:, None], views], axis=1)
  num_views = views.shape[1]
  blocks = 3 if len(tiles) >= 3 else 1
  per_block = -(-len(tiles) // blocks)
  columns = blocks * (num_views + 1)
  grid = _Grid(
    per_block, columns, gaps=range(num_views + 1, columns, num_views + 1)
  )
  for position, row in enumerate(tiles):
    block, line = divmod(position, per_block)
    for offset, image in enumerate(row):
      grid.draw(line, block * (num_views + 1) + offset, image)
  for block in range(min(blocks, -(-len(tiles) // per_block))):
    first = block * (num_views + 1)
    grid.title(first, 'image')
    for view in range(num_views):
      grid.title(first + 1 + view, f'view {view + 1}')
  return grid.figure


def pair_sheet(
  pairs: np.ndarray, *, matches: np.ndarray | None = None
) -> Figure:
  """Pairs of pictures that are alike, several in a line.

  Args:
    pairs: f32 [n,2,H,W,3] in [0,1].
    matches: [n]: whether they are of one class, drawn as blue or orange
      frames; None, for all or for one of them, where there are no labels.
  """
  blocks = min(_PAIRS_PER_LINE, len(pairs))
  columns = 2 * blocks
  grid = _Grid(-(-len(pairs) // blocks), columns, gaps=range(2, columns, 2))
  for position, pair in enumerate(pairs):
    line, block = divmod(position, blocks)
    frame = None
    if matches is not None and matches[position] is not None:
      frame = BLUE if matches[position] else ORANGE
    for offset, image in enumerate(pair):
      grid.draw(line, 2 * block + offset, image, frame=frame)
  return grid.figure


def neighbour_sheet(
  queries: np.ndarray,
  neighbours: Mapping[str, np.ndarray],
  *,
  matches: Mapping[str, np.ndarray] | None = None,
) -> Figure:
  """Held-out images and their nearest training images, by encoder.

  Args:
    queries: f32 [q,H,W,3] in [0,1].
    neighbours: Title -> f32 [q,k,H,W,3], nearest first; the same k for all.
    matches: Title -> bool [q,k]: whether the class is the query's, drawn as a
      blue or orange frame; None without labels.
  """
  count = next(iter(neighbours.values())).shape[1]
  starts = [1 + i * count for i in range(len(neighbours))]
  grid = _Grid(len(queries), 1 + count * len(neighbours), gaps=starts)
  grid.title(0, 'query')
  for start, (title, images) in zip(starts, neighbours.items(), strict=True):
    grid.title(start, title, left=True)
    for row in range(len(queries)):
      for rank in range(count):
        frame = None
        if matches is not None and matches[title][row, rank] is not None:
          frame = BLUE if matches[title][row, rank] else ORANGE
        grid.draw(row, start + rank, images[row, rank], frame=frame)
  for row, image in enumerate(queries):
    grid.draw(row, 0, image)
  return grid.figure


class _Grid:
  """Square tiles in rows and columns, with wider gaps before some columns."""

  def __init__(self, rows: int, columns: int, *, gaps: Any = ()):
    gap, margin, head = 0.35, 0.06, 0.42
    self._left = margin + np.array(
      [c + gap * sum(c >= g for g in gaps) for c in range(columns)]
    )
    self._width = self._left[-1] + 1 + margin
    self._height = rows + head + margin
    self._top = self._height - head
    self.figure = Figure(figsize=(_TILE * self._width, _TILE * self._height))

  def _place(
    self, left: float, bottom: float, size: float
  ) -> tuple[float, float, float, float]:
    return (
      left / self._width,
      bottom / self._height,
      size / self._width,
      size / self._height,
    )

  def draw(
    self, row: int, column: int, image: np.ndarray, *, frame: str | None = None
  ) -> None:
    """One tile; `frame` is the colour of a border."""
    size = 0.92
    axes = self.figure.add_axes(
      self._place(self._left[column], self._top - row - size, size)
    )
    axes.imshow(np.clip(image, 0, 1), interpolation='nearest')
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
      spine.set_color(frame or GRID)
      spine.set_linewidth(2.4 if frame else 0.8)

  def title(self, column: int, text: str, *, left: bool = False) -> None:
    """Text over a column, centred on it or starting at its left edge."""
    x = self._left[column] + (0 if left else 0.46)
    self.figure.text(
      x / self._width,
      (self._top + 0.1) / self._height,
      text,
      ha='left' if left else 'center',
      va='bottom',
      fontsize=9,
      color=MUTED,
    )


def to_png(figure: Figure) -> bytes:
  """The figure as a PNG, the same bytes for the same figure."""
  buffer = io.BytesIO()
  FigureCanvasAgg(figure).print_figure(
    buffer, format='png', dpi=_DPI, facecolor='white', metadata={'Software': ''}
  )
  return buffer.getvalue()
