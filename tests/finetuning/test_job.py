"""Fine-tuning and distillation on real digits, stopped and resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models, processes
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.exporters import network, torch_form
from simclr_jax.finetuning import config as finetune_lib
from simclr_jax.finetuning import distillation, job, judging, report
from simclr_jax.finetuning import stage as stage_lib
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import passport as passport_lib
from simclr_jax.training import saver as saver_lib
from tests import multi_process, small_run

PRETRAINED = config_lib.replace(
  small_run.CONFIG,
  data={
    'source': 'digits',
    'train_split': 'train',
    'test_split': 'test[:120]',
    'loader': 'opencv',
  },
  augment={'flip_prob': 0.0, 'crop_area': (0.6, 1.0)},
  model={'head_layers': 2, 'head_hidden': 16},
  eval={'batch_size': 64},
)
STAGE = finetune_lib.read_finetune(
  {
    'head_layer': 1,
    'evaluate_every': '4 steps',
    'patience': 50,
    'num_bootstrap': 100,
    'labels': {'per_class': 20, 'holdout_fraction': 0.2},
    'augment': {'randaugment_layers': 1, 'mixup_alpha': 0.2},
    'optim': {
      'base_lr': 0.05,
      'name': 'sgd',
      'lr_scaling': 'none',
      'warmup': '0 steps',
    },
    'train': {
      'batch_size': 32,
      'duration': '12 steps',
      'log_every': '4 steps',
      'diagnostics_every': '0 steps',
    },
  }
)

STUDENT = finetune_lib.read_distill(
  {
    # So short a fine-tuning makes a teacher that hardly prefers a class.
    'temperature': 0.05,
    'labelled_weight': 0.25,
    'use_holdout': True,
    'evaluate_every': '12 steps',
    'num_bootstrap': 100,
    'optim': {
      'base_lr': 0.01,
      'name': 'adam',
      'lr_scaling': 'none',
      'warmup': '0 steps',
    },
    'train': {
      'batch_size': 32,
      'duration': '24 steps',
      'log_every': '1 steps',
      'diagnostics_every': '0 steps',
    },
  }
)


@pytest.fixture(scope='module', autouse=True)
def compiled_once(tmp_path_factory):
  """Runs of one recipe share their programs, as in the shell."""
  names = (
    'jax_enable_compilation_cache',
    'jax_compilation_cache_dir',
    'jax_persistent_cache_min_compile_time_secs',
  )
  before = {name: getattr(jax.config, name) for name in names}
  folder = str(tmp_path_factory.mktemp('programs'))
  for name, value in zip(names, (True, folder, 0.0), strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture(scope='module')
def mesh():
  return mesh_lib.make_mesh(jax.devices()[:1])


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('pretrained')
  small_run.save_small_run(workdir, config=PRETRAINED)
  return checkpoint.load_encoder(workdir)


@pytest.fixture(scope='module')
def finished(start, mesh, tmp_path_factory):
  """(workdir, report) of an uninterrupted run."""
  workdir = tmp_path_factory.mktemp('finetuned')
  found = job.finetune(
    STAGE, start, workdir=workdir, methods=('finetune', 'frozen'), mesh=mesh
  )
  return workdir, found


def _lines(workdir, name):
  """Lines of metrics.jsonl that have it."""
  text = (workdir / 'metrics.jsonl').read_text()
  return [x for x in map(json.loads, text.splitlines()) if name in x]


def test_the_table_has_every_method_on_the_same_labels(finished):
  workdir, found = finished
  assert json.loads((workdir / job.RESULT).read_text()) == found
  assert [row['kind'] for row in found['rows']] == ['finetune', 'frozen']
  for row in found['rows']:
    accuracy = row['accuracy']
    low, high = accuracy['top1_interval']
    assert 0.1 < low <= accuracy['top1'] <= high <= 1
    assert accuracy['num_images'] == 120 and row['num_labels'] == 200
  text = report.format_table(found)
  assert 'fine-tuned' in text and 'linear probe' in text
  step = found['rows'][0]['step']
  assert f'chose step {step} of {workdir}: other commands need --step=best' in (
    text
  )


def test_the_holdout_chose_the_step(finished):
  workdir, found = finished
  judged = {
    line['step']: line['holdout_top1']
    for line in _lines(workdir, 'holdout_top1')
  }
  assert list(judged) == [4, 8, 12]
  row = found['rows'][0]
  assert row['holdout_top1'] == max(judged.values()) == judged[row['step']]


def test_accuracy_is_that_of_the_saved_network_with_frozen_batch_norm(
  finished, start
):
  workdir, found = finished
  loaded = checkpoint.load_encoder(workdir, step=found['rows'][0]['step'])
  config = passport_lib.config_from_passport(loaded.passport)
  assert config.model.classifier_layer == 1
  model = models.make_model(config.model, image_size=8, num_classes=10)
  from sklearn import datasets

  bunch = datasets.load_digits()
  rows = np.concatenate(
    [np.flatnonzero(bunch.target == c)[4::5] for c in range(10)]
  )
  rows = np.sort(rows)[:120]
  images = np.rint(bunch.images[rows] * (255 / 16)) / 255
  images = np.repeat(images[..., None], 3, -1).astype(np.float32)
  outputs = jax.jit(functools.partial(model.apply, train=False))(
    loaded.variables, images
  )
  right = np.asarray(outputs.logits).argmax(1) == bunch.target[rows]
  assert found['rows'][0]['accuracy']['top1'] == pytest.approx(right.mean())
  # The classifier reads the first layer of the head, whose kernel moved.
  head = loaded.variables['params']['online_head']
  np.testing.assert_allclose(
    outputs.logits,
    np.asarray(outputs.head_layers[1]) @ head['kernel'] + head['bias'],
    atol=1e-4,
  )
  # An export knows it too, and a format that cannot hold it says so.
  exported = network.make_network(loaded, outputs=('h', 'logits'))
  np.testing.assert_allclose(
    exported.features(images)['logits'], outputs.logits, atol=1e-4
  )
  with pytest.raises(ValueError, match='its classifier reads h, here layer 1'):
    torch_form.check(exported, name='torchvision', depths=(18,))
  old, new = start.variables['params'], loaded.variables['params']
  for path, moved in (
    (('backbone', 'conv1', 'kernel'), True),
    (('head', 'dense1', 'kernel'), True),
    (('head', 'dense2', 'kernel'), False),
  ):
    before, after = old, new
    for name in path:
      before, after = before[name], after[name]
    assert (np.abs(before - after).max() > 0) == moved, path


def test_the_passport_says_what_it_is_and_others_read_it(finished, start, mesh):
  loaded = checkpoint.load_encoder(finished[0])
  passport = loaded.passport
  assert passport['objective'] == 'finetune'
  section = passport['finetune']
  assert section['start']['fingerprint'] == start.fingerprint
  assert section['config']['head_layer'] == 1
  labelled = section['labelled']
  assert (labelled['num_fit'], labelled['num_holdout']) == (160, 40)
  assert labelled['labels']['per_class'] == 20
  assert passport['data']['num_classes'] == 10
  assert passport['data']['num_examples'] == 160
  encoder = encoder_lib.make_encoder(loaded, mesh=mesh)
  assert encoder.config.model.head_layers == 2


def test_stopped_and_resumed_is_bit_equal(
  finished, start, mesh, tmp_path, monkeypatch
):
  save = saver_lib.Saver.save

  def save_and_stop(self, step, *args):
    save(self, step, *args)
    if step == 4:
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(saver_lib.Saver, 'save', save_and_stop)
    assert job.finetune(STAGE, start, workdir=tmp_path, mesh=mesh) is None
  assert max(checkpoint.list_steps(tmp_path)) < 12
  found = job.finetune(STAGE, start, workdir=tmp_path, mesh=mesh)
  whole = checkpoint.load_state_arrays(finished[0])
  again = checkpoint.load_state_arrays(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, whole, again)
  before = checkpoint.load_encoder(finished[0]).passport['metrics']
  after = checkpoint.load_encoder(tmp_path).passport['metrics']
  names = ('best_value', 'best_step', 'evaluations_since_best', 'loss')
  assert [before[n] for n in names] == [after[n] for n in names]
  assert found['rows'][0] == {
    **finished[1]['rows'][0],
    'workdir': str(tmp_path),
  }


def test_stopped_while_it_judges_the_same_step_is_chosen(
  finished, start, mesh, tmp_path, monkeypatch
):
  chosen, accuracy = finished[1]['rows'][0]['step'], judging.Judge.accuracy
  judged = []

  def accuracy_and_stop(self, variables, source, **how):
    judged.append(source.num_examples)
    if judged.count(40) == chosen // 4 and judged[-1] == 40:
      os.kill(os.getpid(), signal.SIGTERM)
    return accuracy(self, variables, source, **how)

  with monkeypatch.context() as patch:
    patch.setattr(judging.Judge, 'accuracy', accuracy_and_stop)
    found = job.finetune(STAGE, start, workdir=tmp_path, mesh=mesh)
  assert judged.count(40) == chosen // 4  # It was stopped there.
  metrics = checkpoint.load_encoder(tmp_path, step=chosen).passport['metrics']
  assert metrics['holdout_top1'] == finished[1]['rows'][0]['holdout_top1']
  if found is None:
    found = job.finetune(STAGE, start, workdir=tmp_path, mesh=mesh)
  assert found['rows'][0] == {
    **finished[1]['rows'][0],
    'workdir': str(tmp_path),
  }


def test_ends_early_at_the_newest_of_equal_steps(
  finished, start, mesh, tmp_path, monkeypatch
):
  impatient = dataclasses.replace(STAGE, patience=1)
  judged = []

  def make_evaluate_fn(judge, holdout):
    def evaluate(run, state, stop_fn):
      judged.append(int(state.step))
      return {'holdout_top1': 0.5, 'holdout_nll': 1.0}

    return evaluate

  monkeypatch.setattr(stage_lib, '_make_evaluate_fn', make_evaluate_fn)
  found = job.finetune(impatient, start, workdir=tmp_path, mesh=mesh)
  assert judged == [4, 8] and found['rows'][0]['step'] == 8
  loaded = checkpoint.load_encoder(tmp_path)
  assert (loaded.step, loaded.passport['metrics']['best_step']) == (8, 8)
  again = job.finetune(impatient, start, workdir=tmp_path, mesh=mesh)
  assert judged == [4, 8] and again['rows'] == found['rows']


@pytest.mark.parametrize(
  'change,said',
  [
    ({'seed': 1}, 'seed: 0 -> 1'),
    ({'label_smoothing': 0.1}, 'finetune.config.label_smoothing: 0.0 -> 0.1'),
    ({'patience': 3}, 'finetune.config.patience'),
    (
      {'labels': dataclasses.replace(STAGE.labels, seed=9)},
      'finetune.labelled.labels.seed: 0 -> 9',
    ),
  ],
)
def test_another_recipe_is_refused_in_the_same_workdir(
  finished, start, mesh, change, said
):
  other = dataclasses.replace(STAGE, **change)
  with pytest.raises(ValueError, match='another run') as error:
    job.finetune(other, start, workdir=finished[0], mesh=mesh)
  assert said in str(error.value)
  assert '--continue_from' not in str(error.value)


def test_the_encoders_own_workdir_is_refused(start, mesh):
  workdir = os.path.dirname(os.path.dirname(start.path))
  with pytest.raises(ValueError, match='choose a new workdir'):
    job.finetune(STAGE, start, workdir=workdir, mesh=mesh)


@pytest.fixture(scope='module')
def student(finished, mesh, tmp_path_factory):
  """(workdir, report) of a student of `finished`."""
  open_blocks = []

  @contextlib.contextmanager
  def together():
    open_blocks.append(1)
    yield
    open_blocks.pop()

  make_extend_fn = distillation._make_extend_fn

  def outside(*args):
    assert not open_blocks  # With several processes it is a collective.
    return make_extend_fn(*args)

  workdir = tmp_path_factory.mktemp('student')
  teacher = checkpoint.load_encoder(finished[0], step='best')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(processes, 'together', together)
    patch.setattr(distillation, '_make_extend_fn', outside)
    found = distillation.distill(STUDENT, teacher, workdir=workdir, mesh=mesh)
  return workdir, found


def test_a_student_learns_from_the_teacher(student, finished):
  workdir, found = student
  assert [row['kind'] for row in found['rows']] == ['teacher', 'distill']
  of_teacher = found['rows'][0]['accuracy']
  assert of_teacher['top1'] == finished[1]['rows'][0]['accuracy']['top1']
  # Without the teacher's holdout.
  assert found['data']['train']['num_examples'] == 1442 - 40
  losses = _lines(workdir, 'teacher_entropy')
  apart = []  # Kullback-Leibler, nats.
  for line in losses:
    mixture = line['loss'] - 0.25 * line['label_loss']
    apart.append(mixture / 0.75 - line['teacher_entropy'])
  assert min(apart) > -1e-4
  assert np.mean(apart[-4:]) < 0.8 * np.mean(apart[:2])
  teacher = checkpoint.load_encoder(finished[0], step='best')
  passport = checkpoint.load_encoder(workdir).passport
  assert passport['objective'] == 'distill'
  assert passport['config']['model']['head'] == 'none'
  assert passport['distill']['teacher']['fingerprint'] == teacher.fingerprint
  assert passport['distill']['labelled']['num_fit'] == 160
  assert passport['data']['class_names'] == [str(k) for k in range(10)]


def _config_file(path, config):
  """A file for --config."""
  values = json.dumps(config_lib.to_dict(config))
  path.write_text(
    'import json\nfrom ml_collections import ConfigDict\n'
    f'def get_config():\n  return ConfigDict(json.loads({values!r}))\n'
  )
  return path


def test_commands_as_two_processes_give_what_one_gives(
  start, finished, student, tmp_path
):
  encoder = os.path.dirname(os.path.dirname(start.path))
  labels, distilled = tmp_path / 'labels', tmp_path / 'distilled'
  for command, config, checkpoint_of, workdir, flags in (
    (
      *('label_efficiency', STAGE, encoder, labels),
      ('--labels=20', '--seeds=1', '--methods=finetune'),
    ),
    ('distill', STUDENT, finished[0], distilled, ()),
  ):
    file = _config_file(tmp_path / f'{command}.py', config)
    with multi_process.Processes(
      (
        f'--config={file}',
        f'--checkpoint={checkpoint_of}',
        f'--workdir={workdir}',
        *flags,
      ),
      module=f'simclr_jax.{command}',
      count=2,
      devices=1,
      logs=tmp_path / 'logs' / command,
    ) as running:
      running.finish()
      tables = ['\n-----' in running.log(k) for k in range(2)]
      assert tables == [True, False]  # One of them says it.
  trained = labels / 'labels_20_per_class' / 'seed0'
  assert _losses(trained) == pytest.approx(_losses(finished[0]), rel=1e-5)
  want, got = _losses(student[0]), _losses(distilled)
  assert len(want) == len(got) == 24
  # What sums in another order change, Adam makes more of with every step.
  assert got[0] == pytest.approx(want[0], rel=1e-5)
  assert got[:3] == pytest.approx(want[:3], rel=5e-3)


def _losses(workdir):
  return [line['loss'] for line in _lines(workdir, 'loss')]


def test_who_is_no_teacher(start, mesh, tmp_path, finished):
  stage = finetune_lib.DistillConfig()
  with pytest.raises(ValueError, match="a checkpoint of 'simclr'"):
    distillation.distill(stage, start, workdir=tmp_path, mesh=mesh)
  teacher = checkpoint.load_encoder(finished[0])
  other = dataclasses.replace(
    stage,
    labelled_weight=0.5,
    data=finetune_lib.DataChanges(train_split='train[:800]'),
  )
  with pytest.raises(ValueError, match='is other data'):
    distillation.distill(other, teacher, workdir=tmp_path, mesh=mesh)
