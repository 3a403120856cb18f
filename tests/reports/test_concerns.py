from __future__ import annotations

import dataclasses
import math
import types

from etils import epath
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import resolve
from simclr_jax.reports import concerns, curves, document, panels, run_data
from tests import small_run

# A recipe that no rule of advice speaks against.
CONFIG = config_lib.replace(
  small_run.CONFIG,
  data={'image_size': 32},
  augment={'blur_prob': 0.0, 'jitter_strength': 0.5},
  loss={'temperature': 0.5},
  model={'head_layers': 2, 'head_dim': 128},
  optim={'base_lr': 1.0, 'warmup': '5 steps'},
  train={'batch_size': 512, 'duration': '200 steps', 'log_every': '1 steps'},
  checkpoint={'every': '10 steps'},
)
CHANCE = 2 * math.log(2 * 512 - 1)


def _run(workdir, records, *, step=200, config=CONFIG, **passport):
  resolved = resolve.resolve(
    config, num_examples=50_000, num_classes=10, num_devices=1
  )
  stated = {
    'objective': 'simclr',
    'derived': dataclasses.asdict(resolved),
    'software': {'backend': 'cpu', 'device_kind': 'cpu', 'num_devices': 1},
    **passport,
  }
  return run_data.RunData(
    workdir=epath.Path(workdir),
    loaded=types.SimpleNamespace(step=step, passport=stated),
    config=config,
    train=types.SimpleNamespace(skipped=()),
    records=tuple(records),
    encoder=None,
  )


def _lines(loss, **more):
  return [
    {'step': step, 'contrast_loss': loss, **more} for step in range(1, 60)
  ]


def test_a_sound_run_has_none(tmp_path):
  section = concerns.section(_run(tmp_path, _lines(5.0)))
  assert section.warnings == () and section.notes == ()
  assert 'no alarm' in section.text


def test_alarms_are_heard_again(tmp_path):
  section = concerns.section(_run(tmp_path, _lines(CHANCE)))
  (warning,) = section.warnings
  assert warning.startswith('step 15: ')  # Warm-up, and ten lines in a row.
  assert 'tell nothing apart' in warning


def test_alarms_between_the_lines_are_named(tmp_path):
  lines = _lines(5.0)
  for line in lines[20:25]:
    line['alarm_loss_spike'] = 1.0
  (warning,) = concerns.section(_run(tmp_path, lines)).warnings
  assert "'loss_spike' was raised, between steps 21 and 25" in warning


def test_what_went_wrong_is_said(tmp_path):
  (tmp_path / 'failure-step-7.json').write_text('{}')
  run = _run(tmp_path, _lines(5.0, skipped_steps=2.0), step=100)
  skipped = types.SimpleNamespace(skipped=(('a/b.png', 'cut off'),))
  warnings = concerns.section(dataclasses.replace(run, train=skipped)).warnings
  wanted = ('step 100 of 200', 'failure-step-7.json', '2 steps', 'a/b.png')
  assert len(warnings) == len(wanted)
  for warning, part in zip(warnings, wanted, strict=True):
    assert part in warning


def test_advice_is_that_of_the_recipe(tmp_path):
  config = config_lib.replace(CONFIG, loss={'temperature': 5.0})
  (warning,) = concerns.section(
    _run(tmp_path, _lines(5.0), config=config)
  ).warnings
  assert warning.startswith('config.loss.temperature = 5.0: ')


def test_without_metrics_or_derived_numbers_it_says_so(tmp_path):
  section = concerns.section(_run(tmp_path, [], derived={}))
  assert section.warnings == () and len(section.notes) == 2


@pytest.mark.parametrize(
  'scale,factor,label',
  [('official', 2, '2 log(2B-1)'), ('paper', 1, ' log(2B-1)')],
)
def test_loss_stands_beside_that_of_chance(tmp_path, scale, factor, label):
  config = config_lib.replace(CONFIG, loss={'scale': scale})
  section = curves.training(_run(tmp_path, _lines(5.0), config=config))
  (picture,) = section.pictures
  chance = f'{factor * math.log(1023):.3g}'
  assert f'{label}, {chance}.' in picture.alt
  assert len(section.notes) == 4


def test_evenly_spread_embeddings_have_the_uniformity_drawn(tmp_path):
  generator = np.random.default_rng(0)
  units = generator.normal(size=(2000, 128))
  units /= np.linalg.norm(units, axis=1, keepdims=True)
  first, second = units[:1000], units[1000:]
  # |u - v|^2 of unit vectors.
  squares = 2 - 2 * first @ second.T
  wanted = np.log(np.mean(np.exp(-2 * squares)))
  run = _run(tmp_path, _lines(5.0))
  assert panels._evenly_spread(run).value == pytest.approx(wanted, abs=0.02)
  # One in a hundred of 1,022 negatives.
  assert panels._equal_weights(run).value == pytest.approx(10 / 1022)


def test_numbers_that_are_none_are_not_drawn(tmp_path):
  lines = [*_lines(5.0), {'step': 60, 'contrast_loss': 'NaN'}]
  (picture,) = curves.training(_run(tmp_path, lines)).pictures
  assert '5 at step 59' in picture.alt


def test_no_metrics_no_curves(tmp_path):
  run = _run(tmp_path, [])
  for part in (curves.training, curves.embeddings, curves.speed):
    assert isinstance(part(run), document.Missing)
  assert "'500 steps'" in curves.embeddings(run).reason
  assert curves.combined(run) is None
