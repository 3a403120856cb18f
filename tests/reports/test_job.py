from __future__ import annotations

import json

import jax
from matplotlib import image
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data as data_lib
from simclr_jax import models, report, reports, resolve
from simclr_jax.evaluation import comparison, intervals
from simclr_jax.training import checkpoint, metrics, passport
from simclr_jax.training import mesh as mesh_lib
from tests import small_run

CONFIG = config_lib.Config(
  data=config_lib.DataConfig(
    source='digits',
    train_split='train[:200]',
    test_split='test[:60]',
    image_size=8,
  ),
  augment=config_lib.AugmentConfig(blur_prob=0.0),
  model=config_lib.ModelConfig(depth=18, width=0.0625, head_dim=8),
  train=config_lib.TrainConfig(batch_size=16),
  probe=config_lib.ProbeConfig(
    epochs=10,
    base_lrs=(0.1,),
    weight_decays=(0.0,),
    standardize=True,
    num_bootstrap=50,
  ),
  knn=config_lib.KnnConfig(ks=(3,), num_bootstrap=50),
)


def _make_run(workdir, config):
  """A run of no training: a checkpoint and two lines of metrics."""
  model = models.make_model(config.model, image_size=8, num_classes=0)
  generator = np.random.default_rng(0)
  # Of the right shapes is enough, and needs no compilation.
  variables = jax.tree.map(
    lambda leaf: generator.uniform(0.1, 0.3, leaf.shape).astype(leaf.dtype),
    models.abstract_variables(model, image_size=8),
  )
  source = data_lib.make_source(config.data, config.data.train_split)
  resolved = resolve.resolve(
    config,
    num_examples=source.num_examples,
    num_classes=source.num_classes,
    num_devices=8,
  )
  saver = checkpoint.Checkpointer(workdir / 'checkpoints', config.checkpoint)
  saver.save(
    2,
    {'step': np.int32(2)},
    encoder=variables,
    passport=passport.make_passport(
      config,
      resolved,
      source=source,
      step=2,
      metrics={'loss': 1.0},
      objective='simclr',
    ),
    metrics={'loss': 1.0},
  )
  saver.close()
  writer = metrics.MetricWriter(workdir, primary=True)
  for step in (1, 2, 3):
    writer.write_scalars(
      step,
      {'contrast_loss': 6.0, 'contrast_acc': 0.1, 'learning_rate': 0.1},
    )
  writer.close()


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  _make_run(path, CONFIG)
  return path


def test_writes_page_pictures_and_table(workdir):
  made = reports.make_report(
    workdir, labels_per_class=2, mesh=mesh_lib.make_mesh(jax.devices()[:1])
  )
  folder = workdir / 'report'
  assert sorted(p.name for p in folder.iterdir()) == [
    'comparison.json',
    'curves.png',
    'neighbours.png',
    'report.html',
    'views.png',
  ]
  values = json.loads((folder / 'comparison.json').read_text())
  assert [row['kind'] for row in values['rows']] == [
    'raw_pixels',
    'random_init',
    'checkpoint',
  ]
  assert values['labels_per_class'] == 2
  assert made.comparison.labels_per_class == 2
  assert str(made.page) == str(folder / 'report.html')
  # The checkpoint is a random network of another seed: not the baseline's.
  rows = {row['kind']: row for row in values['rows']}
  assert rows['checkpoint']['fingerprint'] != rows['random_init']['fingerprint']


def test_without_a_checkpoint_the_command_fails(tmp_path, capsys):
  assert report.main(['--workdir', str(tmp_path)]) == 2
  assert 'error:' in capsys.readouterr().err


def test_queries_take_every_class_once_first():
  labels = np.array([2, 2, 0, 0, 1, 2, 1])
  np.testing.assert_array_equal(report.pick_queries(labels, count=3), [2, 4, 0])
  np.testing.assert_array_equal(
    report.pick_queries(labels, count=5), [2, 4, 0, 3, 6]
  )
  assert len(report.pick_queries(labels, count=99)) == 7


def test_queries_without_labels_are_the_first():
  np.testing.assert_array_equal(
    report.pick_queries(np.full(9, -1), count=4), [0, 1, 2, 3]
  )


def test_images_come_in_the_order_asked_for():
  source = data_lib.make_source(CONFIG.data, 'train')
  images = report.read_images(source, np.array([5, 3, 5]), CONFIG)
  assert images.shape == (3, 8, 8, 3)
  for row, index in enumerate((5, 3, 5)):
    np.testing.assert_allclose(
      images[row], source.read(index).image / 255, atol=1e-6
    )


@pytest.fixture
def quick_init(monkeypatch):
  """Other weights for fresh ones: compiling an initialisation takes long."""
  monkeypatch.setattr(
    models,
    'init_variables',
    lambda *args, **kwargs: small_run.make_variables(
      CONFIG, num_classes=0, seed=9
    ),
  )


@pytest.mark.usefixtures('quick_init')
def test_pictures_without_labels_get_a_page_without_a_table(tmp_path, capsys):
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
  _make_run(workdir, config)
  assert report.main(['--workdir', str(workdir)]) == 0
  assert 'No table' in capsys.readouterr().out
  assert sorted(path.name for path in (workdir / 'report').iterdir()) == [
    'curves.png',
    'neighbours.png',
    'report.html',
    'views.png',
  ]
  assert (
    'other training pictures'
    in (workdir / 'report' / 'report.html').read_text()
  )


def test_no_picture_is_its_own_neighbour():
  index = np.array([[3, 1, 2], [0, 3, 1], [5, 6, 7]])
  found = report._without_itself(index, np.array([3, 3, 4]))
  np.testing.assert_array_equal(found, [[1, 2], [0, 1], [5, 6]])


def _compared(features, config, **unused):
  """A table of the encoders given, without judging them."""
  score = comparison.Score(0.5, intervals.Interval(0.4, 0.6))
  return comparison.Comparison(
    rows=tuple(comparison.Row(k, score, score, score, k) for k in features),
    labels_per_class=2,
    knn_k=3,
    num_train=200,
    num_test=60,
    num_classes=10,
    majority=0.1,
  )


@pytest.mark.usefixtures('quick_init')
def test_pixels_that_fill_the_memory_are_left_out(workdir, monkeypatch):
  monkeypatch.setattr(report, 'MAX_RAW_PIXEL_BYTES', 200 * 8 * 8 * 3 * 4 - 1)
  monkeypatch.setattr(report.comparison_lib, 'compare', _compared)
  made = reports.make_report(
    workdir, labels_per_class=2, mesh=mesh_lib.make_mesh(jax.devices()[:1])
  )
  kinds = [row.kind for row in made.comparison.rows]
  assert kinds == ['random_init', 'checkpoint']
  assert any('No row for raw pixels' in n for n in made.comparison.notes)
  assert (
    'No row for raw pixels' in (workdir / 'report' / 'report.html').read_text()
  )
