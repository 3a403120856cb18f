from __future__ import annotations

import json
import re
import shutil

import jax
from matplotlib import image
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models, report, reports
from simclr_jax.evaluation import occurring
from simclr_jax.reports import concerns, document, job, learnt, run_data
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import metrics
from tests import small_run
from tests.reports import browser, unjudged

CONFIG = config_lib.replace(
  small_run.CONFIG,
  data={
    'source': 'digits',
    'train_split': 'train[:120]',
    'test_split': 'test[:60]',
  },
  augment={'blur_prob': 0.0},
  model={'head_dim': 8},
  train={'batch_size': 16, 'duration': '4 steps'},
  probe={'epochs': 10, 'base_lrs': (0.1,), 'num_bootstrap': 50},
  knn={'ks': (3,), 'num_bootstrap': 50},
)
LINE = {
  'contrast_loss': 6.0,
  'contrast_acc': 0.1,
  'learning_rate': 0.1,
  'grad_norm': 2.0,
  'positive_similarity': 0.5,
  'negative_similarity': 0.1,
  'images_per_second': 100.0,
  'input_wait_percent': 40.0,
}
DIAGNOSTICS = {
  'alignment': 0.9,
  'uniformity': -2.5,
  'effective_rank': 5.0,
  'hardest_negative_weight': 0.1,
}
PROBE = {
  'job': 'knn',
  'step': 2,
  'overridden': {},
  'result': {'headline': {'k': 3, 'top1': 0.25, 'top1_interval': [0.2, 0.3]}},
}


def _make_run(workdir, config, *, lines=LINE, steps=(2, 4)):
  small_run.save_small_run(workdir, config=config, steps=steps)
  writer = metrics.MetricWriter(workdir, primary=True)
  for step in (1, 2, 3, 4, 5):
    if lines:
      writer.write_scalars(step, {**lines, 'grad_norm': float(step)})
  writer.close()


def _mesh():
  return mesh_lib.make_mesh(jax.devices()[:1])


