"""What is left out or cannot be read is named, with a way out that works."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data import other_files, plain_image, split_names
from simclr_jax.data.sources import arrays_layout, parquet_layout


@pytest.fixture
def said(monkeypatch):
  """Warnings of the sources."""
  lines: list[str] = []
  monkeypatch.setattr(
    'absl.logging.warning', lambda text, *args: lines.append(text % args)
  )
  return lines


def _save(path, form=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', (4, 3), 'red').save(path, form)


def _make(path, split='train', **fields):
  config = config_lib.DataConfig(source='folder', path=str(path), **fields)
  return data.make_source(config, split, workdir=path.parent / 'w')


def test_images_that_no_split_names(tmp_path, said):
  root = tmp_path / 'd'
  for name in ('train/a.png', 'test/a.png', 'extra/c/a.png', 'a.png', 'b.jpg'):
    _save(root / name)
  (root / 'notes').mkdir()
  assert _make(root).num_examples == 1
  (line,) = said
  assert 'no split names them: extra/, 2 images directly in it;' in line
  _make(root, 'test')
  assert len(said) == 1


def test_images_of_another_format_among_others(tmp_path, said):
  _save(tmp_path / 'd/0.png')
  _save(tmp_path / 'd/0.TIF')
  assert _make(tmp_path / 'd', '', train_split='', test_split='').num_examples
  (line,) = said
  assert '.tif 1 are left out; convert .tif files' in line
  # The command works, and overwrites nothing.
  command = shlex.split(line.partition('first): ')[2])
  subprocess.run([sys.executable, *command[1:]], check=True, timeout=60)
  after = _make(tmp_path / 'd', '', train_split='', test_split='')
  assert after.num_examples == 2


@pytest.mark.parametrize(
  'name,advice',
  [
    ('a.tar.gz', 'tar -C FOLDER -xf'),
    ('a.zip', 'unzip -d FOLDER'),
    ('labels.csv', 'class folders'),
    ('a.h5', 'convert .h5 to image files'),
    ('a.npz', 'data.source=arrays'),
    ('a.parquet', 'data.source=parquet'),
    ('a.heic', 'pip install pillow-heif; python -c'),
    ('film.mp4', 'extract frames'),
    ('data.arrow', 'load_from_disk('),
  ],
)
def test_what_is_no_folder_of_images(tmp_path, name, advice):
  """As the path itself, and alone in a folder; of every source with a path."""
  root = tmp_path / 'd'
  root.mkdir()
  (root / name).write_bytes(b'x')
  for kind, own in (
    ('folder', ()),
    ('parquet', ('.parquet',)),
    ('arrays', ('.npz',)),
  ):
    if name.endswith(own or '/'):
      continue
    for path in (root / name, root):
      config = config_lib.DataConfig(source=kind, path=str(path), test_split='')
      split = '' if kind == 'folder' else 'train'
      with pytest.raises(ValueError) as error:
        data.make_source(config, split, workdir=tmp_path / 'w')
      assert advice in str(error.value), (kind, path)


def test_what_hugging_face_saved_is_told_by_its_data():
  saved = {'.json': 5, '.arrow': 2}  # As `save_to_disk` leaves them.
  advice = other_files.advise('/data/set', saved)
  assert 'load_from_disk("/data/set")' in advice
  assert '--config.data.path=/data/set_parquet' in advice


def test_every_known_format_has_advice():
  for extension in other_files.IMAGES:
    assert 'convert' in other_files.of_file(f'a{extension}')
  assert other_files.of_file('a.unknown') == ''


def test_a_file_of_another_format_under_a_known_name(tmp_path):
  _save(tmp_path / 'a.png', 'TIFF')
  with pytest.raises(Exception, match='it is TIFF, which has to be converted'):
    plain_image.inspect((tmp_path / 'a.png').read_bytes())


def test_parquet_files_whose_names_say_no_split(tmp_path, said):
  for name in ('train.parquet', 'test.parquet', 'extra.parquet', 'b.PARQUET'):
    (tmp_path / name).touch()
  _, splits = parquet_layout.find(str(tmp_path))
  assert sorted(splits) == ['test', 'train']
  (line,) = said
  assert 'say no split: ' in line and 'extra.parquet' in line
  assert 'b.PARQUET' in line and '(train_' in line
  # As advised.
  (tmp_path / 'extra.parquet').rename(tmp_path / 'train_extra.parquet')
  (tmp_path / 'b.PARQUET').unlink()
  assert len(parquet_layout.find(str(tmp_path))[1]['train']) == 2
  assert len(said) == 1


def test_arrays_whose_names_say_no_split(tmp_path, said):
  for name in ('train_images', 'labels_train'):
    np.save(tmp_path / f'{name}.npy', np.zeros((2, 3, 3, 3), np.uint8))
  arrays_layout.find_splits(str(tmp_path))
  (line,) = said
  assert line.endswith('labels_train.npy')


@pytest.mark.parametrize(
  'wanted,present,found',
  [
    ('test', ['train', 'val'], 'test_split=val '),
    ('test[:50%]', ['train', 'valid'], 'test_split=valid[:50%] '),
    ('test', ['train', 'Test'], 'test_split=Test '),
    ('train', ['TRAIN', 'val'], 'train_split=TRAIN '),
    ('test', ['train', 'ants'], ''),
    ('test', ['train', 'validation', 'tset'], 'test_split=validation '),
  ],
)
def test_the_split_that_is_meant(wanted, present, found):
  advice = split_names.advice(config_lib.DataConfig(), wanted, present)
  assert advice == '' if not found else f'--config.data.{found}' in advice


@pytest.mark.parametrize('kind', ['folder', 'parquet', 'arrays'])
def test_a_held_out_split_that_is_not_there_is_said(kind, tmp_path, said):
  for split in ('train', 'val'):
    names = {
      'folder': f'{split}/a.png',
      'parquet': f'{split}.parquet',
      'arrays': f'{split}_images.npy',
    }
    file: pathlib.Path = tmp_path / names[kind]
    file.parent.mkdir(exist_ok=True)
    file.touch()
  config = config_lib.DataConfig(source=kind, path=str(tmp_path))
  data.check_held_out(config)
  (line,) = said
  assert "test_split = 'test' cannot be judged on" in line
  assert '--config.data.test_split=val ' in line
  for fine in ('val', ''):
    data.check_held_out(dataclasses.replace(config, test_split=fine))
  assert len(said) == 1
