"""Numbers of labels, as a person asks for them."""

from __future__ import annotations

import dataclasses
import re

_NUMBER = re.compile(r'([0-9]+(?:\.[0-9]+)?)(%?)')


@dataclasses.dataclass(frozen=True)
class Budget:
  """How many labels.

  Attributes:
    name: As asked for: '10' of every class, '1%' of them, or 'all'.
    per_class, fraction: As in `LabelsConfig`.
  """

  name: str
  per_class: int = 0
  fraction: float = 1.0

  @property
  def folder(self) -> str:
    """Name of a folder."""
    kind = '' if self.name == 'all' or '%' in self.name else '_per_class'
    return f'labels_{self.name.replace("%", "_percent")}{kind}'


def parse_budgets(text: str) -> tuple[Budget, ...]:
  """'1,10,5%,all' -> budgets.

  Raises:
    ValueError: If one is no number, share or 'all'; or is named twice.
  """
  budgets = []
  for name in (part.strip() for part in text.split(',')):
    match = _NUMBER.fullmatch(name)
    if name == 'all':
      budgets.append(Budget('all'))
    elif match and match.group(2) and 0 < float(match.group(1)) <= 100:
      fraction = float(match.group(1)) / 100
      budgets.append(Budget(name, fraction=fraction))
    elif match and not match.group(2) and name.isdecimal() and int(name):
      budgets.append(Budget(name, per_class=int(name)))
    else:
      raise ValueError(
        f'--labels={text}: {name!r} is none of a number of labels per class '
        "('10'), a share of all ('1%') and 'all'"
      )
  if len({b.name for b in budgets}) < len(budgets):
    raise ValueError(f'--labels={text} names one of them twice')
  return tuple(budgets)
