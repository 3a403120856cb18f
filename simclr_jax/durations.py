"""Lengths of training: '100 epochs', '5000 steps', '1e6 examples', '10 %'."""

from __future__ import annotations

import dataclasses
import re

_LONGEST = 1e15  # Beyond, sums of floats are no whole numbers any more.
UNITS = ('steps', 'epochs', 'examples')
SHARE = '%'
_PATTERN = re.compile(r'^\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]+|%)\s*$', re.I)


@dataclasses.dataclass(frozen=True)
class Duration:
  """`amount` (>= 0) in `unit`: 'steps', 'epochs', 'examples' or '%'."""

  amount: float
  unit: str


def parse(text: str, *, share: bool = False) -> Duration:
  """Reads '10 epochs', '1 epoch', '5000 steps', '1e6 examples' or '10 %'.

  Args:
    text: A number and a unit.
    share: Whether a share of the run, '10 %', is allowed.

  Raises:
    ValueError: If it is not a number with one of the units, or if a number of
      steps or examples is not whole.
  """
  match = _PATTERN.match(text)
  unit = match.group(2).lower() if match else ''
  unit = unit if unit.endswith('s') or unit == SHARE else unit + 's'
  units = (*UNITS, SHARE) if share else UNITS
  if not match or unit not in units:
    of_the_run = " or '10 %' of the run" if share else ''
    raise ValueError(
      f'{text[:99]!r} is not a duration; write a number and a unit '
      f"({', '.join(units)}), e.g. '10 epochs'{of_the_run}"
    )
  try:
    amount = float(match.group(1))
  except ValueError:
    raise ValueError(f'{match.group(1)[:99]!r} is not a number') from None
  if amount > _LONGEST:
    raise ValueError(f'{text[:99]!r} is longer than {_LONGEST:g} {unit}')
  if unit == SHARE and amount >= 100:
    raise ValueError(f'{text!r}: must be less than 100 % of the run')
  if unit in ('steps', 'examples') and amount != int(amount):
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


def warmup_steps(
  text: str, *, num_examples: int, batch_size: int, total: int
) -> int:
  """Steps of a warm-up: `to_steps`, or a share of `total` steps ('10 %').

  A share is rounded down and at least 1 step, unless it is 0 %.
  """
  duration = parse(text, share=True)
  if duration.unit != SHARE:
    return to_steps(text, num_examples=num_examples, batch_size=batch_size)
  if duration.amount == 0:
    return 0
  # A run of one step has no room for a warm-up.
  return min(max(1, int(total * duration.amount / 100)), total - 1)


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
