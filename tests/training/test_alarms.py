"""Silent on sound curves, loud on broken ones, once per episode."""

from __future__ import annotations

import logging as std_logging
import math
import pathlib
import re

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import losses
from simclr_jax.training import alarms, loop
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import run as run_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCH, DIM, WARMUP = 256, 128, 20
CHANCE = losses.chance_loss(BATCH, 'paper')
SOUND = alarms.Expectation(chance=CHANCE, dim=DIM, warmup_steps=WARMUP)


def curve(num_steps=200, **changes):
  """Lines of a run as they usually are; `changes`: name -> (step, value)."""
  rng = np.random.default_rng(0)
  for step in range(1, num_steps + 1):
    share = step / num_steps
    line = {
      'contrast_loss': CHANCE * (1 - 0.4 * share) * rng.normal(1, 0.01),
      'grad_norm': 5 * rng.lognormal(0, 0.15),
      'learning_rate': min(step / WARMUP, 1)
      * math.cos(math.pi / 2 * share) ** 2,
      'positive_similarity': 0.15 + 0.6 * share,
      'negative_similarity': rng.normal(0, 0.003),
    }
    if step % 10 == 0:
      line |= {'effective_rank': 60 - 35 * share, 'dead_dimensions': 0.0}
    for name, value in changes.items():
      if name in line:
        line[name] = value(step, line[name])
    yield step, line


def listen(lines, expectation=SOUND):
  """[(step, warning)] and the machine at the end."""
  machine, said = alarms.Alarms(expectation), []
  for step, line in lines:
    said += [(step, text) for text in machine.observe(step, line)]
  return said, machine


def test_a_sound_curve_is_silent():
  said, machine = listen(curve())
  assert said == [] and machine.active == []


def test_the_recorded_run_is_silent():
  path = ROOT / 'docs' / 'results' / 'cifar10_cpu' / 'metrics.jsonl'
  lines = [(r.pop('step'), r) for r in metrics_lib.read_lines(path)]
  assert len(lines) > 100
  # Its second epoch ends at step 156; every line after the warm-up is judged.
  expectation = alarms.Expectation(
    chance=losses.chance_loss(BATCH, 'official'), dim=DIM, warmup_steps=156
  )
  said, _ = listen(lines, expectation)
  assert said == []


def from_step(first, value):
  return lambda step, usual: value if step >= first else usual


def between(first, last, value):
  return lambda step, usual: value if first <= step <= last else usual


@pytest.mark.parametrize(
  ('changes', 'step', 'words'),
  [
    (
      {'contrast_loss': between(100, 100, 1.3 * CHANCE)},
      100,
      ['contrast loss jumped to 8.1', 'median of the lines before is 5.'],
    ),
    (
      {'grad_norm': between(90, 95, 60.0)},
      90,
      ['norm of the gradient jumped to 60', 'is 4.9', 'clip_grad_norm'],
    ),
    (
      {'learning_rate': from_step(120, 3.0)},
      120,
      ['learning rate rose from 0.3', 'to 3 after the warm-up of 20 steps'],
    ),
    (
      {
        'positive_similarity': from_step(50, 0.31),
        'negative_similarity': from_step(50, 0.3),
      },
      59,
      ['as alike (cosine 0.31) as two images (0.3)', 'collapses'],
    ),
    (
      {
        'positive_similarity': from_step(50, 1.0),
        'negative_similarity': from_step(50, 0.99),
      },
      59,
      ['as alike (cosine 1)'],
    ),
    (
      {'effective_rank': from_step(100, 1.4)},
      100,
      ['effective rank of z is 1.4 of 128', 'some 26 or more'],
    ),
    (
      {'dead_dimensions': from_step(100, 120.0)},
      100,
      ['120 of the 128 dimensions of z hardly vary'],
    ),
  ],
)
def test_each_trouble_is_said_once_with_its_numbers(changes, step, words):
  said, _ = listen(curve(**changes))
  assert [s for s, _ in said] == [step], said
  for word in (f'step {step}: ', *words):
    assert word in said[0][1]


