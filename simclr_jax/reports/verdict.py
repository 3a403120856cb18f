"""The run beside its recipe card."""

from __future__ import annotations

from collections.abc import Sequence

from simclr_jax import cards
from simclr_jax.cards import check
from simclr_jax.reports import document

_HEADING = 'Against the recipe card'


def section(
  verdict: cards.Verdict | None,
) -> document.Section | document.Missing:
  """Every number that was compared; None of what is no pretraining run."""
  if verdict is None:
    return document.Missing(
      _HEADING, 'cards are of pretraining runs, and this is none'
    )
  if verdict.card is None or verdict.passed is None:
    why = 'no measured card for this recipe'
    if verdict.card is not None:
      why = f'nothing to compare with {verdict.card.name} yet'
    return document.Missing(_HEADING, '; '.join([why, *verdict.notes]))
  card = verdict.card
  bad = [point for point in verdict.points if not point.good]
  seeds = len(card.runs)
  return document.Section(
    _HEADING,
    f'{verdict.headline[:1].upper()}{verdict.headline[1:]}. Expected is what '
    f'{seeds} runs of {card.name} with different seeds gave ({card.hardware}), '
    'with the interval in which another run lies unless something is wrong: '
    'all numbers at once, in 99 of 100 cases.',
    tables=(
      _table(_last(verdict.points), folded=''),
      _table(
        verdict.points, folded=f'All {len(verdict.points)} numbers compared'
      ),
    ),
    warnings=tuple(
      f'Not as expected: {check.TITLES[p.metric]} {_where(p)} is '
      f'{p.value:.4g}, expected {p.expected.low:.4g} to {p.expected.high:.4g}.'
      for p in bad[:5]
    ),
    notes=verdict.notes,
    verdict='pass' if verdict.passed else 'fail',
  )


def _last(points: Sequence[check.Point]) -> list[check.Point]:
  """The last number of each kind."""
  found = {(p.metric, p.epoch is None): p for p in points}
  return list(found.values())


def _table(points: Sequence[check.Point], *, folded: str) -> document.Table:
  return document.Table(
    ('number', 'when', 'this run', 'expected', ''),
    [
      [
        document.Cell(check.TITLES[p.metric]),
        document.Cell(_where(p)),
        document.Cell(f'{p.value:.4g}'),
        document.Cell(
          f'{p.expected.mean:.4g}',
          f'{p.expected.low:.4g} to {p.expected.high:.4g}',
        ),
        document.Cell('as expected' if p.good else 'not as expected'),
      ]
      for p in points
    ],
    folded=folded,
  )


def _where(point: check.Point) -> str:
  return 'at the end' if point.epoch is None else f'in epoch {point.epoch}'
