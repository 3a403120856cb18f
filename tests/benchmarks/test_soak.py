"""The soak finds what it is there to find."""

from __future__ import annotations

import json
import random

import pytest

from benchmarks import soak, soak_checks, soak_lives
from simclr_jax.data import order

TOTAL, BATCH, N = soak_lives.TOTAL, soak_lives.BATCH, soak_lives.EXAMPLES


def index(step, change=0):
  first = (step - 1) * BATCH
  return [
    int(
      order.permutation(soak_lives.SEED, (p + change) // N, N)[(p + change) % N]
    )
    for p in range(first, first + BATCH)
  ]


def make_run(folder, lives, **changes):
  """A record of lives, each (start, last step taken); nothing is run.

  Args:
    folder: For the record.
    lives: Of the run.
    **changes: 'shifted' or 'other_views': (life, step) that is wrong.
  """
  run = soak_lives.Run(folder, processes=1, cache='')
  lines = []
  for life, (start, last) in enumerate(lives, start=1):
    lines.append({'life': life, 'event': 'start', 'step': start})
    for step in range(start + 1, last + 1):
      here = (life, step)
      lines.append({
        'life': life, 'event': 'batch', 'step': step,
        'index': index(step, changes.get('shifted') == here),
        'views': step + 1000 * (changes.get('other_views') == here),
      })  # fmt: skip
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  # The last line of a process that was killed may be half.
  (run.folder / 'record-0.jsonl').write_text(text + '{"li')
  return run


LIVES = [(0, 7), (5, 6), (5, 22), (20, TOTAL)]


@pytest.fixture
def straight(tmp_path):
  return make_run(tmp_path / 'straight', [(0, TOTAL)])


def test_the_way_to_the_final_state(tmp_path, straight):
  run = make_run(tmp_path / 'run', LIVES)
  path = soak_checks.ancestry(run)
  assert [step for _, step in path] == list(range(1, TOTAL + 1))
  # Life 2 took step 6, and nothing of it was saved.
  assert [life for life, _ in path] == [1] * 5 + [3] * 15 + [4] * (TOTAL - 20)
  assert soak_checks._examples(run, straight) == []


@pytest.mark.parametrize(
  ('changes', 'found'),
  [
    ({'shifted': (3, 12)}, 'step 12: other examples'),
    ({'other_views': (4, 30)}, 'step 30: other views'),
    # Not on the way to the final state.
    ({'shifted': (1, 6)}, None),
    ({'other_views': (2, 6)}, None),
  ],
)
def test_a_wrong_batch_is_found(tmp_path, straight, changes, found):
  run = make_run(tmp_path / 'run', LIVES, **changes)
  problems = soak_checks._examples(run, straight)
  assert len(problems) == (found is not None)
  assert found is None or found in problems[0]


def test_a_step_that_nobody_took_is_found(tmp_path, straight):
  run = make_run(tmp_path / 'run', [(0, 7), (10, TOTAL)])
  (problem,) = soak_checks._examples(run, straight)
  assert 'the steps of the final state' in problem


def test_a_start_elsewhere_and_a_lost_checkpoint_are_found(tmp_path):
  run = make_run(tmp_path / 'run', [(0, 7), (5, 9)])
  run.life = 2
  assert soak_checks.at_birth(run, 5) == []
  assert 'began at 5, on disk was 8' in soak_checks.at_birth(run, 8)[0]
  (problem,) = soak_checks.after_death(run, 5)
  assert 'step 5 was complete and is gone' in problem


def test_what_lies_about_is_found(tmp_path, straight):
  run = make_run(tmp_path / 'run', LIVES)
  for each in (run, straight):
    for name in ('40', '35', '30'):
      (each.workdir / 'checkpoints' / name).mkdir(parents=True)
  assert soak_checks._files(run, straight) == []
  (run.workdir / 'checkpoints' / '36.orbax-checkpoint-tmp').mkdir()
  (run.workdir / 'checkpoints' / '25').mkdir()
  (problem,) = soak_checks._files(run, straight)
  assert '36.orbax-checkpoint-tmp' in problem and '4 checkpoints' in problem


@pytest.mark.parametrize(
  ('signal', 'target', 'codes', 'sound'),
  [
    ('SIGKILL', -1, [-9], True),
    ('SIGKILL', -1, [0], False),
    ('SIGTERM', -1, [75], True),
    ('SIGTERM', -1, [1], False),
    ('SIGKILL', 1, [69, -9], True),
    ('SIGKILL', 1, [-9, -9], False),
    ('SIGTERM', 0, [75, 75], True),
    ('SIGTERM', 0, [75, 134], False),
  ],
)
def test_exit_codes(signal, target, codes, sound):
  kill = soak_lives.Kill('step', signal, target, count=1, share=0.5)
  death = soak_lives.Death(killed=True, codes=codes, seconds=1.0, hung=[])
  assert (not soak._endings(kill, death)) == sound
  hung = soak_lives.Death(True, codes, 1.0, hung=[0])
  assert 'did not end by itself' in soak._endings(kill, hung)[0]


def test_plans_are_of_every_kind_and_the_same_for_a_seed():
  plans = [
    [soak_lives.draw_kill(rng, 2) for _ in range(100)]
    for rng in (random.Random('0-2'), random.Random('0-2'))
  ]
  assert plans[0] == plans[1]
  assert {kill.moment for kill in plans[0]} == set(soak_lives.MOMENTS)
  assert {kill.signal for kill in plans[0]} == set(soak_lives.SIGNALS)
  assert {kill.target for kill in plans[0]} == {-1, 0, 1}
