"""Learning rate as a function of the step."""

from __future__ import annotations

import optax

from simclr_jax.config import OptimConfig
from simclr_jax.resolve import Resolved


def make_schedule(optim: OptimConfig, resolved: Resolved) -> optax.Schedule:
  """The rate that the update with number `step` (from 0) uses.

  Linear from exactly 0 at step 0 to `resolved.peak_lr` at step
  `resolved.warmup_steps`, then by `optim.schedule`:

    'cosine': half a cosine period over the remaining steps, to 0 at
      `resolved.total_steps` (official tf2/model.py:WarmUpAndCosineDecay);
    'constant': the peak;
    'step': the peak, multiplied by `optim.step_gamma` from each step
      round(milestone * total_steps) on.

  Without warm-up, step 0 already has the peak rate.

  Args:
    optim: Names the schedule.
    resolved: Gives its lengths in steps and the peak.

  Returns:
    Function of an integer step (array or int) to the rate, in float32
    within 1e-6 of the peak of the exact value at any step below 2^24: the
    step is compared and subtracted as an integer and only then divided.

  Raises:
    ValueError: If the schedule is unknown or a milestone falls into the
      warm-up.
  """
  warmup = resolved.warmup_steps
  after_warmup = _after_warmup(optim, resolved)
  if warmup == 0:
    return after_warmup
  rise = optax.linear_schedule(0.0, resolved.peak_lr, warmup)
  return optax.join_schedules([rise, after_warmup], [warmup])


def _after_warmup(optim: OptimConfig, resolved: Resolved) -> optax.Schedule:
  """The part after the warm-up, counted from its end."""
  peak, total = resolved.peak_lr, resolved.total_steps
  warmup = resolved.warmup_steps
  if optim.schedule == 'cosine':
    return optax.cosine_decay_schedule(peak, total - warmup)
  if optim.schedule == 'constant':
    return optax.constant_schedule(peak)
  if optim.schedule != 'step':
    raise ValueError(
      f'config.optim.schedule = {optim.schedule!r}: must be one of '
      "'cosine', 'constant', 'step'"
    )
  boundaries = {}
  for milestone in optim.step_milestones:
    boundary = round(milestone * total) - warmup
    if boundary <= 0:
      raise ValueError(
        f'config.optim.step_milestones holds {milestone:g}, which is step '
        f'{round(milestone * total)} of {total} and lies within the warm-up '
        f'of {warmup} steps: the peak learning rate would never be reached'
      )
    if boundary in boundaries:
      raise ValueError(
        f'config.optim.step_milestones = {optim.step_milestones}: two of them '
        f'are the same step in a run of {total} steps'
      )
    boundaries[boundary] = optim.step_gamma
  return optax.piecewise_constant_schedule(peak, boundaries)
