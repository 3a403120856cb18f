"""The loop: what it writes, in which order, and how it stops."""

import json

import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import failures, loop
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import run as run_lib

TOTAL = 7


def make_run(**sections):
  tiny = {
    'data': {'source': 'digits', 'image_size': 8},
    'augment': {'blur_prob': 0.0},
    'model': {
      'depth': 18,
      'width': 0.0625,
      'head_layers': 1,
      'head_dim': 8,
      'head_norm': 'none',
    },
    'optim': {'warmup': '0 steps'},
    'train': {
      'batch_size': 16,
      'duration': f'{TOTAL} steps',
      'log_every': '2 steps',
      'diagnostics_every': '3 steps',
    },
    'checkpoint': {'every': '3 steps', 'keep_latest': 1},
  }
  for name, fields in sections.items():
    tiny[name] = {**tiny.get(name, {}), **fields}
  config = config_lib.replace(config_lib.Config(), **tiny)
  return run_lib.make_run(config)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run with everything periodic on; (workdir, steps evaluated)."""
  workdir = tmp_path_factory.mktemp('run')
  run = make_run(
    train={'profile_start': 2, 'profile_steps': 2},
    monitor={'knn_every': '3 steps'},
    checkpoint={'keep_best': 1, 'best_metric': 'knn_top1'},
  )
  evaluated = []

  def evaluate(run, state):
    evaluated.append(int(state.step))
    return {'knn_top1': {3: 0.9, 6: 0.5, 7: 0.6}[int(state.step)]}

  outcome = loop.pretrain(run, str(workdir), evaluate_fn=evaluate)
  assert outcome.finished and outcome.step == TOTAL
  return workdir, evaluated


def read(workdir):
  return metrics_lib.read_lines(workdir / metrics_lib.FILE_NAME)


def test_logs_when_due_and_at_the_end(finished):
  lines = [r for r in read(finished[0]) if 'loss' in r]
  assert [r['step'] for r in lines] == [2, 3, 4, 6, 7]
  costly = [r['step'] for r in lines if 'effective_rank' in r]
  assert costly == [3, 6, 7]
  assert 'images_per_second_per_device' in lines[-1]
  assert 'input_wait_percent' in lines[-1]


def test_evaluates_when_due_and_records_it_with_the_checkpoint(finished):
  workdir, evaluated = finished
  assert evaluated == [3, 6, 7]
  lines = {r['step']: r['knn_top1'] for r in read(workdir) if 'knn_top1' in r}
  assert lines == {3: 0.9, 6: 0.5, 7: 0.6}
  # The newest, and the best although two newer ones came after it.
  assert sorted(checkpoint_lib.list_steps(workdir)) == [3, TOTAL]
  best = checkpoint_lib.load_encoder(workdir, step='best')
  assert best.step == 3
  assert best.passport['metrics']['knn_top1'] == 0.9


def test_marks_the_end(finished):
  marker = json.loads((finished[0] / checkpoint_lib.FINISHED).read_text())
  assert marker == {'step': TOTAL}


def test_profiles_the_window(finished):
  traces = list((finished[0] / 'profile').rglob('*.xplane.pb'))
  assert len(traces) == 1


def test_non_finite_loss_stops_before_a_checkpoint_and_names_the_images(
  tmp_path,
):
  run = make_run(
    optim={'name': 'sgd', 'base_lr': 1e30, 'lr_scaling': 'none'},
    checkpoint={'every': '1 steps', 'keep_latest': 9},
    train={'duration': '50 steps'},
  )
  with pytest.raises(failures.NonFiniteLoss, match='last good checkpoint'):
    loop.pretrain(run, str(tmp_path))
  (file,) = tmp_path.glob('failure-step-*.json')
  record = json.loads(file.read_text())
  saved = checkpoint_lib.list_steps(tmp_path)
  assert record['step'] == max(saved, default=0) + 1
  if saved:
    assert record['last_good_checkpoint'].endswith(str(max(saved)))
    arrays = checkpoint_lib.load_encoder(tmp_path).variables
    assert np.isfinite(arrays['params']['backbone']['conv1']['kernel']).all()
  assert len(record['example_ids']) == 16
  assert not (tmp_path / checkpoint_lib.FINISHED).exists()
