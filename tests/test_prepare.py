"""python -m simclr_jax.prepare: any data set to Parquet, pixel for pixel."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import shlex
import subprocess
import sys

import numpy as np
from PIL import Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data as data_lib
from simclr_jax.data import parquet_writer, plain_image
from simclr_jax.data import preparation as prepare
from simclr_jax.data.source import Example, Source

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """The user's cache folder of this test."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def _config(**fields):
  return config_lib.replace(config_lib.Config(), data=fields)


def _run(config, out, *, splits='', **options):
  return prepare.run(
    config,
    pathlib.Path(out),
    splits=prepare.parse_splits(splits, config.data),
    **options,
  )


def _pixels(image):
  """uint8 [H, W, 3] of what a source gives."""
  if isinstance(image, np.ndarray):
    return image
  return np.asarray(Image.open(io.BytesIO(image)).convert('RGB'))


def _assert_same(source, prepared):
  assert prepared.num_examples == source.num_examples
  assert prepared.num_classes == source.num_classes
  assert prepared.class_names == source.class_names
  for i in range(source.num_examples):
    want, found = source.read(i), prepared.read(i)
    assert found.label == want.label
    np.testing.assert_array_equal(_pixels(found.image), _pixels(want.image))


def _files(folder):
  return {
    str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
    for p in sorted(folder.rglob('*'))
    if p.is_file()
  }


@pytest.fixture
def pictures(tmp_path):
  """Folder with two classes and pictures of every kind."""
  rng = np.random.Generator(np.random.PCG64(0))
  root = tmp_path / 'pictures'
  rotated = Image.Exif()
  rotated[0x0112] = 8
  kinds = {
    'a.jpg': ('JPEG', 3, {}),
    'b.png': ('PNG', 3, {}),
    'c.jpg': ('JPEG', 3, {'exif': rotated}),
    'd.png': ('PNG', 4, {}),
    'e.webp': ('WEBP', 3, {'lossless': True}),
    'f.bmp': ('BMP', 3, {}),
    'g.gif': ('GIF', 3, {}),
    'h.jpg': ('JPEG', 1, {}),
  }
  for split in ('train', 'test'):
    for label in ('ant', 'bee'):
      folder = root / split / label
      folder.mkdir(parents=True)
      for name, (form, channels, options) in kinds.items():
        pixels = rng.integers(0, 256, (9, 14, channels), np.uint8)
        Image.fromarray(pixels.squeeze()).save(folder / name, form, **options)
  return root


def test_digits_round_trip(tmp_path):
  config = _config(source='digits')
  prepared = _run(config, tmp_path / 'out').data
  for split in ('train', 'test'):
    source = data_lib.make_source(config.data, split)
    found = data_lib.make_source(prepared, split)
    _assert_same(source, found)
    assert found.encoded
    assert found.example_id(3) == source.example_id(3)


def test_folder_round_trip_keeps_the_bytes_of_plain_pictures(
  pictures, tmp_path
):
  config = _config(source='folder', path=str(pictures), labels_from='folders')
  prepared = _run(config, tmp_path / 'out').data
  for split in ('train', 'test'):
    source = data_lib.make_source(config.data, split)
    found = data_lib.make_source(prepared, split)
    _assert_same(source, found)
    assert found.class_names == ('ant', 'bee')
    for i in range(found.num_examples):
      # Relative to the folder: the same wherever it lies.
      name = found.example_id(i)
      assert source.example_id(i) == str(pictures / name)
      stored = (pictures / name).read_bytes()
      plain = os.path.basename(name) in ('a.jpg', 'b.png', 'h.jpg')
      assert (found.read(i).image == stored) == plain
      assert found.read(i).image[:2] != b'BM'


def test_cifar10_round_trip(cifar10_dir, tmp_path):
  config = _config(
    name='cifar10',
    data_dir=cifar10_dir,
    train_split='train[:200]',
    test_split='test[:50]',
  )
  prepared = _run(config, tmp_path / 'out')
  assert prepared.data.train_split == 'train'
  for split, stored in (('train[:200]', 'train'), ('test[:50]', 'test')):
    source = data_lib.make_source(config.data, split)
    found = data_lib.make_source(prepared.data, stored)
    _assert_same(source, found)
    assert found.num_classes == 10 and found.class_names[0] == 'airplane'
    for i in (0, 17, source.num_examples - 1):
      assert found.read(i).image == source.read(i).image
      assert found.example_id(i) == source.example_id(i)


