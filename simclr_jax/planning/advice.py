"""Combinations that are known to end badly, each with its reason.

A config that cannot run is refused elsewhere (`config_checks`, `resolve`); what
is found here runs, and is likely not what was meant. Figures are of the sources
named in configs/ and README.md: Chen et al. 2020 ('the paper', v1) and its
code, and the recipes of others.
"""

from __future__ import annotations

import dataclasses

from simclr_jax import config as config_lib
from simclr_jax.planning import machine_rules, recipe_rules, rule

Facts = rule.Facts
_RULES: dict[str, rule.Rule] = {**recipe_rules.RULES, **machine_rules.RULES}
_OF_CLASSIFIERS = ('adam_rate', 'warmup', 'float32')


@dataclasses.dataclass(frozen=True)
class Advice:
  """One warning.

  Attributes:
    rule: Short name.
    field: The config field, with its value, that it is about.
    text: What goes wrong, and what to do instead.
  """

  rule: str
  field: str
  text: str


def find(
  config: config_lib.Config, facts: Facts, *, contrastive: bool = True
) -> list[Advice]:
  """All warnings, in the order of the rules.

  Args:
    config: Of the run.
    facts: What else is known of it.
    contrastive: Whether it pretrains; the figures of most rules are of that,
      and of classifiers only those are asked that hold for them too.
  """
  return [
    Advice(
      rule=name, field=f'config.{field} = {_value(config, field)!r}', text=t
    )
    for name, function in _RULES.items()
    if contrastive or name in _OF_CLASSIFIERS
    for field, t in function(config, facts)
  ]


def rules() -> tuple[str, ...]:
  """Names of all rules."""
  return tuple(_RULES)


def _value(config: config_lib.Config, field: str) -> object:
  value: object = config
  for part in field.split('.'):
    value = getattr(value, part)
  return value
