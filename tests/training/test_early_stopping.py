"""Patience, and that a restart neither forgets nor repeats it."""

from __future__ import annotations

from simclr_jax.training import early_stopping

RULE = early_stopping.EarlyStopping('top1', patience=2)


def feed(patience, values, start=0):
  for step, value in enumerate(values, start=start + 1):
    patience.observe(step, {'top1': value, 'nll': 1.0})
  return patience


def test_stops_after_evaluations_without_a_better_one():
  patience = feed(early_stopping.Patience(RULE, {}), [0.1, 0.5, 0.5])
  assert not patience.exhausted  # An equal one is no better one.
  feed(patience, [0.4], start=3)
  assert patience.exhausted
  assert patience.memory == {
    'best_value': 0.5,
    'best_step': 3.0,  # But the newest of equals is the best checkpoint.
    'evaluations_since_best': 2.0,
  }


def test_a_better_one_starts_anew():
  assert not feed(
    early_stopping.Patience(RULE, {}), [0.5, 0.4, 0.6, 0.5]
  ).exhausted


def test_goes_on_from_a_checkpoints_metrics():
  values = [0.5, 0.4, 0.3]
  whole = feed(early_stopping.Patience(RULE, {}), values)
  for cut in range(len(values)):
    first = feed(early_stopping.Patience(RULE, {}), values[:cut])
    metrics = {'loss': 1.0, **first.memory}
    rest = feed(early_stopping.Patience(RULE, metrics), values[cut:], start=cut)
    assert rest.memory == whole.memory and rest.exhausted


def test_never():
  patience = feed(
    early_stopping.Patience(early_stopping.NEVER, {}), [0.5] + [0.1] * 50
  )
  assert not patience.exhausted and patience.memory == {}
