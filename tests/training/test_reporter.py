"""The order of events around a step: dispatch, fetch, check, save."""

from __future__ import annotations

import dataclasses
import logging as std_logging
import types

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.training import failures, feeding, loop, recipe
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import passport as passport_lib
from simclr_jax.training import reporter as reporter_lib
from simclr_jax.training import step as step_lib

TOTAL = 6
NAMES = ('loss', 'total_loss', 'grad_norm', 'state_norm')


@dataclasses.dataclass(frozen=True)
class OnDevice:
  """A number that has to be fetched."""

  what: str
  value: float


class FakeCheckpointer:
  def __init__(self, events):
    self.events = events
    self.steps = []

  def save(self, step, state, **unused):
    self.events.append(f'save {step}')
    self.steps.append(step)

  def saved_steps(self):
    return self.steps

  def wait(self):
    pass

  def close(self):
    pass


@pytest.fixture
def events(monkeypatch):
  """What happens, in order; every part that does real work is replaced."""
  events = []

  def device_get(tree):
    what = {x.what for x in tree.values()}
    events.append(f'fetch {what.pop()}')
    return {name: x.value for name, x in tree.items()}

  def diagnose(z):
    events.append(f'dispatch diagnostics {z}')
    return {'effective_rank': OnDevice(f'diagnostics {z}', 3.0)}

  monkeypatch.setattr(jax, 'device_get', device_get)
  monkeypatch.setattr(step_lib, 'make_diagnose', lambda temperature: diagnose)
  monkeypatch.setattr(recipe, 'flops_per_step', lambda run: 0.0)
  monkeypatch.setattr(recipe, 'describe', lambda *args, **kwargs: '')
  monkeypatch.setattr(passport_lib, 'make_passport', lambda *a, **k: {})
  monkeypatch.setattr(
    jax.profiler, 'start_trace', lambda path: events.append('trace')
  )
  monkeypatch.setattr(
    jax.profiler, 'stop_trace', lambda: events.append('end of trace')
  )
  return events


def make_run(events, *, bad=None, train=None, diagnostics_every=0):
  """A run whose step counts; `bad` is (step, name of what is NaN there)."""

  def train_step(state, batch):
    step = state.step + 1
    events.append(f'dispatch {step}')
    metrics = {
      name: OnDevice(str(step), np.nan if bad == (step, name) else 1.0)
      for name in NAMES
    }
    new = types.SimpleNamespace(step=step, params={}, model_state={})
    return new, step_lib.StepOutput(metrics, step)

  return types.SimpleNamespace(
    config=config_lib.replace(
      config_lib.Config(), data={'source': 'digits'}, train=train or {}
    ),
    resolved=types.SimpleNamespace(
      total_steps=TOTAL,
      warmup_steps=0,
      log_every_steps=1,
      diagnostics_every_steps=diagnostics_every,
      knn_every_steps=3,
      checkpoint_every_steps=3,
    ),
    mesh=mesh_lib.make_mesh(jax.devices()[:1]),
    source=types.SimpleNamespace(example_id=str),
    objective=types.SimpleNamespace(name='fake', num_views=2),
    about={},
    loss_rows=None,
    train_step=lambda: train_step,
  )


def pretrain(run, events, workdir, monkeypatch, *, start=0):
  state = types.SimpleNamespace(step=start, params={}, model_state={})
  batches = (({}, np.arange(2)) for _ in range(TOTAL))
  checkpointer = FakeCheckpointer(events)
  for module, name, value in (
    (loop.checkpoint_lib, 'Checkpointer', lambda *a: checkpointer),
    (loop, '_restore_or_init', lambda *args: loop._Begin(state, start, start)),
    (feeding, 'train_feed', lambda run, start_step: batches),
  ):
    monkeypatch.setattr(module, name, value)

  def evaluate(run, state, stop_fn):
    events.append(f'evaluate {state.step}')
    return {}

  return loop.pretrain(run, str(workdir), evaluate_fn=evaluate)


def test_the_next_step_is_dispatched_before_metrics_are_fetched(
  events, tmp_path, monkeypatch
):
  pretrain(make_run(events), events, tmp_path, monkeypatch)
  assert events == [
    *('dispatch 1', 'dispatch 2', 'fetch 1', 'dispatch 3', 'fetch 2'),
    # A checkpoint is due: its own step has to be known to be finite.
    *('fetch 3', 'evaluate 3', 'save 3'),
    *('dispatch 4', 'dispatch 5', 'fetch 4', 'dispatch 6', 'fetch 5'),
    *('fetch 6', 'evaluate 6', 'save 6'),
  ]


