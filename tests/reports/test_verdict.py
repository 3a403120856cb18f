from __future__ import annotations

import dataclasses

from simclr_jax import cards
from simclr_jax.cards import card as card_lib
from simclr_jax.cards import check
from simclr_jax.cards.expectation import Expected
from simclr_jax.reports import document, verdict
from tests import small_run

CARD = card_lib.Card('the recipe', small_run.CONFIG, {}, 'c', 'a box', {}, ())
GOOD = check.Point('contrast_loss', 1, 5.0, Expected(5.1, 4.9, 5.3), True)
BAD = check.Point('contrast_loss', 2, 9.0, Expected(5.0, 4.8, 5.2), False)
LAST = check.Point('knn_top1', None, 0.5, Expected(0.5, 0.4, 0.6), True)


def test_a_failure_is_a_warning_and_a_mark():
  found = verdict.section(
    cards.Verdict(CARD, (GOOD, BAD, LAST), False, ('a note',))
  )
  assert found.verdict == 'fail' and found.notes == ('a note',)
  (warning,) = found.warnings
  assert warning == (
    'Not as expected: contrast loss in epoch 2 is 9, expected 4.8 to 5.2.'
  )
  assert '1 of 3 numbers are not as expected' in found.text
  last, every = found.tables
  assert [row[1].text for row in last.rows] == ['in epoch 2', 'at the end']
  assert len(every.rows) == 3 and every.folded


def test_a_pass_has_no_warning():
  made = cards.Verdict(CARD, (GOOD, LAST), True, ())
  found = verdict.section(made)
  assert found.verdict == 'pass' and found.warnings == ()


def test_without_a_card_it_says_what_is_known():
  missing = verdict.section(cards.Verdict(None, (), None, ('known: 12 %',)))
  assert isinstance(missing, document.Missing)
  assert missing.reason.endswith('known: 12 %')
  unmeasured = dataclasses.replace(
    cards.Verdict(CARD, (), None, ()), passed=None
  )
  early = verdict.section(unmeasured)
  assert isinstance(early, document.Missing)
  assert early.reason == 'nothing to compare with the recipe yet'
