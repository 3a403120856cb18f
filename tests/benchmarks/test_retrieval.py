"""The committed page is what the committed numbers give."""

import json
import pathlib

import pytest

from benchmarks import retrieval_page

RESULT = pathlib.Path(__file__).parents[2] / 'docs/results/retrieval_cpu'


@pytest.fixture(scope='module')
def result():
  return json.loads((RESULT / 'result.json').read_text())


def test_page_is_generated(result):
  page = retrieval_page.make_page(RESULT.name, result)
  assert (RESULT / 'README.md').read_text() == page


def test_pretraining_helps_and_every_row_beats_chance(result):
  """Else a label or a picture has been shifted."""
  best = {}
  for kind, rows in result['rows'].items():
    for row in rows:
      assert row['ranking']['map'] > row['ranking']['chance']
    best[kind] = max(row['ranking']['map'] for row in rows)
  assert best['checkpoint'] > best['random_init']
