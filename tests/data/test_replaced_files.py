"""A file replaced by one of equal size and time is never taken for the old."""

from __future__ import annotations

import io
import os
import shutil

import numpy as np
from PIL import Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data import part, tfrecord_index
from simclr_jax.data.sources import arrays


def _bmp(level):
  out = io.BytesIO()
  Image.new('RGB', (4, 4), (level, level, level)).save(out, 'BMP')
  return out.getvalue()


def _folder(root, level):
  (root / 'a.bmp').write_bytes(_bmp(level))
  return {'train_split': ''}


def _parquet(root, level):
  images = [{'bytes': _bmp(level), 'path': 'a.bmp'}]
  pq.write_table(pa.table({'image': images}), root / 'train.parquet')
  return {}


def _arrays(root, level):
  images = np.full((3, 4, 4, 3), level, np.uint8)
  np.save(root / 'train_images.npy', images)
  return {}


@pytest.mark.parametrize('by_rename', [False, True])
@pytest.mark.parametrize(
  'kind,write',
  [('folder', _folder), ('parquet', _parquet), ('arrays', _arrays)],
)
def test_the_content_is_looked_at_again(
  kind, write, by_rename, tmp_path, monkeypatch
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(arrays, '_HASHED', 1)
  for name in ('data', 'new'):
    (tmp_path / name).mkdir()
  fields = write(tmp_path / 'data', 10)
  write(tmp_path / 'new', 20)

  def make(folder):
    config = config_lib.DataConfig(
      source=kind, path=str(tmp_path / folder), test_split='', **fields
    )
    return data.make_source(config, config.train_split, workdir=tmp_path / 'w')

  before = make('data')
  (file,) = (tmp_path / 'data').iterdir()
  new = tmp_path / 'new' / file.name
  status = file.stat()
  assert new.stat().st_size == status.st_size
  if not by_rename:
    file.write_bytes(new.read_bytes())
  else:
    shutil.copy(new, tmp_path / 'moved')
    (tmp_path / 'moved').replace(file)
  os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
  after = make('data')
  assert after.cache_key != before.cache_key
  # That of the run is of the content alone, wherever it lies.
  assert after.fingerprint == make('new').fingerprint != before.fingerprint


def test_records_replaced_by_others_of_equal_size(tmp_path):
  tf = pytest.importorskip('tensorflow')

  def write(path, sizes):
    with tf.io.TFRecordWriter(str(path)) as writer:
      for size in sizes:
        writer.write(bytes(size))
    os.utime(path, (1, 1))

  path = tmp_path / 'x.tfrecord'

  def lengths():
    (shard,) = tfrecord_index.load_or_build([str(path)], cache_folder=tmp_path)
    return shard.lengths.tolist()

  write(path, [3, 9])
  assert lengths() == [3, 9]
  write(path, [9, 3])
  assert lengths() == [9, 3]


def test_labels_are_kept_for_the_same_files_alone(tmp_path):
  """TFDS: the fingerprint is of names and sizes, as a copy has them too."""

  def source(label, stamp):
    return data.Source(
      name='x',
      num_examples=1,
      num_classes=9,
      encoded=True,
      read=lambda i: data.Example(b'', label),
      example_id=str,
      fingerprint='same',
      stamp=stamp,
    )

  for label, stamp in ((3, 'one'), (5, 'two')):
    found = part.read_labels(source(label, stamp), workdir=tmp_path)
    assert found.tolist() == [label]
