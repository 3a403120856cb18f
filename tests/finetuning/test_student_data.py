"""Which pictures a student is given, and by which names of classes."""

from __future__ import annotations

import types

import numpy as np
from PIL import Image
import pytest

from simclr_jax import config as config_lib
from simclr_jax.finetuning import config as finetune_lib
from simclr_jax.finetuning import derive, student_data

BASE = config_lib.replace(
  config_lib.Config(),
  data={'source': 'digits', 'image_size': 8, 'loader': 'opencv'},
  augment={'blur_prob': 0.0},
)


def save(path, seed):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
  Image.fromarray(pixels).save(path)


def open_folder(root, workdir, *, classes=('cat', 'dog'), **changes):
  teacher = types.SimpleNamespace(
    num_classes=len(classes),
    config=BASE,
    loaded=types.SimpleNamespace(
      passport={'data': {'class_names': list(classes)}}
    ),
    labelled={'whole_fingerprint': 'other', 'whole': 'digits/train'},
  )
  config = finetune_lib.DistillConfig(
    data=finetune_lib.DataChanges(
      source='folder',
      path=str(root),
      labels_from='folders',
      train_split='unlabelled',
      test_split='test',
    ),
    **changes,
  )
  derived = derive.distill_config(BASE, config)
  return student_data.open_pictures(teacher, derived, config, workdir=workdir)


@pytest.fixture
def root(tmp_path):
  for k, name in enumerate(('cat/a', 'cat/b', 'dog/a', 'dog/b')):
    save(tmp_path / 'pictures' / 'test' / f'{name}.png', k)
  for k, name in enumerate(('loose', 'berlin/a', 'paris/b')):
    save(tmp_path / 'pictures' / 'unlabelled' / f'{name}.png', 10 + k)
  return tmp_path / 'pictures'


def test_folders_of_unlabelled_pictures_are_no_classes(root, tmp_path):
  found = open_folder(root, tmp_path / 'workdir')
  assert found.holdout is None and found.train.num_examples == 3
  assert [found.train.read(i).label for i in range(3)] == [-1, -1, -1]
  # The run's own classes are those of the teacher.
  assert (found.train.num_classes, found.train.class_names) == (
    2,
    ('cat', 'dog'),
  )
  assert [found.test.read(i).label for i in range(4)] == [0, 0, 1, 1]


def test_classes_of_other_names_are_refused(root, tmp_path):
  with pytest.raises(ValueError, match='not those of the teacher'):
    open_folder(root, tmp_path / 'workdir', classes=('dog', 'wolf'))


def test_classes_of_the_training_split_are_compared_where_labels_are_read(
  root, tmp_path
):
  (root / 'unlabelled' / 'loose.png').unlink()
  with pytest.raises(ValueError, match='unlabelled are not those of the'):
    open_folder(root, tmp_path / 'workdir', labelled_weight=0.5)
