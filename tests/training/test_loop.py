"""The loop: what it writes, in which order, and how it stops."""

import contextlib
import dataclasses
import json
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import config as config_lib
from simclr_jax import retries
from simclr_jax.data import pipeline, reading
from simclr_jax.evaluation import features
from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import failures, loop
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import run as run_lib
from tests import flaky
from tests.tiny_model import with_tiny_model

TOTAL = 7


def make_run(**sections):
  tiny = {
    'data': {'source': 'digits', 'image_size': 8},
    'augment': {'blur_prob': 0.0},
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
  mesh = mesh_lib.make_mesh(jax.devices()[:2])
  return with_tiny_model(run_lib.make_run(config, mesh=mesh))


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

  def evaluate(run, state, stop_fn):
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
  newest = record['step'] - 1
  # The rate is that large from step 1 on: nothing lasts long.
  assert saved == list(range(1, newest + 1)) and newest < 5
  good = record['last_good_checkpoint']
  if newest > 1:
    assert good == str(tmp_path / 'checkpoints' / str(newest - 1))
  else:
    assert good is None
  for step in saved:
    arrays = checkpoint_lib.load_encoder(tmp_path, step=step).variables
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(arrays))
  assert len(record['example_ids']) == 16
  assert not (tmp_path / checkpoint_lib.FINISHED).exists()


def losing(run, step, *, trained=None):
  """The run, and a source that refuses the images of a step."""
  *_, last = pipeline.train_batches(
    run.source,
    data=run.config.data,
    augment=run.config.augment,
    batch_size=run.config.train.batch_size,
    seed=run.config.seed,
    num_steps=step,
  )
  lost = set(last['index'].tolist())

  def read(i):
    if i in lost:
      if trained is not None:
        trained.wait(60)
      flaky.refuse(path='away.png')
    return run.source.read(i)

  source = dataclasses.replace(run.source, read=read)
  return dataclasses.replace(run, source=source)


@pytest.mark.parametrize('loader', ['opencv', 'tf'])
@pytest.mark.parametrize('signalled', [False, True])
def test_data_that_stay_away_end_the_run_saved(
  tmp_path, monkeypatch, loader, signalled
):
  monkeypatch.setattr(retries, '_episode', retries._Episode())
  monkeypatch.setattr(retries, 'limit', 600 if signalled else 0.5)
  run = make_run(
    data={'loader': loader},
    train={'batch_size': 32},  # a chunk of reads
    monitor={'knn_every': '2 steps'},
  )
  trained = threading.Event()

  def evaluate(run, state, stop_fn):
    if signalled:
      threading.Timer(1, signal.raise_signal, (signal.SIGTERM,)).start()
    trained.set()
    return {'knn_top1': 0.5}

  with pytest.raises(failures.StoppedWithoutData, match=r'away\.png.*step 2,'):
    loop.pretrain(
      losing(run, 4, trained=trained), str(tmp_path), evaluate_fn=evaluate
    )
  assert checkpoint_lib.list_steps(tmp_path) == [2]
  assert not (tmp_path / checkpoint_lib.FINISHED).exists()
  assert loop.pretrain(run, str(tmp_path)).step == TOTAL


def test_an_evaluation_that_cannot_read_is_owed(tmp_path, monkeypatch):
  monkeypatch.setattr(retries, '_episode', retries._Episode())
  monkeypatch.setattr(retries, 'limit', 0)
  run = make_run(monitor={'knn_every': '3 steps'})
  away = losing(run, 1).source

  def fetch():
    for i in range(away.num_examples):
      reading.read(away, i)
    yield {}

  def evaluate(run, state, stop_fn):
    with contextlib.suppress(features.GivenUp):
      list(features._until_stopped(fetch(), stop_fn))
      return {'knn_top1': 0.5}

  with pytest.raises(failures.StoppedWithoutData, match='step 3,'):
    loop.pretrain(run, str(tmp_path), evaluate_fn=evaluate)
  newest = checkpoint_lib.load_encoder(tmp_path)
  assert newest.step == 3 and 'evaluation_owed' in newest.passport['metrics']


@pytest.mark.parametrize('part', ['params', 'model_state'])
def test_a_state_that_is_no_number_is_never_evaluated_or_saved(tmp_path, part):
  """The loss and gradient of the step that makes it are finite."""
  run = make_run(
    checkpoint={'every': '1 steps', 'keep_latest': 9},
    monitor={'knn_every': '1 steps'},
  )
  if part == 'params':
    bad = optax.GradientTransformation(
      run.optimizer.init,
      lambda grads, state, params: (
        jax.tree.map(lambda g: jnp.full_like(g, jnp.inf), grads),
        state,
      ),
    )
    run = dataclasses.replace(run, optimizer=bad)
  else:
    sound = run.objective.loss

    def loss(*args):
      result = sound(*args)
      broken = jax.tree.map(lambda x: x * jnp.nan, result.model_state)
      return result._replace(model_state=broken)

    objective = dataclasses.replace(run.objective, loss=loss)
    run = dataclasses.replace(run, objective=objective)
  evaluated = []
  with pytest.raises(failures.NonFiniteLoss, match=r'^state_norm is \w+ at'):
    loop.pretrain(
      run, str(tmp_path), evaluate_fn=lambda *a: evaluated.append(a) or {}
    )
  assert checkpoint_lib.list_steps(tmp_path) == [] and not evaluated
