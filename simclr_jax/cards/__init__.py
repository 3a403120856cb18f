"""Recipe cards: what a recipe was measured to give, and runs held to it."""

from simclr_jax.cards.check import Verdict, check_recipe, exit_code

__all__ = ['Verdict', 'check_recipe', 'exit_code']
