"""One page for each kind of checkpoint: nothing false, and what is of use."""

from __future__ import annotations

import dataclasses
import html
import json
import re

from etils import epath
import jax
from matplotlib import image
import numpy as np
import pytest

from simclr_jax import cards, objectives, report
from simclr_jax import config as config_lib
from simclr_jax import data as data_lib
from simclr_jax.evaluation import comparison
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.exporters import job as export_job
from simclr_jax.finetuning import config as finetune_lib
from simclr_jax.finetuning import derive, labelled, stage
from simclr_jax.importers import job as import_job
from simclr_jax.reports import concerns, document, kinds, outcome, run_data
from simclr_jax.training import ancestry, checkpoint, metrics
from simclr_jax.training import mesh as mesh_lib
from tests import small_run
from tests.reports import unjudged

CONFIG = config_lib.replace(
  small_run.CONFIG,
  data={
    'source': 'digits',
    'train_split': 'train[:300]',
    'test_split': 'test[:40]',
  },
  augment={'blur_prob': 0.0},
  train={'batch_size': 32},
)
LABELS = {'per_class': 10, 'holdout_fraction': 0.2}
TRAIN = {'batch_size': 32, 'duration': '12 steps'}
# What pretraining alone may say.
FALSE = (
  r'images, without labels',
  r'without their labels',
  r'[Pp]retraining saw',
  r'which pretraining did not see',
  r'judge alone',
  r'\d negatives',
  r'config\.augment\.',
  r'pulls together',
  r'told to ignore',
  r'The loss works on z',
  r'>pretrained<',
  r'the pretrained encoder',
  r'recipe check',
  r'2 log\(2B-1\)',
  r'the learning rate had not come to its end',
)


def _pixels(config, *, mesh):
  """An encoder that compiles at once: pages are the same with any."""

  def apply_fn(variables, images):
    del variables
    h = images.reshape(images.shape[0], -1)
    return {'h': h, 'z': h[:, :4]}

  plain = encoder_lib.make_raw_pixel_encoder(config, mesh=mesh)
  return dataclasses.replace(plain, apply_fn=jax.jit(apply_fn))


@pytest.fixture(scope='module', autouse=True)
def quick():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      encoder_lib,
      'make_encoder',
      lambda loaded, *, mesh: _pixels(CONFIG, mesh=mesh),
    )
    patch.setattr(
      encoder_lib,
      'make_random_encoder',
      lambda config, *, mesh, seed: _pixels(config, mesh=mesh),
    )
    patch.setattr(comparison, 'compare', unjudged.compare)
    yield


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('pretrained')
  small_run.save_small_run(workdir, config=CONFIG)
  return checkpoint.load_encoder(workdir)


def _accuracy(top1):
  return {
    'top1': top1,
    'top1_interval': [top1 - 0.1, top1 + 0.1],
    'top5': None,
    'num_images': 60,
    'majority': 0.1,
    'num_train_classes': 10,
    'num_test_classes': 10,
  }


def _row(kind, top1, **more):
  return {
    'kind': kind,
    'accuracy': _accuracy(top1),
    'num_labels': 100,
    'step': None,
    'total_steps': None,
    'holdout_top1': None,
    'notes': [],
    **more,
  }


def _lines(workdir, **lines):
  writer = metrics.MetricWriter(workdir, primary=True)
  for step in range(1, 13):
    line = {'loss': 2.5 / step, 'learning_rate': 0.1, 'grad_norm': 1.0}
    writer.write_scalars(step, {**line, **lines})
    if step % 4 == 0:
      top1 = {4: 0.5, 8: 0.75, 12: 0.7}[step]
      scores = {'holdout_top1': top1, 'holdout_nll': 1.0}
      writer.write_scalars(step, scores)
  writer.close()
  (workdir / checkpoint.FINISHED).write_text('{"step": 12}\n')


SCORES = {8: {'holdout_top1': 0.75}, 12: {'holdout_top1': 0.7}}


def _link(loaded):
  return {
    'path': loaded.path,
    'step': loaded.step,
    'objective': loaded.passport['objective'],
    'fingerprint': loaded.fingerprint,
  }


@pytest.fixture(scope='module')
def finetuned(tmp_path_factory, start):
  """Workdir as `simclr_jax.finetune` leaves it; step 8 is the best of 12."""
  workdir = tmp_path_factory.mktemp('finetuned')
  asked = finetune_lib.read_finetune({'labels': LABELS, 'train': TRAIN})
  config = derive.finetune_config(CONFIG, asked)
  pictures = labelled.divide(
    data_lib.make_source(config.data, config.data.train_split), asked.labels
  )
  small_run.save_small_run(
    workdir,
    steps=(8, 12),
    config=config,
    source=pictures.fit,
    objective='finetune',
    about={
      'start': {'kind': 'checkpoint', **_link(start)},
      'config': stage.recorded(asked),
      'labelled': labelled.describe(pictures, asked.labels),
    },
    scores=SCORES,
  )
  _lines(workdir, train_top1=0.6)
  rows = [
    _row('finetune', 0.8, step=8, total_steps=12, holdout_top1=0.75),
    _row('scratch', 0.4, step=8, total_steps=12, holdout_top1=0.4),
    _row('frozen', 0.6, notes=['<careful>']),
  ]
  (workdir / 'finetune.json').write_text(json.dumps({'rows': rows}))
  return workdir


