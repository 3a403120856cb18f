"""Contact sheets: lines of pictures as a PNG, or as one page of HTML."""

from __future__ import annotations

import base64
from collections.abc import Sequence
import html
import os
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from simclr_jax import out_file, writes
from simclr_jax.data.names import printable
from simclr_jax.retrieval import pictures

SIDE = 128  # pixels of a picture
FORMATS = ('.png', '.html')
# More would be no picture, but a file that no program opens.
MAX_LINES = {'.png': 40, '.html': 400}
_INK, _MUTED, _LINE = (31, 41, 51), (97, 110, 124), (228, 231, 235)
_SAME, _OTHER = (37, 99, 235), (217, 115, 13)
_GAP, _MARGIN, _TEXT = 10, 24, 34
# Tiles of a row that groups share, and between two of them.
_COLUMNS, _BETWEEN = 8.8, 0.2
_CHARACTERS = 20  # of a caption under a picture

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2933; margin: 2rem;
  background: white; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
p { color: #616e7c; margin: .2rem 0 1.4rem; max-width: 60rem; }
section { border-top: 1px solid #e4e7eb; padding: 1rem 0; }
section.group { display: inline-block; vertical-align: top;
  margin-right: 2rem; }
h2 { font-size: .95rem; font-weight: 600; margin: 0 0 .6rem;
  overflow-wrap: anywhere; }
div { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; width: 128px; } figure.query { margin-right: 1.4rem; }
img { width: 128px; height: 128px; border: 1px solid #e4e7eb; padding: 2px;
  border-radius: 4px; box-sizing: border-box; display: block; }
img.same { border: 3px solid #2563eb; padding: 0; }
img.other { border: 3px solid #d9730d; padding: 0; }
figcaption { font-size: .78rem; color: #616e7c; overflow-wrap: anywhere; }
figcaption b { color: #1f2933; }
"""


class Tile(NamedTuple):
  """A picture with two lines under it.

  Attributes:
    image: Square, SIDE pixels.
    caption: Short.
    name: Of the picture; its end is shown where it is long.
    mark: 'same' and 'other' draw a blue or orange frame; '' none.
  """

  image: Image.Image
  caption: str
  name: str = ''
  mark: str = ''


class Line(NamedTuple):
  """Pictures that belong together.

  Attributes:
    title: Over them.
    tiles: Of them.
    is_query: Whether the first is what the others were found with.
  """

  title: str
  tiles: Sequence[Tile]
  is_query: bool = False


def check_path(path: str, *, flag: str = 'out') -> str:
  """Extension of a sheet's file; raises before any work is done.

  Raises:
    ValueError: If it is none, or cannot be written.
  """
  extension = os.path.splitext(path)[1].lower()
  if extension not in FORMATS:
    raise ValueError(
      f'--{flag}={path}: a file that ends in {" or ".join(FORMATS)} is wanted'
    )
  out_file.check(path, flag=flag, local=True)
  return extension


def write(
  path: str, title: str, explanation: str, *, lines: Sequence[Line]
) -> None:
  """Writes a sheet, whole or not at all.

  Args:
    path: Ends in one of FORMATS.
    title: Heading.
    explanation: What is seen, for a page.
    lines: At most MAX_LINES are drawn.
  """
  extension = check_path(path)
  lines = lines[: MAX_LINES[extension]]
  if extension == '.png':
    content = pictures.to_bytes(draw(title, lines))
  else:
    # Names need not be valid text.
    text = page(title, explanation, lines)
    content = text.encode('utf-8', 'backslashreplace')
  writes.whole(path, content)


def draw(title: str, lines: Sequence[Line]) -> Image.Image:
  """The sheet as one picture; lines without a query share rows."""
  rows = _pack(lines)
  columns = max(_end(row) for row in rows)
  query_gap = 3 * _GAP if any(line.is_query for line in lines) else 0
  height_of_row = 24 + SIDE + _TEXT + _GAP
  width = 2 * _MARGIN + round(columns * (SIDE + _GAP)) - _GAP + query_gap
  top = _MARGIN + 34
  sheet = Image.new(
    'RGB', (width, top + len(rows) * height_of_row + _MARGIN // 2), 'white'
  )
  canvas = ImageDraw.Draw(sheet)
  canvas.text((_MARGIN, _MARGIN - 4), title, _INK, ImageFont.load_default(20))
  for number, row in enumerate(rows):
    y = top + number * height_of_row
    for first, line in row:
      x = _MARGIN + round(first * (SIDE + _GAP))
      room = width - x - _MARGIN
      if line is not row[-1][1]:
        room = round(len(line.tiles) * (SIDE + _GAP))
      text = _shorten(line.title, room // 7)
      canvas.text((x, y), text, _INK, ImageFont.load_default(14))
      for column, tile in enumerate(line.tiles):
        at = x + column * (SIDE + _GAP)
        at += query_gap if column and line.is_query else 0
        _draw_tile(canvas, sheet, tile, at, y + 24)
  return sheet


# Lines with the column that each starts in.
_Row = list[tuple[float, Line]]


def _pack(lines: Sequence[Line]) -> list[_Row]:
  """Groups of two or three stand beside each other, with a gap between."""
  rows: list[_Row] = []
  for line in lines:
    start = _end(rows[-1]) + _BETWEEN if rows else 0.0
    if not rows or line.is_query or start + len(line.tiles) > _COLUMNS:
      rows.append([(0.0, line)])
    else:
      rows[-1].append((start, line))
  return rows


def _end(row: _Row) -> float:
  first, line = row[-1]
  return first + len(line.tiles)


def _draw_tile(
  canvas: ImageDraw.ImageDraw, sheet: Image.Image, tile: Tile, x: int, y: int
) -> None:
  sheet.paste(tile.image, (x, y))
  color = {'same': _SAME, 'other': _OTHER}.get(tile.mark, _LINE)
  box = (x - 2, y - 2, x + SIDE + 1, y + SIDE + 1)
  canvas.rectangle(box, outline=color, width=3 if tile.mark else 1)
  font = ImageFont.load_default(13)
  canvas.text((x, y + SIDE + 4), tile.caption, _INK, font)
  name = _shorten(tile.name, _CHARACTERS)
  canvas.text((x, y + SIDE + 19), name, _MUTED, ImageFont.load_default(11))


def _shorten(text: str, most: int) -> str:
  """The end of a long text: of a path what tells files apart."""
  text = printable(text)
  return text if len(text) <= most else '...' + text[3 - most :]


def page(title: str, explanation: str, lines: Sequence[Line]) -> str:
  """The sheet as HTML that needs nothing beside it."""
  parts = [f'<h1>{html.escape(title)}</h1><p>{html.escape(explanation)}</p>']
  for line in lines:
    tiles = ''.join(
      _figure(tile, is_query=line.is_query and number == 0)
      for number, tile in enumerate(line.tiles)
    )
    heading = html.escape(printable(line.title))
    kind = '' if line.is_query else ' class="group"'
    parts.append(
      f'<section{kind}><h2>{heading}</h2><div>{tiles}</div></section>'
    )
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n'
    f'<body>{"".join(parts)}</body></html>\n'
  )


def _figure(tile: Tile, *, is_query: bool) -> str:
  png = pictures.to_bytes(tile.image)
  jpeg = pictures.to_bytes(tile.image, small=False)
  # Enlarged small pictures are smaller as PNG, photographs as JPEG.
  kind, content = ('png', png) if len(png) < 2 * len(jpeg) else ('jpeg', jpeg)
  encoded = base64.b64encode(content).decode()
  name = html.escape(printable(tile.name))
  return (
    f'<figure{" class=query" if is_query else ""}>'
    f'<img class="{tile.mark}" alt="{name}" '
    f'src="data:image/{kind};base64,{encoded}">'
    f'<figcaption><b>{html.escape(tile.caption)}</b><br>{name}</figcaption>'
    '</figure>'
  )
