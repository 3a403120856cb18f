"""A step that is not finite, left out: the rest is as if it had not been."""

from __future__ import annotations

import json
import logging as std_logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax import config as config_lib
from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import failures, feeding, loop, non_finite
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import run as run_lib
from tests.tiny_model import with_tiny_model

TOTAL, BAD = 6, (3, 4)


def make_run(**sections) -> run_lib.Run:
  """Eight devices; Adam, whose state has counters of two kinds."""
  tiny = {
    'data': {'source': 'digits', 'image_size': 8},
    'augment': {'blur_prob': 0.0},
    'optim': {'name': 'adam', 'warmup': '2 steps'},
    'train': {
      'batch_size': 16,
      'duration': f'{TOTAL} steps',
      'log_every': '2 steps',
      'diagnostics_every': '0 steps',
      'on_non_finite': 'skip',
    },
    'checkpoint': {'every': '4 steps', 'asynchronous': False},
  }
  for name, fields in sections.items():
    tiny[name] = {**tiny.get(name, {}), **fields}
  config = config_lib.replace(config_lib.Config(), **tiny)
  return with_tiny_model(run_lib.make_run(config))


@pytest.fixture(scope='module')
def run() -> run_lib.Run:
  return make_run()


@pytest.fixture(scope='module')
def train_step(run):
  return run.train_step()


@pytest.fixture(scope='module')
def batches(run):
  """Those of the steps; one value of one view of the bad ones is NaN."""
  with jax.set_mesh(run.mesh):
    found = [batch for batch, _ in feeding.train_feed(run, start_step=0)]
  for step in BAD:
    views = np.array(found[step - 1]['views'])
    views[5, 1, 2, 3, 0] = np.nan
    placed = mesh_lib.put_batch({'views': views}, run.mesh)
    found[step - 1] = {**found[step - 1], **placed}
  return found


def leave_out(state):
  """The state after a step that never was: only the counters go on."""
  opt_state = [
    part._replace(count=part.count + 1)
    if isinstance(part, optax.ScaleByScheduleState)
    else part
    for part in state.opt_state
  ]
  return state._replace(step=state.step + 1, opt_state=tuple(opt_state))


def test_equal_to_a_run_without_the_bad_steps(run, train_step, batches):
  # The precision of the loop: else the step is compiled a second time.
  with jax.set_mesh(run.mesh), jax.default_matmul_precision('default'):
    state, want, rates = run.init_state(), run.init_state(), []
    for number, batch in enumerate(batches, start=1):
      old = state
      state, output = train_step(state, batch)
      assert all(x.is_deleted() for x in jax.tree.leaves(old.params))
      rates.append(float(output.metrics['learning_rate']))
      skipped = number in BAD
      assert float(output.metrics['skipped']) == skipped
      assert np.isnan(float(output.metrics['loss'])) == skipped
      if skipped:
        want = leave_out(want)
      else:
        want, _ = train_step(want, batch)
  # The rate of the steps that follow is that of their number, not of the
  # number of updates.
  np.testing.assert_allclose(rates, [run.schedule(k) for k in range(TOTAL)])
  assert jax.tree.structure(state) == jax.tree.structure(want)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(state),
    jax.tree.leaves(want),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
  # Adam corrects by the number of updates that its moments have seen.
  adam, by_schedule = state.opt_state[1:]
  assert int(adam.count) == int(adam.inner_state.count) == TOTAL - len(BAD)
  assert int(by_schedule.count) == TOTAL


def test_any_watched_number_undoes_the_step():
  zero = {'w': jnp.zeros(2)}
  old = run_lib.state_lib.TrainState(jnp.int32(1), zero, zero, (), {})
  new = jax.tree.map(lambda x: x + 1, old)
  for name in (None, *non_finite.WATCHED):
    metrics = {k: jnp.float32(1) for k in non_finite.WATCHED}
    if name is not None:
      metrics[name] = jnp.float32(np.inf)
    state, result = non_finite.undo(old, new, metrics)
    assert int(state.step) == 2
    assert float(state.params['w'][0]) == float(state.model_state['w'][0])
    assert float(state.params['w'][0]) == (1 if name is None else 0)
    assert float(result['skipped']) == (name is not None)


@pytest.fixture
def pretrain(train_step, monkeypatch):
  """The loop on batches of which those in `bad` hold a NaN."""
  feed = feeding.train_feed
  # One program for all: how many may be skipped is no part of it.
  monkeypatch.setattr(run_lib.Run, 'train_step', lambda self: train_step)

  def pretrain(run, workdir, *, bad):
    def spoiled(run, *, start_step):
      batches = feed(run, start_step=start_step)
      for step, (batch, index) in enumerate(batches, start=start_step + 1):
        if step in bad:
          batch = {**batch, 'views': batch['views'] * jnp.nan}
        yield batch, index

    monkeypatch.setattr(feeding, 'train_feed', spoiled)
    return loop.pretrain(run, str(workdir))

  return pretrain


def test_the_loop_says_counts_and_goes_on(tmp_path, run, pretrain, caplog):
  with caplog.at_level(std_logging.WARNING, logger='absl'):
    outcome = pretrain(run, tmp_path, bad=BAD)
  assert outcome.finished
  warned = [r.getMessage() for r in caplog.records if 'skipped' in r.message]
  assert len(warned) == 2
  assert 'loss is nan' in warned[1] and 'at step 4: skipped' in warned[1]
  assert '(2 in a row)' in warned[1]
  lines = metrics_lib.read_lines(tmp_path / metrics_lib.FILE_NAME)
  counts = {r['step']: r['skipped_steps'] for r in lines}
  assert counts == {2: 0, 3: 1, 4: 2, 6: 2}
  assert [r['skipped_in_a_row'] for r in lines] == [0, 1, 2, 0]
  record = json.loads((tmp_path / 'failure-step-4.json').read_text())
  assert record['skipped'] and len(record['example_ids']) == 16
  # A checkpoint of a skipped step is that of the state before it.
  for step in (4, TOTAL):
    arrays = checkpoint_lib.load_state_arrays(tmp_path, step=step)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(arrays))


def test_too_many_in_a_row_end_the_run_also_over_restarts(
  tmp_path, run, pretrain
):
  stop = make_run(train={'max_skipped_steps': 2})
  with pytest.raises(failures.NonFiniteLoss) as caught:
    pretrain(stop, tmp_path, bad=(3, 4, 5, 6))
  assert 'loss is nan' in str(caught.value)
  assert 'at step 5, and so were the 2 before it' in str(caught.value)
  assert checkpoint_lib.list_steps(tmp_path) == [4]
  with pytest.raises(failures.NonFiniteLoss, match='and so were the 2 before'):
    pretrain(stop, tmp_path, bad=(5,))
  # More patience is no other recipe.
  assert pretrain(run, tmp_path, bad=(5,)).finished


def test_stopping_adds_nothing_to_the_program(monkeypatch):
  stop = make_run(train={'on_non_finite': 'stop'})
  monkeypatch.setattr(non_finite, 'undo', None)  # A call of it fails.
  sharding = mesh_lib.batch_sharding(stop.mesh)
  batch = {
    'views': jax.ShapeDtypeStruct(
      (16, 2, 8, 8, 3), jnp.float32, sharding=sharding
    ),
    'label': jax.ShapeDtypeStruct((16,), jnp.int32, sharding=sharding),
  }
  with jax.set_mesh(stop.mesh):
    _, output = jax.eval_shape(stop.train_step(), stop.abstract_state(), batch)
  assert 'skipped' not in output.metrics