@pytest.fixture(scope='module', autouse=True)
def quick_init():
  """Other weights for fresh ones: compiling an initialisation takes long."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      models,
      'init_variables',
      lambda *args, **kwargs: small_run.make_variables(
        CONFIG, num_classes=0, seed=9
      ),
    )
    yield


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  _make_run(path, CONFIG, lines=LINE | DIAGNOSTICS)
  (path / 'probe').mkdir()
  (path / 'probe' / 'knn-step2.json').write_text(json.dumps(PROBE))
  (path / 'probe' / 'knn-step4.json').write_text('{"job": "knn"}')
  return path


@pytest.fixture(scope='module')
def made(workdir):
  return reports.make_report(workdir, labels_per_class=2, mesh=_mesh())


def test_writes_page_pictures_and_table(workdir, made):
  folder = workdir / 'report'
  assert sorted(p.name for p in folder.iterdir()) == [
    'comparison.json',
    'curves.png',
    'neighbours.png',
    'report.html',
    'views.png',
  ]
  values = json.loads((folder / 'comparison.json').read_text())
  rows = {row['kind']: row for row in values['rows']}
  assert list(rows) == ['raw_pixels', 'random_init', 'checkpoint']
  assert values['labels_per_class'] == made.comparison.labels_per_class == 2
  assert str(made.page) == str(folder / 'report.html')
  # The checkpoint is a random network of another seed: not the baseline's.
  assert rows['checkpoint']['fingerprint'] != rows['random_init']['fingerprint']


def test_page_in_a_browser(made):
  with browser.visit(width=1280) as visit:
    visit.open(made.page)
    images = visit.page.evaluate(
      '[...document.images].map(i => [i.alt, i.complete && i.naturalWidth])'
    )
    headings = visit.page.locator('h2').all_inner_texts()
    visit.page.set_viewport_size({'width': 375, 'height': 800})
    width = visit.page.evaluate('document.documentElement.scrollWidth')
  assert visit.complaints == [] and visit.requests == []
  assert len(images) == len(made.document.pictures) == 17
  assert all(alt and loaded for alt, loaded in images)
  assert len({alt for alt, _ in images}) == len(images)
  assert width == 375
  assert headings == [
    'Warnings',
    'What was learnt',
    'Training',
    'Embeddings during training',
    'Similarities',
    'Accuracy by step',
    'Nearest neighbours',
    'Map of embeddings',
    'Near-duplicates',
    'Pairs of views',
    'Speed',
    'Recipe',
    'Data',
    'Not shown',
  ]


def _section(made, heading) -> document.Section:
  return next(s for s in made.document.shown if s.heading == heading)


def test_curves_end_at_the_checkpoint(made):
  pictures = _section(made, 'Training').pictures
  norm = next(p for p in pictures if p.name == 'grad_norm')
  assert '1 at step 1, 4 at step 4;' in norm.alt
  loss = next(p for p in pictures if p.name == 'contrast_loss')
  assert '2 log(2B-1), 6.87' in loss.alt  # 2 * log(31)


def test_what_was_not_logged_is_said(made):
  assert _section(made, 'Training').notes == (
    'No plot of online head, top-1: online_top1 was not logged.',
  )


def test_speed_says_who_waited(made):
  (warning,) = _section(made, 'Speed').warnings
  assert 'waited 40 % of the time' in warning


def test_warnings_hold_recipe_advice(made):
  text = ' '.join(_section(made, 'Warnings').warnings)
  assert 'config.train.batch_size = 16: 30 negatives' in text
  assert 'had not finished' not in text


def test_steps_judged_by_commands(made):
  section = _section(made, 'Accuracy by step')
  ((name, step, score),) = section.tables[0].rows
  assert (name.text, step.text, *score) == (
    'kNN, k = 3',
    '2',
    '25.0%',
    '20.0% to 30.0%',
  )
  assert section.notes == (
    'knn-step4.json is left out: no result of probe or kNN.',
  )


def test_an_older_step_is_said_to_be_unfinished(workdir):
  older = run_data.open_run(workdir, step=2, mesh=_mesh())
  assert [record['step'] for record in older.records] == [1, 2]
  assert 'step 2 of 4' in concerns.section(older).warnings[0]


def test_a_live_run_deletes_what_is_judged(workdir, tmp_path, monkeypatch):
  """The step, and a result that a section reads, go while it is judged."""
  live = tmp_path / 'live'
  shutil.copytree(workdir, live)
  judge = job.learnt.judge

  def judge_and_lose(*args, **kwargs):
    found = judge(*args, **kwargs)
    shutil.rmtree(live / 'checkpoints')
    return found

  def gone(run, num_test):
    raise FileNotFoundError(2, 'No such file', 'knn-step2.json')

  monkeypatch.setattr(job.learnt, 'judge', judge_and_lose)
  monkeypatch.setattr(job.judged_steps, 'section', gone)
  found = reports.make_report(live, labels_per_class=2, mesh=_mesh(), step=4)
  assert 'cannot be read now' in found.page.read_text()
  assert found.verdict is not None


def test_without_a_checkpoint_the_command_fails(tmp_path, capsys):
  assert report.main(['--workdir', str(tmp_path)]) == 2
  assert 'error:' in capsys.readouterr().err


def test_pictures_without_labels_or_metrics(tmp_path, capsys):
  generator = np.random.default_rng(0)
  (tmp_path / 'pictures').mkdir()
  for i in range(20):
    pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image.imsave(tmp_path / 'pictures' / f'{i}.png', pixels)
  config = config_lib.replace(
    CONFIG,
    data={
      'source': 'folder',
      'path': str(tmp_path / 'pictures'),
      'train_split': '',
      'test_split': '',
    },
  )
  workdir = tmp_path / 'run'
  _make_run(workdir, config, lines=None, steps=(4,))
  assert report.main(['--workdir', str(workdir)]) == 0
  assert 'No table' in capsys.readouterr().out
  assert sorted(path.name for path in (workdir / 'report').iterdir()) == [
    'neighbours.png',
    'report.html',
    'views.png',
  ]
  text = (workdir / 'report' / 'report.html').read_text()
  assert 'other training pictures' in text
  absent = text[text.index('id="not-shown"') :]
  for heading in ('What was learnt', 'Training', 'Speed', 'Accuracy by step'):
    assert re.search(f'<th scope="row">{heading}</th><td>[^<]', absent)
  assert 'two pictures, same class' not in text


def test_pixels_that_fill_the_memory_are_left_out(workdir, made, monkeypatch):
  del made  # Its features are in the cache.
  monkeypatch.setattr(learnt, 'MAX_RAW_PIXEL_BYTES', 120 * 8 * 8 * 3 * 4 - 1)
  monkeypatch.setattr(learnt.comparison_lib, 'compare', unjudged.compare)
  run = run_data.open_run(workdir, step=None, mesh=_mesh())
  judged, table = learnt.judge(run, labels_per_class=2)
  assert list(judged.features) == ['random_init', 'checkpoint']
  section = learnt.section(run, table)
  assert [row[0].text for row in section.tables[0].rows] == [
    'random initialisation',
    'pretrained',
  ]
  assert section.tables[0].highlighted == (1,)
  assert any('No row for raw pixels' in note for note in section.notes)


def test_labels_of_one_class_make_no_table(workdir, made, monkeypatch):
  del made  # Its features are in the cache.

  def one_class(*unused):
    raise occurring.NoAccuracy('all of one class')

  monkeypatch.setattr(learnt.features_lib, 'check_source_labels', one_class)
  run = run_data.open_run(workdir, step=None, mesh=_mesh())
  judged, table = learnt.judge(run, labels_per_class=2)
  assert table is None and not judged.labelled
  assert learnt.why_no_table(judged) == 'all of one class'