def test_embeddings_that_come_together():
  """At the end all are one point: every sign of a collapse shows."""
  collapsed = {
    'contrast_loss': from_step(60, CHANCE),
    'positive_similarity': from_step(60, 0.9999),
    'negative_similarity': from_step(60, 0.9995),
    'effective_rank': from_step(60, 1.0),
    'dead_dimensions': from_step(60, 128.0),
  }
  said, machine = listen(curve(**collapsed))
  assert set(machine.active) == {
    'loss_at_chance', 'no_gap', 'no_spread', 'low_rank', 'dead_dimensions'
  }  # fmt: skip
  assert len(said) == 5
  # sqrt(1 - 0.9995) of 1 / sqrt(128).
  assert any('of z is 0.002 per dimension' in text for _, text in said)


def test_a_loss_worse_than_chance():
  said, machine = listen(curve(contrast_loss=lambda step, usual: 1.5 * CHANCE))
  # From the first line on, so there is no jump, and the warm-up may do it.
  assert machine.active == ['blow_up']
  (step, text) = said[0]
  assert step == WARMUP + 10 and 'training diverges' in text


def test_an_episode_ends_and_the_next_is_said_again():
  spikes = {100, 103, 150}
  said, _ = listen(
    curve(grad_norm=lambda step, usual: 60.0 if step in spikes else usual)
  )
  assert [step for step, _ in said] == [100, 150]


def test_nothing_is_said_during_the_warm_up():
  collapsed = {
    'positive_similarity': between(1, WARMUP, 0.5),
    'negative_similarity': between(1, WARMUP, 0.5),
    'effective_rank': between(1, WARMUP, 1.0),
  }
  said, _ = listen(curve(**collapsed))
  assert said == []


def test_a_line_that_is_no_number_is_not_judged():
  lines = [(s, {**line, 'loss': math.nan}) for s, line in curve()]
  said, _ = listen(
    [(s, {**line, 'positive_similarity': 0.0}) for s, line in lines]
  )
  assert said == []


def test_a_restart_changes_nothing():
  """Fed with the lines before it, a new machine says what the old would."""
  lines = list(
    curve(
      contrast_loss=between(95, 130, 1.3 * CHANCE),
      positive_similarity=from_step(97, 0.0),
    )
  )
  want, _ = listen(lines)
  for cut in (20, 96, 100, 106, 120, 150):
    machine = alarms.Alarms(SOUND)
    for step, line in lines[:cut]:
      machine.observe(step, line)
    said = [
      (step, text)
      for step, line in lines[cut:]
      for text in machine.observe(step, line)
    ]
    assert said == [(step, text) for step, text in want if step > cut]


def test_a_run_that_collapses(tmp_path, caplog):
  """Adam at a rate of 1 without batch norm in the head, for real."""
  run = run_lib.make_run(
    config_lib.replace(
      config_lib.Config(),
      data={'source': 'digits', 'image_size': 8},
      augment={'blur_prob': 0.0},
      model={
        'depth': 18, 'width': 0.03125, 'head': 'linear', 'head_dim': 8,
        'head_norm': 'none',
      },
      optim={
        'name': 'adam', 'base_lr': 1.0, 'lr_scaling': 'none',
        'warmup': '2 steps',
      },
      train={
        'batch_size': 16, 'duration': '30 steps', 'log_every': '100 steps',
        'diagnostics_every': '0 steps',
      },
      monitor={'online_head': False},
      checkpoint={'every': '100 steps'},
    ),
    mesh=mesh_lib.make_mesh(jax.devices()[:1]),
  )  # fmt: skip
  with caplog.at_level(std_logging.WARNING, logger='absl'):
    loop.pretrain(run, str(tmp_path))
  warned = [r.getMessage() for r in caplog.records]
  found = [text for text in warned if 'as alike (cosine 0.9' in text]
  assert len(found) == 1
  step = int(re.match(r'step (\d+): ', found[0])[1])
  # Written although no line was due, with a flag that lasts.
  lines = metrics_lib.read_lines(tmp_path / metrics_lib.FILE_NAME)
  flagged = [r['step'] for r in lines if r.get('alarm_no_gap') == 1]
  assert flagged[0] == step and flagged[-1] == 30
