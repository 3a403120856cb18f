"""The report as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
import html
from typing import NamedTuple

from simclr_jax.evaluation import comparison as comparison_lib

_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --muted: #616e7c;
  --line: #e4e7eb; --accent: #2563eb; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink);
  max-width: 1000px; margin: 2.5rem auto; padding: 0 1.25rem;
  background: white; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem;
  margin: 2.4rem 0 .4rem; }
p, figcaption { color: var(--muted); margin: .3rem 0 .8rem; }
figure { margin: 0; } img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .45rem 1.4rem .45rem 0;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; font-size: .9rem; }
td span { color: var(--muted); font-size: .85rem; }
tr.ours td { font-weight: 600; color: var(--accent); }
dl { display: grid; grid-template-columns: max-content 1fr;
  gap: .15rem 1.4rem; } dt { color: var(--muted); } dd { margin: 0; }
"""


class Picture(NamedTuple):
  """A figure of the page: heading, what it shows, and its PNG."""

  heading: str
  caption: str
  png: bytes


def render(
  title: str,
  facts: Mapping[str, str],
  pictures: Sequence[Picture],
  *,
  comparison: comparison_lib.Comparison | None,
) -> str:
  """The page.

  Args:
    title: Of the run.
    facts: What was trained, by name.
    pictures: In order.
    comparison: The table; None where there are no labels to judge by.
  """
  parts = [f'<h1>{html.escape(title)}</h1>', _facts(facts)]
  if comparison is not None:
    parts.append(_table(comparison))
  for picture in pictures:
    encoded = base64.b64encode(picture.png).decode()
    parts.append(
      f'<h2>{html.escape(picture.heading)}</h2><figure>'
      f'<figcaption>{html.escape(picture.caption)}</figcaption>'
      f'<img alt="{html.escape(picture.heading)}" '
      f'src="data:image/png;base64,{encoded}"></figure>'
    )
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n'
    f'<body>{"".join(parts)}</body></html>\n'
  )


def _facts(facts: Mapping[str, str]) -> str:
  items = ''.join(
    f'<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>'
    for name, value in facts.items()
  )
  return f'<dl>{items}</dl>'


def _table(comparison: comparison_lib.Comparison) -> str:
  columns = comparison.columns()
  head = ''.join(f'<th>{html.escape(heading)}</th>' for heading in columns)
  notes = ''.join(f'<p>{html.escape(note)}</p>' for note in comparison.notes)
  lines = []
  for i, row in enumerate(comparison.rows):
    cells = ''.join(
      f'<td>{column[i].top1:.1%} <span>{column[i].interval.low:.1%} to '
      f'{column[i].interval.high:.1%}</span></td>'
      for column in columns.values()
    )
    mark = ' class="ours"' if row.kind == 'checkpoint' else ''
    title = html.escape(comparison_lib.TITLES[row.kind])
    lines.append(f'<tr{mark}><td>{title}</td>{cells}</tr>')
  return (
    '<h2>What was learnt</h2>'
    f'<p>Top-1 accuracy on {comparison.num_test:,} held-out images, with 95 % '
    'intervals over them. The commonest class alone gives '
    f'{comparison.majority:.1%}.</p><div class="scroll"><table><tr>'
    f'<th></th>{head}</tr>{"".join(lines)}</table></div>{notes}'
  )