@pytest.fixture(scope='module')
def distilled(tmp_path_factory, finetuned):
  workdir = tmp_path_factory.mktemp('distilled')
  teacher = checkpoint.load_encoder(finetuned, step='best')
  asked = finetune_lib.read_distill({'temperature': 0.5, 'train': TRAIN})
  config = derive.distill_config(
    config_lib.from_config_dict(teacher.passport['config']), asked
  )
  small_run.save_small_run(
    workdir,
    steps=(12,),
    config=config,
    objective='distill',
    about={
      'teacher': _link(teacher),
      'config': stage.recorded(asked),
      'labelled': teacher.passport['finetune']['labelled'],
    },
  )
  _lines(workdir, teacher_entropy=0.2, teacher_agreement=0.9)
  rows = [
    _row('teacher', 0.8, step=8, total_steps=12, holdout_top1=0.75),
    _row('distill', 0.7, step=12, total_steps=12),
  ]
  (workdir / 'distill.json').write_text(json.dumps({'rows': rows}))
  return workdir


@pytest.fixture(scope='module')
def imported(tmp_path_factory, start):
  folder = tmp_path_factory.mktemp('imported')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(export_job, 'compare', lambda *unused: {})
    export_job.export(start, 'npz', out=folder / 'out', outputs=('h', 'z'))
  # As from somebody else: a file without a description.
  (folder / 'out' / 'export.json').unlink()
  import_job.import_checkpoint(
    folder / 'out' / 'model.npz',
    'npz',
    out=folder / 'run',
    config=CONFIG,
    leave_out=['params/head/', 'batch_stats/head/'],
    allow_missing=['head'],
  )
  return folder / 'run'


def _page(workdir, capsys, *flags):
  """(text of the page without its pictures, what was printed)."""
  assert report.main([f'--workdir={workdir}', *flags]) == 0
  text = (workdir / 'report' / 'report.html').read_text()
  text = re.sub('src="data:[^"]*"', '', text)
  found = html.unescape(text), capsys.readouterr().out
  for part in FALSE:
    for each in found:
      assert not re.search(part, each), part
  return found


def _has(page, *parts):
  for part in parts:
    assert part in page, part


def test_finetuned(finetuned, capsys):
  page, printed = _page(finetuned, capsys, '--step=best')
  _has(
    page,
    '<h1>Fine-tuned on digits/train[:300]</h1>',
    '8 steps of 32 images, with their labels',
    '80 labels of 10 classes (20 more held out to choose the step); of digits',
    'encoder pretrained with SimCLR (step 3, fingerprint',
    '<dt>Pictures</dt><dd>300 in the training split, at 8 px',
    # Its own table, and the probe of its features.
    '<th scope="row">from scratch',
    '<th scope="row">frozen encoder, linear probe',
    '8 of 12 <span>chosen by a holdout, 75.0% there',
    'linear probe: <careful>',
    '<th scope="row">fine-tuned</th><td>50.0%',
    'They are given all labels of the training split',
    # Curves.
    'Dashed: undecided, log K, 2.3.',
    ' top-1, holdout: 50 % at step 4, 75 % at step 8',
    # Pictures.
    'The classes were trained on: 80 labels',
    'Labels were trained on.',
    '<th scope="row">labels.per_class</th><td>10<',
    '<th scope="row">augment.mixup_alpha</th>',
    '15 pictures of the training split, each beside a random distortion',
    'by the fine-tuned encoder and by a random one',
    'Recipe advice was not asked: its rules are of pretraining.',
    'None: no alarm in the metrics.',
    '<th scope="row">Against the recipe card</th><td>cards are of pretraining',
  )
  assert '--step=best' not in page
  assert 'fine-tuned ' in printed and 'pretrained ' not in printed


def test_the_newest_of_a_finetuning_says_that_another_was_chosen(finetuned):
  mesh = mesh_lib.make_mesh(jax.devices()[:1])
  run = run_data.open_run(finetuned, step=None, mesh=mesh)
  (warning,) = concerns.section(run).warnings
  assert warning.startswith(
    'The holdout speaks for step 8 (top-1 75.0%), this page is of step 12:'
  )
  (table,) = outcome.sections(run)
  assert table.notes == (
    'frozen encoder, linear probe: <careful>',
    'The table is of step 8; the rest of this page is of step 12.',
  )


