"""What --input may name, and what it must not guess."""

import numpy as np
from PIL import Image
import pytest

from simclr_jax import config as config_lib
from simclr_jax.retrieval import inputs
from tests import small_run

# A run that judges itself by kNN: other data have no test split for that.
TRAINED = config_lib.replace(
  small_run.CONFIG,
  data={'image_size': 8, 'max_bad_fraction': 0.5},
  monitor={'knn_every': '1 steps'},
  checkpoint={'keep_best': 1, 'best_metric': 'knn_top1'},
)


@pytest.fixture
def place(tmp_path):
  image = Image.new('RGB', (4, 4))
  for name in ('pictures', 'both'):
    (tmp_path / name).mkdir()
    image.save(tmp_path / name / 'a.png')
  for name in ('arrays', 'both'):
    (tmp_path / name).mkdir(exist_ok=True)
    np.savez(tmp_path / name / 'train.npz', images=np.zeros((1, 4, 4, 3)))
  (tmp_path / 'hub').mkdir()
  (tmp_path / 'hub' / 'train.parquet').write_bytes(b'PAR1')
  (tmp_path / 'empty').mkdir()
  return tmp_path


@pytest.mark.parametrize(
  'text,split,kind',
  [
    ('{}/pictures', '', 'folder'),
    ('{}/pictures', 'sub', 'folder'),
    ('{}/arrays', 'train', 'arrays'),
    ('{}/arrays/train.npz', 'train[:5]', 'arrays'),
    ('{}/hub', 'train', 'parquet'),
    ('{}/hub/train.parquet', 'train', 'parquet'),
    ('folder:{}/both', '', 'folder'),
    ('arrays:{}/both', 'train', 'arrays'),
    ('cifar10', 'test', 'tfds'),
    ('imagenet2012_subset/1pct', 'train', 'tfds'),
    ('tfds:pictures', 'test', 'tfds'),
    ('digits', 'test', 'digits'),
  ],
)
def test_kinds(place, text, split, kind, monkeypatch):
  monkeypatch.chdir(place)
  found = inputs.find_input(text.format(place), TRAINED, split=split)
  assert (found.config.data.source, found.split) == (kind, split)
  # Preprocessing is the checkpoint's, whatever the data.
  assert found.config.data.image_size == 8
  assert found.config.eval == TRAINED.eval
  assert found.config.model == TRAINED.model
  # Bad pictures are listed, not a reason to refuse.
  assert found.config.data.max_bad_fraction == 1
  assert bool(found.base) == (kind == 'folder')


def test_the_data_of_the_run():
  found = inputs.find_input('run', TRAINED)
  assert found.config.data.source == 'procedural'
  assert found.split == TRAINED.data.train_split
  assert inputs.find_input('run', TRAINED, split='test').split == 'test'


@pytest.mark.parametrize(
  'text,split,what',
  [
    ('{}/both', '', 'say --input=arrays:'),
    ('{}/empty', '', 'holds neither pictures'),
    ('{}/nowhere', '', 'no file or folder'),
    ('{}/pictures/a.png', '', 'is a file; a folder of pictures'),
    ('cifar10', '', '--split is empty'),
    ('{}/hub', '', '--split is empty'),
  ],
)
def test_nothing_is_guessed(place, text, split, what):
  with pytest.raises(ValueError, match=what):
    inputs.find_input(text.format(place), TRAINED, split=split)


def test_only_reading_is_changed(place):
  found = inputs.find_input(
    f'{place}/pictures',
    TRAINED,
    batch_size=7,
    changes={'labels_from': 'folders', 'loader': 'opencv'},
  )
  assert found.config.eval.batch_size == 7
  assert found.config.data.labels_from == 'folders'
  assert found.config.data.loader == 'opencv'