def test_arrays_and_unlabelled(tmp_path):
  images = np.random.Generator(np.random.PCG64(1)).integers(
    0, 256, (7, 5, 6), np.uint8
  )
  np.save(tmp_path / 'train_images.npy', images)
  config = _config(source='arrays', path=str(tmp_path), test_split='')
  prepared = _run(config, tmp_path / 'out').data
  _assert_same(
    data_lib.make_source(config.data, 'train'),
    data_lib.make_source(prepared, 'train'),
  )
  (file,) = (tmp_path / 'out' / 'data').iterdir()
  assert pq.read_schema(file).names == ['image', 'id']
  assert prepared.test_split == ''


def test_layout_is_hugging_faces(tmp_path):
  _run(_config(source='digits'), tmp_path / 'out', rows_per_shard=1000)
  folder = tmp_path / 'out' / 'data'
  assert sorted(p.name for p in folder.iterdir()) == [
    'test-00000-of-00001.parquet',
    'train-00000-of-00002.parquet',
    'train-00001-of-00002.parquet',
  ]
  assert [p.name for p in (tmp_path / 'out').iterdir()] == ['data']
  file = pq.ParquetFile(folder / 'train-00000-of-00002.parquet')
  assert file.metadata.num_rows == 1000
  schema = file.schema_arrow
  assert str(schema.field('image').type) == (
    'struct<bytes: binary, path: string>'
  )
  assert str(schema.field('label').type) == 'int64'
  features = json.loads(schema.metadata[b'huggingface'])['info']['features']
  assert features == {
    'image': {'_type': 'Image'},
    'label': {'names': [str(i) for i in range(10)], '_type': 'ClassLabel'},
    'id': {'dtype': 'string', '_type': 'Value'},
  }
  ours = json.loads(schema.metadata[b'simclr_jax'])
  source = data_lib.make_source(_config(source='digits').data, 'train')
  assert ours['source_fingerprint'] == source.fingerprint
  assert ours['num_examples'] == 1442 and ours['checked'] is True
  first = file.read_row_group(0).column('image')[0].as_py()
  assert first['path'] == '00000000.png' and first['bytes'][:4] == b'\x89PNG'


def test_files_close_at_their_size(tmp_path, monkeypatch):
  monkeypatch.setattr(parquet_writer, '_GROUP_BYTES', 4000)
  source = data_lib.make_source(_config(source='digits').data, 'test')
  written = parquet_writer.write(
    source, tmp_path, split='test', shard_bytes=20_000
  )
  sizes = []
  for path in written.paths:
    file = pq.ParquetFile(path)
    pictures = file.read().column('image').combine_chunks().field('bytes')
    sizes.append(sum(len(p.as_py()) for p in pictures))
    assert file.num_row_groups > 1
  assert len(sizes) > 2 and written.num_examples == 355
  assert all(20_000 <= size < 21_000 for size in sizes[:-1])
  assert sizes[-1] < 21_000


def test_same_bytes_again(pictures, tmp_path):
  config = _config(source='folder', path=str(pictures), labels_from='folders')
  for name in ('one', 'two'):
    _run(config, tmp_path / name, rows_per_shard=5)
  # And wherever the pictures lie.
  moved = pictures.rename(tmp_path / 'moved')
  _run(
    config_lib.replace(config, data={'path': str(moved)}),
    tmp_path / 'three',
    rows_per_shard=5,
  )
  files = [_files(tmp_path / name) for name in ('one', 'two', 'three')]
  assert len(files[0]) == 8
  # The folder source's own fingerprint is that of names and contents.
  assert files[0] == files[1] == files[2]


def test_interrupted_run_leaves_nothing_that_is_read(tmp_path, monkeypatch):
  config, out = _config(source='digits'), tmp_path / 'out'
  verify = parquet_writer._verify
  monkeypatch.setattr(parquet_writer, '_verify', _interrupt)
  with pytest.raises(KeyboardInterrupt):
    _run(config, out)
  assert [p.name for p in out.iterdir()] == ['.partial']
  assert list((out / '.partial').iterdir())
  with pytest.raises(ValueError, match='no .parquet file'):
    data_lib.make_source(
      config_lib.DataConfig(source='parquet', path=str(out)), 'train'
    )
  monkeypatch.setattr(parquet_writer, '_verify', verify)
  prepared = _run(config, out).data
  assert [p.name for p in out.iterdir()] == ['data']
  assert data_lib.make_source(prepared, 'train').num_examples == 1442
  with pytest.raises(ValueError, match=r"not empty \(it holds \['data'\]\)"):
    _run(config, out)


