"""What is drawn, and names that would be markup."""

import numpy as np
from PIL import Image
import pytest

from simclr_jax.retrieval import pictures, sheets


def line(names, **kwargs):
  pixels = np.zeros((8, 8, 3), np.uint8)
  tiles = [
    sheets.Tile(pictures.thumbnail(pixels, side=sheets.SIDE), '0.5', name)
    for name in names
  ]
  return sheets.Line('title', tiles, **kwargs)


def test_names_are_never_markup():
  evil = '<script>alert(1)</script>"\n'
  text = sheets.page('t', 'e', [line([evil])])
  assert '<script' not in text and '&lt;script' in text
  sheets.draw('t', [line([evil, 'Ω漢字'])])


def test_queries_have_rows_of_their_own_and_groups_share_them(tmp_path):
  tiles, gap = 128 + 10, 10
  query = line(['a', 'b', 'c'], is_query=True)
  sheet = sheets.draw('t', [query, line(['a', 'b'], is_query=True)])
  assert sheet.width == 2 * 24 + 3 * tiles - gap + 3 * gap
  row = 24 + 128 + 34 + 10
  assert sheet.height == 24 + 34 + 2 * row + 12
  # Pairs: three, then a row of seven, then one more that has no room.
  groups = [line('ab'), line('ab'), line('ab'), line('abcdefg'), line('ab')]
  assert sheets.draw('t', groups).height == 24 + 34 + 3 * row + 12
  path = tmp_path / 'x.png'
  sheets.write(str(path), 't', 'e', lines=[query] * 99)
  with Image.open(path) as image:
    assert image.height == 24 + 34 + 40 * row + 12


def test_small_pictures_keep_their_pixels():
  pixels = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)  # 1 x 2
  tile = np.asarray(pictures.thumbnail(pixels, side=128))
  assert tile.shape == (128, 128, 3)
  middle = tile[64]
  assert (middle[:64] == (255, 0, 0)).all()
  assert (middle[64:] == (0, 0, 255)).all()
  assert (tile[0] == 255).all()
  assert (
    np.ptp(np.asarray(pictures.thumbnail(None, side=16)), (0, 1)).max() == 0
  )


def test_bad_paths_are_refused_before_the_work(tmp_path):
  with pytest.raises(ValueError, match='is a folder'):
    (tmp_path / 'x.png').mkdir()
    sheets.check_path(str(tmp_path / 'x.png'))
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='name another file'):
    sheets.check_path(str(tmp_path / 'file' / 'y.png'))


def test_a_name_that_is_no_text_can_be_written(tmp_path):
  path = tmp_path / 'x.html'
  named = line(['\udcff.png'])._replace(tiles=[])
  sheets.write(str(path), 'set \udcff', 'e', lines=[named])
  assert '\\udcff' in path.read_text()
