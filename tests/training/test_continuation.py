"""A new workdir that goes on from an old state, with another batch."""

from __future__ import annotations

import functools
import json
import logging as std_logging
import shutil

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from simclr_jax import config as config_lib
from simclr_jax import main
from simclr_jax.data import order
from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import continuation, feeding, loop, recipe
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import run as run_lib
from simclr_jax.training import step as step_lib
from simclr_jax.training.state import TrainState

# 10 steps of 16 images, then 20 of 8; the digits have 1440.
EXAMPLES, BATCH, CONTINUED = 160, 16, 5


def make_config(**sections):
  tiny = {
    'data': {'source': 'digits', 'image_size': 8, 'loader': 'opencv'},
    'augment': {'blur_prob': 0.0},
    'model': {'depth': 18, 'width': 0.03125, 'head_layers': 1, 'head_dim': 8},
    'optim': {'name': 'lars', 'warmup': '64 examples'},
    'train': {
      'batch_size': BATCH,
      'duration': f'{EXAMPLES} examples',
      'log_every': '1 steps',
      'diagnostics_every': '0 steps',
    },
    'checkpoint': {
      'every': '1 steps', 'keep_latest': 99, 'asynchronous': False
    },
  }  # fmt: skip
  for name, fields in sections.items():
    tiny[name] = {**tiny.get(name, {}), **fields}
  return config_lib.replace(config_lib.Config(), **tiny)


def make_run(**sections):
  return run_lib.make_run(
    make_config(**sections), mesh=mesh_lib.make_mesh(jax.devices()[:1])
  )


def init():
  params = {'backbone': {'kernel': jnp.arange(12.0).reshape(4, 3) / 12}}
  return params, {'bn': {'mean': jnp.zeros(3)}}


@pytest.fixture(scope='module', autouse=True)
def a_small_network():
  """A layer instead of a ResNet; data, optimizer, schedule, loop are real."""

  def init_state(self):
    params, model_state = init()
    state = TrainState(
      step=jnp.int32(0),
      params=params,
      model_state=model_state,
      opt_state=self.optimizer.init(params),
      extra={},
    )
    return jax.device_put(state, mesh_lib.replicated(self.mesh))

  def abstract_state(self):
    sharding = mesh_lib.replicated(self.mesh)
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      self.init_state(),
    )

  def train_step(self):
    def loss_fn(params, x_Bx3):
      y_Bx4 = jnp.tanh(x_Bx3 @ params['backbone']['kernel'].T)
      return jnp.mean(jnp.square(y_Bx4 - 0.5))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
      x_Bx3 = jax.reshard(batch['views'].mean((1, 2, 3)), P())
      loss, grads = jax.value_and_grad(loss_fn)(state.params, x_Bx3)
      updates, opt_state = self.optimizer.update(
        grads, state.opt_state, state.params
      )
      params = optax.apply_updates(state.params, updates)
      mean = 0.9 * state.model_state['bn']['mean'] + 0.1 * x_Bx3.mean(0)
      metrics = {
        'loss': loss,
        'total_loss': loss,
        'learning_rate': self.schedule(state.step),
        'grad_norm': optax.tree.norm(grads),
        'state_norm': optax.tree.norm(params),
      }
      new = TrainState(
        state.step + 1, params, {'bn': {'mean': mean}}, opt_state, {}
      )
      return new, step_lib.StepOutput(metrics, x_Bx3)

    return step

  with pytest.MonkeyPatch.context() as patch:
    for method in (init_state, abstract_state, train_step):
      patch.setattr(run_lib.Run, method.__name__, method)
    patch.setattr(recipe, 'describe', lambda *args, **kwargs: '')
    patch.setattr(metrics_lib, '_make_tensorboard', lambda workdir: None)
    yield


@pytest.fixture(scope='module')
def old(tmp_path_factory):
  """A finished run with all its checkpoints."""
  workdir = tmp_path_factory.mktemp('old')
  assert loop.pretrain(make_run(), str(workdir)).finished
  return workdir


def start_of(old):
  return str(old / 'checkpoints' / str(CONTINUED))


def assert_same_state(workdir, step, other, other_step):
  got = checkpoint_lib.load_state_arrays(workdir, step=step)
  want = checkpoint_lib.load_state_arrays(other, step=other_step)
  assert checkpoint_lib.fingerprint(got) == checkpoint_lib.fingerprint(want)