def _interrupt(*_):
  raise KeyboardInterrupt


def test_what_is_written_wrongly_is_found(tmp_path, monkeypatch):
  table = parquet_writer._table

  def lose_one(rows, schema):
    return table(rows[:-1], schema)

  def mix_labels(rows, schema):
    return table([row._replace(label=0) for row in rows], schema)

  for number, fault in enumerate((lose_one, mix_labels)):
    monkeypatch.setattr(parquet_writer, '_table', fault)
    out = tmp_path / f'out{number}'
    with pytest.raises(ValueError, match='does not hold what was written'):
      _run(_config(source='digits'), out)
    assert not (out / 'data').exists()


def _source(examples, **fields):
  return Source(
    **{
      'name': 'mine/train',
      'num_examples': len(examples),
      'num_classes': 2,
      'encoded': True,
      'read': examples.__getitem__,
      'example_id': lambda i: f'picture {i}',
      'fingerprint': 'f',
      **fields,
    }
  )


def test_picture_that_cannot_be_decoded_is_named(pictures, tmp_path):
  good = (pictures / 'train' / 'ant' / 'a.jpg').read_bytes()
  source = _source([Example(good, 0), Example(good[:-9], 1)])
  with pytest.raises(ValueError, match=r'example 1 of mine/train \(picture 1'):
    parquet_writer.write(source, tmp_path, split='train', shard_bytes=10**6)
  written = parquet_writer.write(
    _source([Example(good, 1)]), tmp_path, split='train', shard_bytes=10**6
  )
  assert written.num_examples == 1


def test_bytes_that_a_source_calls_plain_stay(pictures, tmp_path):
  """TFDS gives a rotated JPEG as it is; so must the copy."""
  rotated = (pictures / 'train' / 'ant' / 'c.jpg').read_bytes()
  (tmp_path / 'data').mkdir()
  parquet_writer.write(
    _source([Example(rotated, 1)]),
    tmp_path / 'data',
    split='train',
    shard_bytes=10**6,
  )
  found = data_lib.make_source(
    config_lib.DataConfig(source='parquet', path=str(tmp_path)), 'train'
  )
  assert found.read(0) == Example(rotated, 1)
  # Without names the number of classes is kept all the same.
  assert (found.num_classes, found.class_names) == (2, ())


def test_files_that_another_program_has_changed_are_not_believed(
  pictures, tmp_path
):
  prepared = _run(_config(source='digits'), tmp_path / 'out').data
  path = tmp_path / 'out' / 'data' / 'test-00000-of-00001.parquet'
  table = pq.read_table(path)
  rows = table.column('image').to_pylist()
  rows[7]['bytes'] = (pictures / 'train' / 'ant' / 'c.jpg').read_bytes()
  column = pa.array(rows, table.schema.field('image').type)
  # The schema's metadata say still that everything was checked.
  changed = table.set_column(0, table.schema.field('image'), column)
  pq.write_table(changed, path)
  image = data_lib.make_source(prepared, 'test').read(7).image
  assert _pixels(image).shape == (14, 9, 3)  # rotated as EXIF says
  # And so does the digest of what was there.
  keys = pq.ParquetFile(path).schema_arrow.metadata
  with pq.ParquetWriter(path, changed.schema) as writer:
    writer.write_table(changed)
    writer.add_key_value_metadata({'simclr_jax_pictures': '0' * 64})
  assert b'simclr_jax' in keys
  with pytest.raises(ValueError, match='was changed after simclr_jax.prepare'):
    data_lib.make_source(prepared, 'test')
  # Labels may be left unread.
  data = config_lib.replace(
    config_lib.Config(data=prepared), data={'label_key': ''}
  ).data
  assert data_lib.make_source(data, 'train').num_classes == 0


def test_prepared_pictures_are_not_decoded_again(tmp_path, monkeypatch):
  prepared = _run(_config(source='digits'), tmp_path / 'out').data
  monkeypatch.setattr(plain_image, 'inspect', None)
  assert data_lib.make_source(prepared, 'train').num_examples == 1442


