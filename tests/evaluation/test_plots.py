from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image
import pytest

from simclr_jax.evaluation import plots

RECORDS = [
  {
    'step': step,
    'contrast_loss': 5.0 - 0.1 * step,
    'contrast_acc': 0.1 * step,
    'learning_rate': 1.0,
  }
  for step in range(1, 6)
]


def _pixels(figure) -> np.ndarray:
  image = Image.open(io.BytesIO(plots.to_png(figure)))
  return np.asarray(image.convert('RGB'))


@pytest.mark.parametrize('scale,factor', [('official', 2), ('paper', 1)])
def test_curves_show_values_and_chance(scale, factor):
  figure = plots.training_curves(RECORDS, batch_size=8, scale=scale)
  loss, accuracy, rate = figure.axes
  curve, chance = loss.lines
  np.testing.assert_array_equal(curve.get_xdata(), [1, 2, 3, 4, 5])
  np.testing.assert_allclose(curve.get_ydata(), [4.9, 4.8, 4.7, 4.6, 4.5])
  assert chance.get_ydata()[0] == factor * math.log(15)
  assert accuracy.lines[1].get_ydata()[0] == 1 / 8
  assert len(rate.lines) == 1


def test_curves_take_sparse_records_and_written_nans():
  records = [{'step': 3, 'knn_top1': 0.5}, *RECORDS]
  records += [{**RECORDS[-1], 'step': 6, 'contrast_loss': 'NaN'}]
  figure = plots.training_curves(records, batch_size=8, scale='paper')
  assert len(figure.axes[0].lines[0].get_xdata()) == 6


def test_curves_without_metrics_say_so():
  with pytest.raises(ValueError, match='contrast_loss'):
    plots.training_curves([{'step': 1}], batch_size=8, scale='paper')


def _colour(index: int, *shape: int) -> np.ndarray:
  """A picture that is one recognisable colour."""
  colour = np.array([index % 5, index // 5 % 5, index // 25]) / 5 + 0.1
  return np.broadcast_to(colour, (*shape, 3)).astype(np.float32)


def _shown(figure) -> list[np.ndarray]:
  """Colours of the tiles, line by line."""
  tiles = sorted(
    figure.axes,
    key=lambda a: (-round(a.get_position().y0, 3), a.get_position().x0),
  )
  return [np.asarray(a.images[0].get_array())[0, 0] for a in tiles]


def test_view_sheet_keeps_views_beside_their_image():
  originals = np.stack([_colour(3 * i, 4, 4) for i in range(6)])
  views = np.stack(
    [
      np.stack([_colour(3 * i + 1, 4, 4), _colour(3 * i + 2, 4, 4)])
      for i in range(6)
    ]
  )
  shown = _shown(plots.view_sheet(originals, views))
  # Three blocks of two images; the second line holds images 1, 3 and 5.
  wanted = [3 * i + part for i in (0, 2, 4, 1, 3, 5) for part in range(3)]
  np.testing.assert_allclose(shown, [_colour(j, 1, 1)[0, 0] for j in wanted])


@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_view_sheet_of_few_images(count):
  figure = plots.view_sheet(
    np.zeros((count, 4, 4, 3)), np.zeros((count, 2, 4, 4, 3))
  )
  assert len(figure.axes) == 3 * count


def test_neighbour_sheet_frames_matches():
  queries = np.zeros((2, 4, 4, 3))
  images = {'a': np.zeros((2, 3, 4, 4, 3)), 'b': np.zeros((2, 3, 4, 4, 3))}
  matches = {'a': np.ones((2, 3), bool), 'b': np.zeros((2, 3), bool)}
  figure = plots.neighbour_sheet(queries, images, matches=matches)
  colours = [a.spines['top'].get_edgecolor() for a in figure.axes]
  assert len(colours) == 2 + 12
  assert len(set(colours)) == 3
  pixels = _pixels(figure).reshape(-1, 3).astype(int)
  for name in (plots.BLUE, plots.ORANGE):
    colour = [int(name[i : i + 2], 16) for i in (1, 3, 5)]
    assert (np.abs(pixels - colour).max(-1) < 8).sum() > 100

  plain = plots.neighbour_sheet(queries, images)
  assert len({a.spines['top'].get_edgecolor() for a in plain.axes}) == 1


def test_same_figure_same_bytes():
  def png():
    return plots.to_png(
      plots.training_curves(RECORDS, batch_size=8, scale='paper')
    )

  assert png() == png()


def test_pairs_stand_side_by_side():
  pairs = np.zeros((7, 2, 4, 4, 3))
  figure = plots.pair_sheet(pairs, matches=np.arange(7) % 2 == 0)
  assert len(figure.axes) == 14
  places = [axes.get_position() for axes in figure.axes]
  assert places[0].y0 == places[1].y0 > places[12].y0
  # The two of a pair are nearer to each other than to the next pair.
  assert places[1].x0 - places[0].x0 < places[2].x0 - places[1].x0
