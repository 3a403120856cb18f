from __future__ import annotations

import base64
from html.parser import HTMLParser
import re

from simclr_jax.evaluation import comparison, intervals, page

SCORE = comparison.Score(0.75, intervals.Interval(0.7, 0.8))
COMPARISON = comparison.Comparison(
  rows=tuple(
    comparison.Row(kind, SCORE, SCORE, SCORE, fingerprint='f')
    for kind in comparison.TITLES
  ),
  labels_per_class=1,
  knn_k=10,
  num_train=1442,
  num_test=355,
  num_classes=10,
  majority=0.101,
)


class _Balanced(HTMLParser):
  """Fails on a tag that is not closed where it should be."""

  def __init__(self):
    super().__init__()
    self.open: list[str] = []

  def handle_starttag(self, tag, attrs):
    if tag not in ('meta', 'img'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def _render(**changes):
  arguments = {
    'title': 'A & <b>',
    'facts': {'Network': 'ResNet-18 <script>'},
    'pictures': [page.Picture('Curves', 'a "caption"', b'\x89PNG bytes')],
    'comparison': COMPARISON,
  }
  arguments.update(changes)
  return page.render(
    arguments['title'],
    arguments['facts'],
    arguments['pictures'],
    comparison=arguments['comparison'],
  )


def test_is_complete_in_itself_and_well_formed():
  text = _render()
  parser = _Balanced()
  parser.feed(text)
  assert not parser.open
  assert not re.search(r'(src|href)="(?!data:)', text)
  (encoded,) = re.findall(r'base64,([^"]+)"', text)
  assert base64.b64decode(encoded) == b'\x89PNG bytes'


def test_escapes_what_it_is_given():
  text = _render()
  assert '<script>' not in text
  assert 'A &amp; &lt;b&gt;' in text


def test_table_has_every_encoder():
  text = _render()
  for title in comparison.TITLES.values():
    assert f'<td>{title}</td>' in text
  assert text.count('75.0% <span>70.0% to 80.0%</span>') == 9
  assert 'probe, 1 label per class' in text


def test_without_labels_there_is_no_table():
  assert '<table' not in _render(comparison=None)