def test_missing_files_are_noticed(tmp_path):
  prepared = _run(
    _config(source='digits'), tmp_path / 'out', rows_per_shard=500
  ).data
  folder = tmp_path / 'out' / 'data'
  (folder / 'train-00002-of-00003.parquet').unlink()
  with pytest.raises(ValueError, match='2 of 3 files'):
    data_lib.make_source(prepared, 'train')
  for n in (0, 1):
    name = f'train-{n:05d}-of-0000'
    (folder / f'{name}3.parquet').rename(folder / f'{name}2.parquet')
  with pytest.raises(ValueError, match='1000 rows, .* promises 1442'):
    data_lib.make_source(prepared, 'train')


@pytest.mark.parametrize(
  ('text', 'fields', 'want'),
  [
    ('', {}, {'train': 'train', 'test': 'test'}),
    ('', {'test_split': ''}, {'train': 'train'}),
    ('', {'test_split': 'validation'}, {'train': 0, 'validation': 0}),
    (
      '',
      {'train_split': 'train[:9%]', 'test_split': 'train[9%:]'},
      {'train': 'train[:9%]', 'test': 'train[9%:]'},
    ),
    ('a, b', {}, {'a': 'a', 'b': 'b'}),
    ('x=train[:5], y = test', {}, {'x': 'train[:5]', 'y': 'test'}),
    ('all=', {}, {'all': ''}),
  ],
)
def test_splits(text, fields, want):
  data = config_lib.DataConfig(name='x', **fields)
  found = prepare.parse_splits(text, data)
  assert found == {name: split or name for name, split in want.items()} or (
    found == want
  )


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('train[:5]', r'needs a name .*train=train\[:5\]'),
    ('a=x,a=y', 'not all different'),
    ('a/b=train', 'needs a name'),
    ('train,', 'needs a name'),
  ],
)
def test_impossible_splits(text, message):
  with pytest.raises(ValueError, match=message):
    prepare.parse_splits(text, config_lib.DataConfig(name='x'))


def test_out_must_be_a_new_local_folder(tmp_path):
  (tmp_path / 'file').write_text('')
  for out, message in (
    ('gs://bucket/x', 'local or mounted'),
    (tmp_path / 'file', 'is a file'),
    (tmp_path, 'not empty'),
  ):
    with pytest.raises(ValueError, match=message):
      _run(_config(source='digits'), out)
  with pytest.raises(ValueError, match='shard_mb=0'):
    _run(_config(source='digits'), tmp_path / 'new', shard_mb=0)


def test_wrong_split_leaves_no_folder(tmp_path):
  with pytest.raises(ValueError, match="'trian' is unknown"):
    _run(_config(source='digits'), tmp_path / 'out', splits='train,trian')
  assert not (tmp_path / 'out').exists()


def test_overrides_are_what_the_command_line_takes():
  before = _config(source='folder', path='/a', train_split='', test_split='')
  after = _config(source='parquet', path="/my 'own'", test_split='')
  flags = shlex.split(prepare.overrides(before, after))
  assert flags == [
    '--config.data.source=parquet',
    "--config.data.path=/my 'own'",
    '--config.data.train_split=train',
  ]


def test_command(tmp_path):
  """As the shell runs it, and the flags that it prints."""

  def call(*arguments):
    return subprocess.run(
      [
        sys.executable,
        '-m',
        'simclr_jax.prepare',
        '--config=configs/smoke.py',
        *arguments,
      ],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
      timeout=120,
    )

  out = tmp_path / 'out'
  done = call(f'--out={out}', '--rows_per_shard=1000')
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert lines[0].startswith('train: 1442 pictures in 2 files, ')
  assert lines[1].startswith('test: 355 pictures in 1 file, ')
  assert '--config.data.loader=opencv' in lines[-2]
  assert lines[-1].split() == [
    '--config.data.source=parquet',
    f'--config.data.path={out}',
  ]
  again = call(f'--out={out}')
  assert again.returncode == 2 and again.stdout == ''
  assert again.stderr.splitlines()[-1].startswith('error: --out=')
  unknown = call(f'--out={out}2', '--config.data.source=tfds')
  assert unknown.returncode == 2 and 'config.data.name' in unknown.stderr