def test_the_same_batch_is_a_plain_resumption(old, tmp_path):
  loop.pretrain(make_run(), str(tmp_path), continue_from=start_of(old))
  assert checkpoint_lib.list_steps(tmp_path) == [6, 7, 8, 9, 10]
  for step in (6, 10):
    assert_same_state(tmp_path, step, old, step)
  lines = metrics_lib.read_lines(tmp_path / metrics_lib.FILE_NAME)
  theirs = metrics_lib.read_lines(old / metrics_lib.FILE_NAME)
  assert [(r['step'], r['loss']) for r in lines] == [
    (r['step'], r['loss']) for r in theirs if r['step'] > CONTINUED
  ]


def test_half_the_batch_goes_on_at_the_same_example(
  old, tmp_path, monkeypatch, caplog
):
  taken = {}
  feed = feeding.train_feed

  def noted(run, *, start_step):
    batches = feed(run, start_step=start_step)
    for step, (batch, index) in enumerate(batches, start=start_step + 1):
      taken[step] = list(index)
      yield batch, index

  monkeypatch.setattr(feeding, 'train_feed', noted)
  run = make_run(train={'batch_size': BATCH // 2})
  with caplog.at_level(std_logging.INFO, logger='absl'):
    outcome = loop.pretrain(run, str(tmp_path), continue_from=start_of(old))

  # The examples: what the old run would have taken next, in halves.
  assert sorted(taken) == list(range(11, 21))
  ahead = order.permutation(0, 0, run.source.num_examples)
  want = ahead[CONTINUED * BATCH : EXAMPLES].reshape(10, BATCH // 2)
  np.testing.assert_array_equal([taken[k] for k in sorted(taken)], want)

  # The rate: that of the schedule over 20 steps, used and written.
  lines = metrics_lib.read_lines(tmp_path / metrics_lib.FILE_NAME)
  rates = {r['step']: r['learning_rate'] for r in lines}
  assert sorted(rates) == sorted(taken)
  peak, warmup, total = 0.3 * 8 / 256, 8, 20
  for step, rate in rates.items():
    share = (step - 1 - warmup) / (total - warmup)
    assert rate == pytest.approx(
      peak * (1 + np.cos(np.pi * share)) / 2, abs=1e-6 * peak
    )
  counts = [
    int(part.count)
    for part in jax.tree.leaves(
      outcome.state.opt_state,
      is_leaf=lambda x: isinstance(x, optax.ScaleByScheduleState),
    )
    if isinstance(part, optax.ScaleByScheduleState)
  ]
  assert counts == [20] and int(outcome.state.step) == 20

  said = caplog.text
  for line in (
    r'continued from the checkpoint of step 5 with 80 examples seen:',
    r'  global batch                      16  ->             8',
    r'  step                               5  ->            10',
    r'  total steps                       10  ->            20',
    r'  done                          50.00%  ->        50.00%',
    r'  peak                         0.01875  ->      0.009375',
    r'  warm-up steps                      4  ->             8',
    r'  no example is repeated or skipped',
    r'the momentum holds updates at the old rate',
  ):
    assert line in said
  link = checkpoint_lib.load_encoder(tmp_path).passport['lineage'][-1]
  assert link['step'] == 5 and link['continued_at_step'] == 10
  assert link['batch_size'] == 16 and link['examples_repeated'] == 0
  assert link['changes'] == ['train.batch_size: 16 -> 8']
  assert link['checkpoint'] == start_of(old)


def test_the_first_step_is_taken_from_the_old_state(old, tmp_path):
  """Weights, momentum and statistics are the old ones, bit for bit."""
  run = make_run(train={'batch_size': BATCH // 2})
  begun = continuation.continue_from(run, start_of(old))
  want = checkpoint_lib.load_state(start_of(old)).arrays
  for name in ('params', 'model_state'):
    got = getattr(begun.state, name)
    assert checkpoint_lib.fingerprint(got) == checkpoint_lib.fingerprint(
      want[name]
    )
  traces = jax.tree.leaves(begun.state.opt_state[-1])
  assert any(np.asarray(x).any() for x in traces)
  assert checkpoint_lib.fingerprint(
    begun.state.opt_state[-1]
  ) == checkpoint_lib.fingerprint(want['opt_state']['3'])


def test_killed_and_started_again_with_the_same_flags(old, tmp_path):
  run = make_run(train={'batch_size': BATCH // 2})
  continued = functools.partial(
    main.run, run.config, str(tmp_path), continue_from=str(old)
  )
  with pytest.raises(ValueError, match='ends at step 20: nothing is left'):
    continued()
  longer = make_config(
    train={'batch_size': BATCH // 2, 'duration': f'{EXAMPLES + 16} examples'},
    checkpoint={'every': '1 steps'},
  )
  mesh = mesh_lib.make_mesh(jax.devices()[:1])
  make = run_lib.make_run
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      run_lib,
      'make_run',
      lambda config, **kwargs: make(config, mesh=mesh, **kwargs),
    )
    for _ in range(2):
      outcome = main.run(longer, str(tmp_path), continue_from=str(old))
      assert outcome.finished and outcome.step == 22
    # Also without the flag, but not with another one.
    assert main.run(longer, str(tmp_path)).finished
    with pytest.raises(ValueError, match=r'began from .*old0, not from'):
      main.run(longer, str(tmp_path), continue_from=start_of(old))
    with pytest.raises(ValueError, match='began from scratch, not from'):
      main.run(make_config(), str(old), continue_from=str(tmp_path))
  lineage = checkpoint_lib.load_encoder(tmp_path, step=22).passport['lineage']
  assert [link['step'] for link in lineage] == [10]
  assert json.loads(json.dumps(lineage)) == lineage


@pytest.mark.parametrize(
  ('step', 'old_batch', 'new_batch', 'want'),
  [
    (5, 16, 8, (10, 0)),
    (5, 16, 32, (2, 16)),
    (5, 16, 12, (6, 8)),
    (1, 4096, 4095, (1, 1)),
    (7, 16, 16, (7, 0)),
  ],
)
def test_steps_are_counted_in_examples(step, old_batch, new_batch, want):
  got = continuation.translate(step, old_batch=old_batch, new_batch=new_batch)
  assert got == want
  new_step, repeated = got
  # None is skipped, and fewer than a batch are repeated.
  assert new_step * new_batch + repeated == step * old_batch
  assert 0 <= repeated < new_batch


@pytest.mark.parametrize(
  ('sections', 'refused'),
  [
    ({'loss': {'temperature': 0.5}}, 'loss.temperature: 0.1 -> 0.5'),
    ({'model': {'head_dim': 16}}, 'model.head_dim: 8 -> 16'),
    ({'augment': {'flip_prob': 0.0}}, 'augment.flip_prob: 0.5 -> 0.0'),
    ({'optim': {'name': 'sgd'}}, "optim.name: 'lars' -> 'sgd'"),
    ({'data': {'train_split': 'train[:1000]'}}, 'training data: '),
  ],
)
def test_what_else_differs_is_refused_with_a_list(old, sections, refused):
  run = make_run(train={'batch_size': 8}, **sections)
  with pytest.raises(ValueError, match='cannot be continued') as caught:
    continuation.continue_from(run, str(old))
  text = str(caught.value)
  assert f'  - {refused}' in text
  assert 'train.batch_size: 16' not in text and 'May differ: train' in text


def test_another_rate_and_schedule_may_differ(old):
  run = make_run(
    optim={'base_lr': 0.1, 'schedule': 'constant', 'warmup': '0 steps'},
    train={'duration': '200 examples'},
  )
  begun = continuation.continue_from(run, start_of(old))
  assert begun.step == CONTINUED
  assert len(begun.lineage[-1]['changes']) == 4


def test_a_damaged_checkpoint_is_passed_over_and_nothing_is_touched(
  old, tmp_path, capfd
):
  copy = tmp_path / 'copy'
  shutil.copytree(old, copy)
  shutil.rmtree(copy / 'checkpoints' / '10' / 'state')
  shutil.rmtree(copy / 'checkpoints' / '9' / 'manifest')
  begun = continuation.continue_from(make_run(), str(copy))
  assert begun.step == 8
  assert 'DAMAGED' in capfd.readouterr().err
  names = {p.name for p in (copy / 'checkpoints').iterdir()}
  assert names == {str(k) for k in range(1, 11)}


def test_a_folder_without_checkpoints_is_an_error(tmp_path):
  with pytest.raises(ValueError, match='no checkpoint in'):
    continuation.continue_from(make_run(), str(tmp_path / 'nowhere'))
