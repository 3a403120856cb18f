"""Self-supervised methods by name: one file and one line here each."""

from __future__ import annotations

from collections.abc import Callable
import difflib

from simclr_jax import config as config_lib
from simclr_jax.objectives import simclr
from simclr_jax.objectives.objective import LossResult, Objective

OBJECTIVES: dict[str, Callable[[config_lib.Config], Objective]] = {
  'simclr': simclr.make_simclr,
}

__all__ = ['OBJECTIVES', 'LossResult', 'Objective', 'make_objective']


def make_objective(config: config_lib.Config) -> Objective:
  """The objective that `config.objective` names.

  Raises:
    ValueError: If there is none of that name.
  """
  if config.objective not in OBJECTIVES:
    close = difflib.get_close_matches(config.objective, OBJECTIVES, 1)
    hint = f'; did you mean {close[0]!r}?' if close else ''
    raise ValueError(
      f'config.objective = {config.objective!r} is not one of '
      f'{", ".join(OBJECTIVES)}{hint}'
    )
  return OBJECTIVES[config.objective](config)