@pytest.mark.parametrize('name', NAMES[1:])
def test_nothing_is_evaluated_or_saved_that_is_not_finite(
  events, tmp_path, monkeypatch, name
):
  run = make_run(events, bad=(3, name))
  with pytest.raises(failures.NonFiniteLoss, match=f'{name} is nan at step 3'):
    pretrain(run, events, tmp_path, monkeypatch)
  assert events[-1] == 'fetch 3'
  assert not any(e.startswith(('save', 'evaluate')) for e in events)


def test_diagnostics_are_dispatched_with_their_step_and_fetched_late(
  events, tmp_path, monkeypatch
):
  run = make_run(events, diagnostics_every=4)
  pretrain(run, events, tmp_path, monkeypatch)
  begin = events.index('dispatch 4')
  assert events[begin : begin + 5] == [
    'dispatch 4',
    'dispatch diagnostics 4',
    'dispatch 5',
    'fetch 4',
    'fetch diagnostics 4',
  ]


@pytest.mark.parametrize(
  ('start', 'traced', 'warning'),
  [
    (0, ['dispatch 3', 'dispatch 4'], None),
    (2, ['dispatch 3', 'dispatch 4'], None),
    (3, ['dispatch 4'], 'the trace ends at 4 as asked'),
    (4, None, 'no trace'),
  ],
)
def test_trace(events, tmp_path, monkeypatch, caplog, start, traced, warning):
  run = make_run(events, train={'profile_start': 2, 'profile_steps': 2})
  with caplog.at_level(std_logging.WARNING, logger='absl'):
    pretrain(run, events, tmp_path, monkeypatch, start=start)
  if traced is None:
    assert 'trace' not in events
  else:
    begin, end = events.index('trace'), events.index('end of trace')
    inside = events[begin:end]
    assert [e for e in inside if e.startswith('dispatch')] == traced
    # The steps before are done, and those inside are over when it ends.
    assert inside[-1] == 'fetch 4'
    if start < 2:
      assert events[begin - 1] == 'fetch 2'
  past = [r.getMessage() for r in caplog.records if 'is past' in r.getMessage()]
  assert len(past) == (warning is not None)
  assert warning is None or past[0].endswith(warning)


@pytest.mark.parametrize('which', ['start_trace', 'stop_trace'])
def test_a_trace_that_fails_ends_alone(
  events, tmp_path, monkeypatch, caplog, which
):
  def fail(*args):
    raise RuntimeError('No space left on device')

  monkeypatch.setattr(jax.profiler, which, fail)
  run = make_run(events, train={'profile_start': 1, 'profile_steps': 2})
  with caplog.at_level(std_logging.WARNING, logger='absl'):
    pretrain(run, events, tmp_path, monkeypatch)
  assert caplog.text.count('no trace: No space left on device, ENOSPC') == 1
  assert 'dispatch 4' in events


def test_a_failure_ends_the_trace(events, tmp_path, monkeypatch):
  run = make_run(
    events,
    bad=(3, 'total_loss'),
    train={'profile_start': 1, 'profile_steps': 5},
  )
  with pytest.raises(failures.NonFiniteLoss):
    pretrain(run, events, tmp_path, monkeypatch)
  assert events[-1] == 'end of trace'
  assert events.count('end of trace') == 1


def test_saving_is_no_training_time(events, tmp_path, monkeypatch):
  paused = []
  original = reporter_lib.progress_lib.Progress.paused

  def noting(self):
    paused.append(len(events))
    return original(self)

  monkeypatch.setattr(reporter_lib.progress_lib.Progress, 'paused', noting)
  pretrain(make_run(events), events, tmp_path, monkeypatch)
  assert [events[k] for k in paused] == [
    *('evaluate 3', 'save 3', 'evaluate 6', 'save 6')
  ]


@pytest.mark.parametrize('terminal', [False, True])
def test_a_bar_instead_of_lines_on_a_terminal(
  terminal, events, tmp_path, monkeypatch, caplog
):
  moved = []

  class Bar:
    def __init__(self, title, total, *, unit, start, stays):
      moved.append((title, total, unit, start))

    def move(self, done, note):
      moved.append((done, note))

    def close(self):
      moved.append('closed')

  monkeypatch.setattr(reporter_lib.progress_bar, 'shown', lambda: terminal)
  monkeypatch.setattr(reporter_lib.progress_bar, 'ProgressBar', Bar)
  with caplog.at_level(std_logging.INFO, logger='absl'):
    pretrain(make_run(events), events, tmp_path, monkeypatch)
  lines = [m for m in caplog.messages if m.startswith('step ')]
  if not terminal:
    assert len(lines) == TOTAL and not moved
    return
  assert not lines
  assert moved[0] == ('Training', TOTAL, 'steps', 0)
  assert [done for done, _ in moved[1:-1]] == list(range(1, TOTAL + 1))
  assert moved[1][1] == 'loss 1.000'
  assert moved[-1] == 'closed'
