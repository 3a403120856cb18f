"""Lengths of training: '100 epochs', '5000 steps', '1e6 examples'."""

from __future__ import annotations

import dataclasses
import re

_LONGEST = 1e15  # Beyond, sums of floats are no whole numbers any more.
UNITS = ('steps', 'epochs', 'examples')
_PATTERN = re.compile(r'^\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]+)\s*$', re.I)


@dataclasses.dataclass(frozen=True)
class Duration:
  """`amount` (>= 0) in `unit`: 'steps', 'epochs' or 'examples'."""

  amount: float
  unit: str


def parse(text: str) -> Duration:
  """Reads '10 epochs', '1 epoch', '5000 steps' or '1e6 examples'.

  Raises:
    ValueError: If it is not a number with one of the three units, or if a
      number of steps or examples is not whole.
  """
  match = _PATTERN.match(text)
  unit = match.group(2).lower() if match else ''
  unit = unit if unit.endswith('s') else unit + 's'
  if not match or unit not in UNITS:
    raise ValueError(
      f'{text[:99]!r} is not a duration; write a number and a unit '
      f"({', '.join(UNITS)}), e.g. '10 epochs'"
    )
  try:
    amount = float(match.group(1))
  except ValueError:
    raise ValueError(f'{match.group(1)[:99]!r} is not a number') from None
  if amount > _LONGEST:
    raise ValueError(f'{text[:99]!r} is longer than {_LONGEST:g} {unit}')
  if unit != 'epochs' and amount != int(amount):
    raise ValueError(f'{text!r}: {unit} must be a whole number')
  return Duration(amount=amount, unit=unit)


def to_steps(text: str, *, num_examples: int, batch_size: int) -> int:
  """Whole optimizer steps in a duration, rounded down.

  The official warm-up rule (model.py:WarmUpAndCosineDecay,
  `round(warmup_epochs * num_examples // batch_size)`).
  """
  duration = parse(text)
  if duration.unit == 'steps':
    return int(duration.amount)
  if duration.unit == 'examples':
    return int(duration.amount // batch_size)
  return int(round(duration.amount * num_examples // batch_size))


def period_in_steps(text: str, *, num_examples: int, batch_size: int) -> int:
  """Steps between two events; 0 (never) only for a duration of 0."""
  if parse(text).amount == 0:
    return 0
  steps = to_steps(text, num_examples=num_examples, batch_size=batch_size)
  return max(1, steps)


def total_steps(text: str, *, num_examples: int, batch_size: int) -> int:
  """Steps of a whole run.

  Epochs follow the official model.py:get_train_steps,
  `num_examples * epochs // batch_size + 1`; steps and examples are as given.
  """
  duration = parse(text)
  steps = to_steps(text, num_examples=num_examples, batch_size=batch_size)
  if duration.unit == 'epochs':
    return int(num_examples * duration.amount // batch_size) + 1
  return max(1, steps)
