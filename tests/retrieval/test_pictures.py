"""Pictures of a set are read where they are, and nowhere else."""

import os

import numpy as np
from PIL import Image
import pytest

from simclr_jax.retrieval import pictures, shards
from tests.retrieval import fake_set


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / 'pictures'
  (path / 'a').mkdir(parents=True)
  for name in ('a/x.png', 'a/\udcff.png', '../secret.png'):
    Image.new('RGB', (4, 4), 'red').save(path / name)
  (path / 'a/link.png').symlink_to(tmp_path / 'secret.png')
  return path


def _set(tmp_path, base):
  return fake_set.write(
    tmp_path / 'e', np.eye(3, dtype=np.float32), about={'input': {'base': base}}
  )


def _row(path):
  return shards.Rows(np.array([0]), [path], None, {})


@pytest.mark.parametrize('path', ['../secret.png', 'a/../../secret.png'])
def test_a_strangers_set_shows_nothing_from_outside(tmp_path, folder, path):
  embeddings = _set(tmp_path, str(folder))
  for given in ('', str(folder)):
    shown = pictures.SetPictures(embeddings, folder=given)
    assert shown.pixels(_row(path)) is None
    with pytest.raises(ValueError, match='is not in'):
      shown.stored(_row(path))


def test_absolute_names_are_for_links_where_the_set_was_made(tmp_path, folder):
  embeddings = _set(tmp_path, str(folder))
  behind = _row(os.path.realpath(folder / 'a/link.png'))
  assert pictures.SetPictures(embeddings).pixels(behind) is not None
  shown = pictures.SetPictures(embeddings, folder=str(folder))
  assert shown.pixels(behind) is None
  with pytest.raises(ValueError, match='leave out --pictures'):
    shown.stored(behind)
  assert shown.pixels(_row('a/link.png')) is not None


def test_a_name_that_is_no_text_is_found(tmp_path, folder):
  shown = pictures.SetPictures(_set(tmp_path, str(folder)))
  wanted = (folder / 'a/\udcff.png').read_bytes()
  # As a shard has it.
  assert shown.stored(_row('a/\\udcff.png')) == wanted
  assert shown.pixels(_row('a/\\udcff.png')) is not None


@pytest.mark.parametrize(
  'content,reason',
  [
    (b'no picture', 'cannot identify the picture as JPEG, PNG, WEBP, BMP or'),
    (b'', 'the file is empty'),
    (b'\x89PNG\r\n\x1a\n', 'cannot be read'),
  ],
)
def test_what_is_no_picture_is_named(tmp_path, content, reason):
  path = tmp_path / 'notes.jpg'
  path.write_bytes(content)
  with pytest.raises(ValueError) as error:
    pictures.read_file(str(path), 16)
  said = str(error.value)
  assert said.startswith(f'{path} cannot be read: ') and reason in said
  # Not the place of a buffer in memory.
  assert 'BytesIO' not in said and ' at 0x' not in said
