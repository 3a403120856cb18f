"""Warnings of a run that goes wrong, read off its metrics; no decisions.

A state machine over lines of metrics, however far apart they are. Thresholds
lie far from what sound runs show (the recorded curves in docs/results and the
demo stay silent): an alarm that cries without need is switched off in the mind
of whoever hears it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
import dataclasses
import math
import statistics
from typing import Any

# Lines that the running medians look back on, and how many they need.
_WINDOW, _FEWEST = 50, 10
# Lines in a row that a condition has to hold (a spike: one), and that it has to
# be over until it may be said again.
_PERSIST, _OVER = 10, 10
# Of the running median. In sound runs a contrast loss stays below 1.03 of it
# and a gradient's norm below 1.5.
_LOSS_SPIKE, _GRADIENT_SPIKE = 1.25, 5.0
# Of the line before, after the warm-up, where no schedule rises.
_RATE_JUMP = 1.5
# Of the loss of embeddings that tell nothing apart.
_AT_CHANCE, _BLOWN_UP = 0.005, 1.2
# Cosine that two views of an image have more than two images; an untrained
# network has 0.1.
_NO_GAP = 0.02
# Of 1 / sqrt(d), the standard deviation on an evenly filled sphere.
_NO_SPREAD = 0.05
# Share of the dimensions.
_DEAD = 0.5


@dataclasses.dataclass(frozen=True)
class Expectation:
  """What is usual in a run.

  Attributes:
    chance: Contrast loss of embeddings that tell nothing apart, in the run's
      own scale; None where the objective has none.
    dim: d, width of z.
    warmup_steps: Of the schedule.
    contrasts: Whether the loss is a contrastive one, which hardly moves from
      line to line. A classifier's loss on few labels may, and is not judged.
  """

  chance: float | None
  dim: int
  warmup_steps: int
  contrasts: bool = True

  @property
  def lowest_rank(self) -> float:
    """Effective rank of z, between 1 and d, that counts as collapsed."""
    return 1 + 0.02 * (self.dim - 1)


@dataclasses.dataclass
class _Episode:
  """One alarm's memory: lines in a row with and without its condition."""

  held: int = 0
  over: int = 0
  active: bool = False


