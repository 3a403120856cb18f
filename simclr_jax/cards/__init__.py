"""Recipe cards: what a recipe was measured to give, and runs held to it."""

from simclr_jax.cards.check import Verdict, announce, check_recipe, exit_code

__all__ = ['Verdict', 'announce', 'check_recipe', 'exit_code']