@pytest.mark.parametrize('text', [None, 'x', '[]', '{}', '{"rows": [{}]}'])
def test_a_table_that_is_not_there_is_said_to_be_missing(
  finetuned, tmp_path, text
):
  mesh = mesh_lib.make_mesh(jax.devices()[:1])
  run = run_data.open_run(finetuned, step=8, mesh=mesh)
  if text is not None:
    (tmp_path / 'finetune.json').write_text(text)
  elsewhere = dataclasses.replace(run, workdir=epath.Path(tmp_path))
  (missing,) = outcome.sections(elsewhere)
  assert isinstance(missing, document.Missing)
  wanted = 'there is no' if text is None else 'cannot be read'
  assert wanted in missing.reason


def test_distilled(distilled, capsys):
  page, printed = _page(distilled, capsys)
  _has(
    page,
    '<h1>Distilled on digits/train[:300]</h1>',
    "12 steps of 32 images, by a teacher's predictions at temperature 0.5",
    'classifier trained on labels (step 8, fingerprint',
    'no true label is in the loss; behind the teacher are 80 labels',
    '<th scope="row">teacher</th>',
    '<th scope="row">distilled student</th>',
    '<th scope="row">distilled</th><td>50.0%',
    'Agreement with the teacher: 90 % at step 1',
    "the teacher's entropy",
    'Dashed: undecided, log K, 2.3.',
    'The student learnt the classes from its teacher',
  )
  assert 'distilled ' in printed


def test_imported(imported, capsys):
  page, printed = _page(imported, capsys)
  _has(
    page,
    '<h1>Imported network, judged on digits/train[:300]</h1>',
    'model.npz (format npz); not trained here',
    'The file does not say how long it was trained.',
    ' left out (asked for), no projection head: z is h',
    'values in [0, 1], no mean and no std',
    'Whether its training saw classes is not known here.',
    'What it was trained on is not known here: these judge it.',
    '<th scope="row">pictures</th><td>300',
    '<th scope="row">Training</th><td>nothing was trained here',
    '<th scope="row">Pairs of views</th><td>how pictures were distorted',
    '<th scope="row">imported</th><td>50.0%',
  )
  assert 'steps of' not in page and 'imported ' in printed


def test_a_student_of_other_pictures_is_given_no_classes(distilled, tmp_path):
  pictures = tmp_path / 'pictures'
  for name in ('a', 'b'):
    (pictures / name).mkdir(parents=True)
    pixels = np.full((8, 8, 3), ord(name), np.uint8)
    image.imsave(pictures / name / '0.png', pixels)
  config = config_lib.replace(
    CONFIG,
    data={
      'source': 'folder',
      'path': str(pictures),
      'labels_from': 'folders',
      'train_split': '',
      'test_split': '',
    },
  )
  passport = checkpoint.load_encoder(distilled).passport

  def num_classes(class_names, **more):
    stated = {**passport['data'], 'class_names': class_names}
    found = run_data._open_train(
      config, {**passport, 'data': stated, **more}, tmp_path
    )
    assert found.num_examples == len(list(pictures.rglob('*.png')))
    return found.num_classes

  assert num_classes(['a', 'b']) == 2
  assert num_classes(['cat', 'dog']) == 0
  assert num_classes(['cat', 'dog'], objective='finetune') == 2
  image.imsave(pictures / 'loose.png', pixels)
  assert num_classes(['a', 'b']) == 0
  reads = {'distill': {'config': {'labelled_weight': 0.5}}}
  with pytest.raises(ValueError, match='loose'):
    num_classes(['a', 'b'], **reads)


@pytest.mark.parametrize('kind', ['finetuned', 'distilled', 'imported'])
def test_recipe_check_is_refused(kind, request, capsys):
  workdir = request.getfixturevalue(kind)
  assert report.main([f'--workdir={workdir}', '--check_recipe']) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and 'cards are of pretraining' in error
  with pytest.raises(ValueError, match='holds a network that was'):
    cards.check_recipe(workdir)


def test_an_unknown_objective_is_no_page(tmp_path, capsys):
  small_run.save_small_run(tmp_path, config=CONFIG, objective='simclrr')
  assert report.main([f'--workdir={tmp_path}']) == 2
  error = capsys.readouterr().err
  assert "objective 'simclrr'" in error and "did you mean 'simclr'?" in error
  assert not (tmp_path / 'report').exists()


def test_every_objective_has_a_page():
  assert set(objectives.OBJECTIVES) <= set(kinds.KINDS)
  assert set(ancestry.KINDS) == set(kinds.KINDS)


def test_labels_are_compared_where_both_are_known():
  found = run_data.same_class(np.array([[1, 2, -1]]), np.array([[1], [-1]]))
  assert found.tolist() == [[True, False, None], [None, None, None]]
