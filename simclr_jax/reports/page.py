"""The report as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
import html
import re

from simclr_jax.reports import document as document_lib
from simclr_jax.reports.style import STYLE

# The page may show what it holds and nothing else, wherever it is opened.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MISSING = 'Not shown'


def render(document: document_lib.Document) -> str:
  """The page: no script, no request, every picture inside."""
  title = html.escape(document.title)
  headings = [section.heading for section in document.shown]
  if document.missing:
    headings.append(_MISSING)
  parts = [f'<header><h1>{title}</h1>', _facts(document.facts)]
  parts.append(_contents(headings) + '</header><main>')
  parts += [_section(section) for section in document.shown]
  if document.missing:
    rows = ''.join(
      f'<tr><th scope="row">{html.escape(m.heading)}</th>'
      f'<td>{html.escape(m.reason)}</td></tr>'
      for m in document.missing
    )
    parts.append(
      f'<section>{_heading(_MISSING)}<p>What this run does not hold, or what '
      'could not be shown honestly.</p><div class="scroll"><table><tbody>'
      f'{rows}</tbody></table></div></section>'
    )
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    # An empty icon: a browser would ask the server for one.
    '<link rel="icon" href="data:,">'
    f'<title>{title}</title><style>{STYLE}</style></head>\n'
    f'<body>{"".join(parts)}</main></body></html>\n'
  )


def _anchor(heading: str) -> str:
  return re.sub('[^a-z0-9]+', '-', heading.lower()).strip('-')


def _heading(heading: str, verdict: str = '') -> str:
  mark = f'<span class="mark {verdict}">{verdict}</span>' if verdict else ''
  return f'<h2 id="{_anchor(heading)}">{html.escape(heading)}{mark}</h2>'


def _facts(facts: Sequence[tuple[str, str]]) -> str:
  items = ''.join(
    f'<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>'
    for name, value in facts
  )
  return f'<dl>{items}</dl>'


def _contents(headings: Sequence[str]) -> str:
  links = ''.join(
    f'<li><a href="#{_anchor(heading)}">{html.escape(heading)}</a></li>'
    for heading in headings
  )
  return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'


def _section(section: document_lib.Section) -> str:
  parts = [_heading(section.heading, section.verdict)]
  if section.text:
    parts.append(f'<p>{html.escape(section.text)}</p>')
  if section.warnings:
    items = ''.join(f'<li>{html.escape(w)}</li>' for w in section.warnings)
    parts.append(f'<ul class="warnings">{items}</ul>')
  for form in ('plot', 'map', 'sheet'):
    found = [_figure(p) for p in section.pictures if p.form == form]
    if found:
      parts.append(f'<div class="{form}s">{"".join(found)}</div>')
  parts += [_table(table) for table in section.tables]
  parts += [
    f'<p class="notes">{html.escape(note)}</p>' for note in section.notes
  ]
  return f'<section>{"".join(parts)}</section>'


def _figure(picture: document_lib.Picture) -> str:
  encoded = base64.b64encode(picture.png).decode()
  caption = ''
  if picture.caption:
    caption = f'<figcaption>{html.escape(picture.caption)}</figcaption>'
  # Width and height, so that nothing jumps while pictures are decoded.
  width, height = _png_size(picture.png)
  return (
    f'<figure class="{picture.form}">'
    f'<img alt="{html.escape(picture.alt)}" width="{width}" height="{height}" '
    f'src="data:image/png;base64,{encoded}">{caption}</figure>'
  )


def _png_size(png: bytes) -> tuple[int, int]:
  """(width, height) in pixels, from the header (PNG specification, IHDR)."""
  return int.from_bytes(png[16:20], 'big'), int.from_bytes(png[20:24], 'big')


def _table(table: document_lib.Table) -> str:
  head = ''.join(
    f'<th scope="col">{html.escape(heading)}</th>' for heading in table.columns
  )
  lines = []
  for i, row in enumerate(table.rows):
    first, *others = row
    cells = ''.join(f'<td>{_cell(cell)}</td>' for cell in others)
    mark = ' class="ours"' if i in table.highlighted else ''
    lines.append(f'<tr{mark}><th scope="row">{_cell(first)}</th>{cells}</tr>')
  text = (
    f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
    f'<tbody>{"".join(lines)}</tbody></table></div>'
  )
  if not table.folded:
    return text
  summary = html.escape(table.folded)
  return f'<details><summary>{summary}</summary>{text}</details>'


def _cell(cell: document_lib.Cell) -> str:
  note = f' <span>{html.escape(cell.note)}</span>' if cell.note else ''
  return f'{html.escape(cell.text)}{note}'
