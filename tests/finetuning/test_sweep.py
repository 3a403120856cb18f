"""The sweep over labels: which runs, resumed, summarised, drawn."""

from __future__ import annotations

import dataclasses
import json
import types

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data, processes
from simclr_jax.evaluation import plots
from simclr_jax.finetuning import budgets, curve, job, sweep
from simclr_jax.finetuning import config as finetune_lib
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import passport as passport_lib

STAGE = finetune_lib.FinetuneConfig(
  train=config_lib.TrainConfig(batch_size=64, diagnostics_every='0 steps')
)
METHODS = ('finetune', 'frozen')
BASE = config_lib.replace(
  config_lib.Config(),
  data={'source': 'digits', 'image_size': 8},
  augment={'blur_prob': 0.0},
)
PASSPORT = passport_lib.make_passport(
  BASE,
  None,
  source=data.make_source(BASE.data, 'train'),
  step=3,
  metrics={},
  objective='simclr',
)


def test_budgets():
  one, share, everything = budgets.parse_budgets('10, 1%,all')
  assert (one.per_class, one.fraction) == (10, 1.0)
  assert (share.per_class, share.fraction) == (0, 0.01)
  assert everything == budgets.Budget('all')
  folders = {b.folder for b in (one, share, everything)}
  assert folders == {'labels_10_per_class', 'labels_1_percent', 'labels_all'}


@pytest.mark.parametrize(
  'text', ['', '0', '-1', 'ten', '0%', '101%', '5,5', '1.5']
)
def test_what_is_no_budget(text):
  with pytest.raises(ValueError, match='--labels='):
    budgets.parse_budgets(text)


@pytest.mark.parametrize(
  'num_labels,num_devices,batch',
  [(1000, 1, 64), (40, 1, 32), (20, 1, 16), (2, 1, 2), (20, 8, 16), (2, 8, 16)],
)
def test_batches_are_halved_to_the_labels(num_labels, num_devices, batch):
  assert (
    sweep.fit_batch(64, num_labels=num_labels, num_devices=num_devices) == batch
  )


@pytest.fixture
def runs(monkeypatch):
  """Stands for `job.finetune`; records the configs it was given."""
  made = []

  def finetune(config, start, *, workdir, methods, **unused):
    made.append(config)
    count = config.labels.per_class * 10 or 1000
    rows = [
      {
        'kind': method,
        'num_labels': count,
        'accuracy': {
          'top1': 0.5 + 0.1 * k + 0.01 * config.seed,
          'majority': 0.1,
        },
      }
      for k, method in enumerate(methods)
    ]
    found = {
      'rows': rows,
      'config': json.loads(json.dumps(config_lib.to_dict(config))),
      'encoder_fingerprint': start.fingerprint,
      'data': {
        name: {
          'name': f'digits/{name}',
          'fingerprint': data.make_source(
            BASE.data, getattr(BASE.data, f'{name}_split')
          ).fingerprint,
        }
        for name in ('train', 'test')
      },
      'num_devices': 1,
      'software': {},
      'command': [],
    }
    workdir.mkdir(parents=True)
    (workdir / job.RESULT).write_text(json.dumps(found))
    return found

  monkeypatch.setattr(job, 'finetune', finetune)
  return made


def run_sweep(tmp_path, *, stage=STAGE, seeds=3):
  start = types.SimpleNamespace(
    path='/elsewhere/checkpoints/3',
    step=3,
    fingerprint='f',
    passport=PASSPORT,
  )
  return sweep.sweep(
    stage,
    start,
    workdir=tmp_path,
    budgets=budgets.parse_budgets('2,all'),
    seeds=seeds,
    methods=METHODS,
    mesh=mesh_lib.make_mesh(jax.devices()[:1]),
  )


def test_every_budget_and_seed_once_and_never_again(tmp_path, runs):
  found = run_sweep(tmp_path)
  assert [(c.labels.per_class, c.labels.seed, c.seed) for c in runs] == [
    (2, 0, 0),
    (2, 1, 1),
    (2, 2, 2),
    (0, 0, 0),
    (0, 1, 1),
    (0, 2, 2),
  ]
  assert [c.train.batch_size for c in runs] == [16] * 3 + [64] * 3
  summary = {(r['budget'], r['method']): r for r in found['summary']}
  tops = np.array([0.6, 0.61, 0.62])
  row = summary['2', 'frozen']
  assert row['top1'] == pytest.approx(tops)
  assert row['top1_mean'] == pytest.approx(tops.mean())
  assert row['top1_std'] == pytest.approx(tops.std(ddof=1))
  assert row['num_labels'] == 20
  assert json.loads((tmp_path / sweep.RESULT).read_text()) == found
  assert '61.0% ± 1.0' in sweep.format_table(found)
  again = run_sweep(tmp_path)
  assert len(runs) == 6 and again['summary'] == found['summary']
  changed = dataclasses.replace(STAGE, label_smoothing=0.1)
  with pytest.raises(FileExistsError):  # It would be trained, not reused.
    run_sweep(tmp_path, stage=changed)


@pytest.mark.parametrize('name', ['train', 'test'])
def test_numbers_of_other_pictures_are_not_taken(tmp_path, runs, name):
  run_sweep(tmp_path, seeds=1)
  file = tmp_path / 'labels_all' / 'seed0' / job.RESULT
  found = json.loads(file.read_text())
  found['data'][name]['fingerprint'] = 'of what lay there before'
  file.write_text(json.dumps(found))
  with pytest.raises(FileExistsError):
    run_sweep(tmp_path, seeds=1)


def test_what_one_process_cannot_reuse_all_train(tmp_path, runs, monkeypatch):
  run_sweep(tmp_path, seeds=1)
  monkeypatch.setattr(processes, 'gather', lambda mine: [mine, False])
  with pytest.raises(FileExistsError):
    run_sweep(tmp_path, seeds=1)


def test_a_probe_of_all_labels_has_no_spread_to_speak_of(tmp_path, runs):
  said = 'is the same run for every seed'
  assert said in sweep.format_table(run_sweep(tmp_path / 'three'))
  assert said not in sweep.format_table(run_sweep(tmp_path / 'one', seeds=1))


def test_the_plot_shows_every_seed_and_the_mean(tmp_path, runs):
  found = run_sweep(tmp_path)
  figure = curve.draw(found)
  (axes,) = figure.axes
  dots = [line for line in axes.lines if line.get_marker() == 'o']
  shown = sorted(float(y) for line in dots for y in line.get_ydata())
  assert shown == pytest.approx(
    sorted(t for row in found['summary'] for t in row['top1'])
  )
  names = [text.get_text() for text in axes.texts]
  assert names == ['frozen encoder, linear probe', 'fine-tuned']
  assert [t.get_text() for t in axes.get_xticklabels()] == ['20', '1,000']
  assert (tmp_path / sweep.PLOT).read_bytes() == plots.to_png(curve.draw(found))


def test_one_seed_has_no_spread(tmp_path, runs):
  found = run_sweep(tmp_path, seeds=1)
  assert all(row['top1_std'] is None for row in found['summary'])
  assert '±' not in sweep.format_table(found)
