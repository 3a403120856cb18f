"""Recipe cards: what a recipe was measured to give, and runs held to it."""

from simclr_jax.cards.check import (
  Verdict,
  announce,
  check_recipe,
  exit_code,
)
from simclr_jax.cards.lookup import require_card

__all__ = ['Verdict', 'announce', 'check_recipe', 'exit_code', 'require_card']
