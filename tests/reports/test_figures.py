from __future__ import annotations

import io

import numpy as np
from PIL import Image
import pytest

from simclr_jax.reports import figures


def test_curve_shows_shares_in_per_cent_with_their_level():
  line = figures.Line('', [(1, 0.1), (5, 0.4)], [(0.05, 0.2), (0.3, 0.5)])
  figure = figures.curve(
    [line],
    title='accuracy',
    reference=figures.Reference(0.25, 'guessing'),
    percent=True,
  )
  (axes,) = figure.axes
  np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 10], [5, 40]])
  assert axes.lines[1].get_ydata()[0] == 25
  (bars,) = axes.collections
  np.testing.assert_allclose(
    [segment[:, 1] for segment in bars.get_segments()], [[5, 20], [30, 50]]
  )
  assert axes.get_legend() is None
  assert 'guessing: 25' in [text.get_text() for text in axes.texts]


def test_lines_of_one_panel_are_told_apart():
  lines = [figures.Line(f'line {i}', [(1, i), (2, i)]) for i in range(12)]
  (axes,) = figures.curve(lines, title='x').axes
  looks = {(str(x.get_color()), str(x.get_linestyle())) for x in axes.lines}
  assert len(looks) == 12
  assert len(axes.get_legend().get_texts()) == 12


@pytest.mark.parametrize('value', [0.0, 1.0, -0.5])
def test_histogram_of_one_value(value):
  figure = figures.histograms(
    {'a': np.full(5, value, np.float32), 'b': np.full(3, value, np.float32)},
    title='t',
    label='cosine',
  )
  low, high = figure.axes[0].get_xlim()
  assert low < value < high
  figures.to_png(figure)


def test_picture_map_shows_the_nearest_to_each_cell():
  # Cells of a 2 x 2 grid over [0, 1]^2; two points in the lower left one.
  places = np.array([[0, 0], [0.3, 0.3], [1, 0], [1, 1.0]])
  images = np.zeros((4, 3, 3, 3), np.float32)
  images[:, :, :, 0] = np.array([0.1, 0.2, 0.3, 0.4])[:, None, None]
  figure, shown = figures.picture_map(places, images, per_side=2)
  np.testing.assert_array_equal(shown, [1, 2, 3])
  canvas = np.asarray(figure.axes[0].images[0].get_array())
  # Rows of an image run downward, the map's axis upward.
  assert canvas.shape == (6, 6, 3)
  np.testing.assert_allclose(
    [canvas[4, 1, 0], canvas[4, 4, 0], canvas[1, 4, 0], canvas[1, 1, 0]],
    [0.2, 0.3, 0.4, 1.0],
    atol=1e-6,
  )


def test_names_stand_among_their_points():
  generator = np.random.default_rng(0)
  places = np.concatenate(
    [generator.normal(0, 0.1, (30, 2)), generator.normal(5, 0.1, (30, 2))]
  )
  places[:3] = (5, 5)  # Strays of the first class, beside each other.
  figure = figures.scatter(
    places, {'near': np.arange(30), 'far': np.arange(30, 60)}
  )
  at = {text.get_text(): text.xy for text in figure.axes[0].texts}
  assert np.linalg.norm(np.subtract(at['near'], 0)) < 0.5
  assert np.linalg.norm(np.subtract(at['far'], 5)) < 0.5


def test_same_figure_same_bytes():
  def png():
    return figures.to_png(
      figures.curve([figures.Line('', [(1, 2.0), (2, 3.0)])], title='t')
    )

  assert png() == png()
  assert Image.open(io.BytesIO(png())).size == (615, 420)


def test_a_class_name_is_no_formula():
  places = np.random.default_rng(0).normal(size=(6, 2))
  groups = {'$a_$b': np.arange(3), r'$\frac$': np.arange(3, 6)}
  assert figures.to_png(figures.scatter(places, groups))[:4] == b'\x89PNG'
