"""The card of a recipe, before or after it has been trained."""

from __future__ import annotations

from collections.abc import Sequence

from simclr_jax import config as config_lib
from simclr_jax.cards import card as card_lib


def require_card(
  config: config_lib.Config, *, fingerprint: str, continues: bool
) -> None:
  """Refuses a recipe that could not be compared once it has been trained.

  Args:
    config: Of the run.
    fingerprint: Of its training split.
    continues: Whether it goes on from another run.

  Raises:
    ValueError: If there is no measured card for it.
  """
  card, notes = find(config, fingerprint=fingerprint, continues=continues)
  if card is None:
    notes += published_of(config, None)
    raise ValueError(
      f'--check_recipe: no measured card for this recipe ({"; ".join(notes)}); '
      'nothing has been trained. Leave the flag out, or use the recipe of a '
      'card'
    )


def published_of(
  config: config_lib.Config, known: Sequence[card_lib.Published] | None
) -> list[str]:
  """What others report of a recipe."""
  return [
    f'known of {p.name}, but no measured card: {p.text}'
    for p in (card_lib.load_published() if known is None else known)
    if not card_lib.differences(p.config, config)
  ]


def find(
  config: config_lib.Config,
  *,
  fingerprint: str,
  continues: bool,
  cards: Sequence[card_lib.Card] | None = None,
) -> tuple[card_lib.Card | None, list[str]]:
  """The card of a recipe; or none, and how the nearest one differs.

  Args:
    config: Of the run.
    fingerprint: Of its training split.
    continues: Whether it goes on from another run.
    cards: Default: those of the package.
  """
  cards = card_lib.load_all() if cards is None else cards
  if continues:
    return None, [
      'the run goes on from another one (--continue_from): cards are of runs '
      'from the initialisation on'
    ]
  ranked = sorted(
    ((card_lib.differences(c.config, config), c) for c in cards),
    key=lambda pair: len(pair[0]),
  )
  if not ranked:
    return None, ['there are no cards']
  changed, nearest = ranked[0]
  if not changed and nearest.data['fingerprint'] == fingerprint:
    return nearest, []
  if not changed:
    changed = ['training data: another fingerprint']
  shown = '; '.join(changed[:5])
  more = f' and {len(changed) - 5} more' if len(changed) > 5 else ''
  return None, [f'the nearest card, {nearest.name}, differs: {shown}{more}']