class Alarms:
  """Takes metric lines in order; says each trouble once per episode."""

  def __init__(self, expectation: Expectation):
    """Starts with no memory."""
    self._usual = expectation
    self._past: dict[str, collections.deque[float]] = {
      name: collections.deque(maxlen=_WINDOW)
      for name in ('contrast_loss', 'grad_norm')
    }
    self._rate: float | None = None
    self._episodes: dict[str, _Episode] = collections.defaultdict(_Episode)

  @property
  def active(self) -> list[str]:
    """Names of the alarms whose episode is not over."""
    return [name for name, e in self._episodes.items() if e.active]

  def observe(self, step: int, line: Mapping[str, Any]) -> list[str]:
    """New warnings after a line of metrics.

    Args:
      step: Finished steps.
      line: Name -> number. What is missing is not judged; a line with a number
        that is not finite is left to `failures`.

    Returns:
      Sentences, each with step, value, what is usual and what to do.
    """
    numbers = {k: float(v) for k, v in line.items()}
    if not all(math.isfinite(v) for v in numbers.values()):
      return []
    has_loss = self._usual.contrasts and 'loss' in numbers
    if 'contrast_loss' not in numbers and has_loss:
      numbers['contrast_loss'] = numbers['loss']
    warnings = []
    for name, (check, persist) in _ALARMS.items():
      found = check(self, step, numbers)
      if found is None:
        continue  # This line cannot tell.
      episode = self._episodes[name]
      episode.held = episode.held + 1 if found else 0
      episode.over = 0 if found else episode.over + 1
      if episode.held >= persist and not episode.active:
        episode.active = True
        warnings.append(f'step {step}: {found}')
      elif episode.over >= _OVER:
        episode.active = False
    self._remember(numbers)
    return warnings

  def _remember(self, numbers: Mapping[str, float]) -> None:
    for name, past in self._past.items():
      if name in numbers:
        past.append(numbers[name])
    self._rate = numbers.get('learning_rate', self._rate)

  def _warm(self, step: int) -> bool:
    return step > self._usual.warmup_steps

  def _spike(
    self, numbers: Mapping[str, float], name: str, factor: float
  ) -> tuple[float, float] | None:
    """(value, running median) of a spike; (nan, nan) of none; None: unknown."""
    past = self._past[name]
    if name not in numbers or len(past) < _FEWEST:
      return None
    value, usual = numbers[name], statistics.median(past)
    return (value, usual) if value > factor * usual > 0 else (math.nan,) * 2

  # Checks give a sentence, '' where all is well, None where they cannot tell.

  def _loss_spike(self, step: int, numbers: Mapping[str, float]) -> str | None:
    del step
    if (spike := self._spike(numbers, 'contrast_loss', _LOSS_SPIKE)) is None:
      return None
    value, usual = spike
    if math.isnan(value):
      return ''
    return (
      f'the contrast loss jumped to {value:.4g}; the median of the lines '
      f'before is {usual:.4g}. If it does not come back, go on from an older '
      'checkpoint in a new workdir (--continue_from) with a lower '
      'config.optim.base_lr, or start anew with a longer config.optim.warmup '
      'or config.optim.clip_grad_norm'
    )

  def _gradient_spike(
    self, step: int, numbers: Mapping[str, float]
  ) -> str | None:
    del step
    if (spike := self._spike(numbers, 'grad_norm', _GRADIENT_SPIKE)) is None:
      return None
    value, usual = spike
    if math.isnan(value):
      return ''
    return (
      f'the norm of the gradient jumped to {value:.4g}; the median of the '
      f'lines before is {usual:.4g}. One such step may be harmless; if they '
      'come often, set config.optim.clip_grad_norm to a few times the median '
      'and look at the pictures of the batch'
    )

  def _rate_jump(self, step: int, numbers: Mapping[str, float]) -> str | None:
    if 'learning_rate' not in numbers or self._rate is None:
      return None
    rate, before = numbers['learning_rate'], self._rate
    if not self._warm(step - 1) or before <= 0 or rate <= _RATE_JUMP * before:
      return ''
    return (
      f'the learning rate rose from {before:.4g} to {rate:.4g} after the '
      f'warm-up of {self._usual.warmup_steps} steps, where no schedule rises: '
      'check config.optim.schedule and what this run was continued from'
    )

  def _blow_up(self, step: int, numbers: Mapping[str, float]) -> str | None:
    chance, value = self._usual.chance, numbers.get('contrast_loss')
    if chance is None or value is None or not self._warm(step):
      return None
    if value <= _BLOWN_UP * chance:
      return ''
    return (
      f'the contrast loss is {value:.4g}, worse than that of embeddings that '
      f'tell nothing apart ({chance:.4g}): training diverges. Lower '
      'config.optim.base_lr (at rate '
      f'{numbers.get("learning_rate", math.nan):.4g} now) or lengthen '
      'config.optim.warmup'
    )

  def _at_chance(self, step: int, numbers: Mapping[str, float]) -> str | None:
    chance, value = self._usual.chance, numbers.get('contrast_loss')
    if chance is None or value is None or not self._warm(step):
      return None
    if abs(value - chance) > _AT_CHANCE * chance:
      return ''
    return (
      f'the contrast loss is {value:.4g} after the warm-up, that of embeddings '
      f'that tell nothing apart (log(2B-1): {chance:.4g}). {_COLLAPSE}'
    )

  def _no_gap(self, step: int, numbers: Mapping[str, float]) -> str | None:
    positive = numbers.get('positive_similarity')
    negative = numbers.get('negative_similarity')
    if positive is None or negative is None or not self._warm(step):
      return None
    if positive - negative > _NO_GAP:
      return ''
    return (
      f'two views of an image are as alike (cosine {positive:.4g}) as two '
      f'images ({negative:.4g}); usual is a gap of 0.1 at first and more '
      f'later. {_COLLAPSE}'
    )

  def _no_spread(self, step: int, numbers: Mapping[str, float]) -> str | None:
    negative = numbers.get('negative_similarity')
    if negative is None or not self._warm(step):
      return None
    # Of unit vectors the variances of all dimensions sum to 1 - |mean|^2, and
    # |mean|^2 is the mean cosine between images.
    share = math.sqrt(max(0.0, 1 - negative))
    if share > _NO_SPREAD:
      return ''
    usual = 1 / math.sqrt(self._usual.dim)
    return (
      f'the standard deviation of z is {share * usual:.2g} per dimension; '
      f'evenly spread embeddings have 1/sqrt(d) = {usual:.2g}. {_COLLAPSE}'
    )

  def _low_rank(self, step: int, numbers: Mapping[str, float]) -> str | None:
    rank, usual = numbers.get('effective_rank'), self._usual
    if rank is None or usual.dim < 2 or not self._warm(step):
      return None
    if rank > usual.lowest_rank:
      return ''
    return (
      f'the effective rank of z is {rank:.3g} of {usual.dim}; sound runs keep '
      f'some {usual.dim / 5:.0f} or more. {_COLLAPSE}'
    )

  def _dead(self, step: int, numbers: Mapping[str, float]) -> str | None:
    dead, dim = numbers.get('dead_dimensions'), self._usual.dim
    if dead is None or not self._warm(step):
      return None
    if dead <= _DEAD * dim:
      return ''
    return (
      f'{dead:.0f} of the {dim} dimensions of z hardly vary; usual is none. '
      f'{_COLLAPSE}'
    )


_COLLAPSE = (
  'The encoder collapses: stop, and start anew with a lower '
  'config.optim.base_lr, a longer config.optim.warmup or a lower '
  'config.loss.temperature; do views and labels of the batch look right?'
)
# Name -> (check, lines in a row that it has to hold). Diagnostics come rarely.
_Check = Callable[[Alarms, int, Mapping[str, float]], str | None]
_ALARMS: dict[str, tuple[_Check, int]] = {
  'loss_spike': (Alarms._loss_spike, 1),
  'gradient_spike': (Alarms._gradient_spike, 1),
  'learning_rate_jump': (Alarms._rate_jump, 1),
  'blow_up': (Alarms._blow_up, _PERSIST),
  'loss_at_chance': (Alarms._at_chance, _PERSIST),
  'no_gap': (Alarms._no_gap, _PERSIST),
  'no_spread': (Alarms._no_spread, _PERSIST),
  'low_rank': (Alarms._low_rank, 1),
  'dead_dimensions': (Alarms._dead, 1),
}
