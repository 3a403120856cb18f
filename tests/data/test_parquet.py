"""Parquet files as Hugging Face writes them, built by hand with pyarrow."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import errno
import fcntl
import io
import json
import os
import pickle
import subprocess
import sys
import threading

import cloudpickle
import numpy as np
from PIL import Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data import plain_image
from simclr_jax.data.sources import (
  parquet_blob,
  parquet_layout,
  parquet_schema,
)

IMAGE = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
NAMES = ['cat', 'dog', 'eel']


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """The user's cache folder of this test."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'simclr_jax'


def _pixels(seed, height=5, width=7):
  rng = np.random.Generator(np.random.PCG64(seed))
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def _encode(pixels, form='PNG', **options):
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, form, **options)
  return out.getvalue()


PICTURES = [_encode(_pixels(seed)) for seed in range(12)]


def _write(
  path,
  pictures,
  labels=None,
  *,
  names=NAMES,
  image='image',
  label='label',
  image_type=IMAGE,
  extra=None,
  **options,
):
  """One file as `datasets` writes it; names None leaves the metadata out."""
  path.parent.mkdir(parents=True, exist_ok=True)
  rows = pictures
  if image_type == IMAGE:
    rows = [
      p if isinstance(p, dict | None) else {'bytes': p, 'path': f'{i}.png'}
      for i, p in enumerate(pictures)
    ]
  columns = {image: pa.array(rows, image_type)}
  features = {image: {'_type': 'Image'}}
  if labels is not None:
    columns[label] = pa.array(labels)
    features[label] = {'names': names, '_type': 'ClassLabel'}
  columns |= extra or {}
  table = pa.table(columns)
  if names is not None:
    table = table.replace_schema_metadata(
      {'huggingface': json.dumps({'info': {'features': features}})}
    )
  pq.write_table(table, path, **{'row_group_size': 3, **options})


def _config(path, **fields):
  return config_lib.DataConfig(source='parquet', path=str(path), **fields)


def _make(path, split='train', **fields):
  return data.make_source(_config(path, **fields), split)


def _images(source):
  return [source.read(i).image for i in range(source.num_examples)]


def _labels(source):
  return [source.read(i).label for i in range(source.num_examples)]


@pytest.fixture
def folder(tmp_path):
  """Three shards of train, one of test, as the Hub has them."""
  root = tmp_path / 'set'
  for n, part in enumerate([slice(0, 4), slice(4, 5), slice(5, 9)]):
    labels = [i % 3 for i in range(12)][part]
    _write(
      root / 'data' / f'train-{n:05d}-of-00003.parquet', PICTURES[part], labels
    )
  _write(root / 'data' / 'test-00000-of-00001.parquet', PICTURES[9:], [2, 1, 0])
  return root


@pytest.mark.parametrize(
  ('path', 'split', 'set_folder'),
  [
    ('data/train-00000-of-00005.parquet', 'train', ''),
    ('train-00000-of-00005-8b6e212f3e1ece96.parquet', 'train', ''),
    ('train-0001-of-0020.parquet', 'train', ''),
    ('cifar10/train-00000-of-00001.parquet', 'train', 'cifar10'),
    ('cifar10/data/test-00000-of-00001.parquet', 'test', 'cifar10'),
    ('data/train_extra-00000-of-00001.parquet', 'train_extra', ''),
    ('data/foo.bar-00000-of-00001.parquet', 'foo.bar', ''),
    ('train.parquet', 'train', ''),
    ('my-test-file.parquet', 'test', ''),
    ('mnist_train_03.parquet', 'train', ''),
    ('validation_1.parquet', 'validation', ''),
    ('default/train/0000.parquet', 'train', 'default'),
    ('train/part-7.parquet', 'train', ''),
    ('unlabelled/0000.parquet', 'unlabelled', ''),
    ('data/0000.parquet', '', ''),
    ('testfile.parquet', '', ''),
    ('a/pictures.parquet', '', 'a'),
  ],
)
def test_names_say_the_split(path, split, set_folder):
  file = parquet_layout.parse(path)
  assert (file.split, file.folder) == (split, set_folder)


def test_reads_shards_in_order(folder):
  source = _make(folder)
  assert _images(source) == PICTURES[:9]
  assert _labels(source) == [i % 3 for i in range(9)]
  assert (source.num_classes, source.class_names) == (3, tuple(NAMES))
  assert source.encoded and source.num_examples == 9 and not source.skipped
  assert source.example_id(0) == 'data/train-00000-of-00003.parquet row 0'
  assert source.example_id(8) == 'data/train-00002-of-00003.parquet row 3'
  test = _make(folder, 'test')
  assert _images(test) == PICTURES[9:] and _labels(test) == [2, 1, 0]
  ids = {s.example_id(i) for s in (source, test) for i in range(3)}
  assert len(ids) == 6


@pytest.mark.parametrize(
  ('split', 'rows'),
  [
    ('train[:4]', range(4)),
    ('train[4:5]', range(4, 5)),
    ('train[3:6]', range(3, 6)),
    ('train[-1:]', range(8, 9)),
    ('train[:50%]', range(4)),
    ('train[50%:]', range(4, 9)),
  ],
)
def test_parts_count_rows_over_all_files(folder, split, rows):
  part, whole = _make(folder, split), _make(folder)
  assert _images(part) == [PICTURES[i] for i in rows]
  ids = [part.example_id(i) for i in range(part.num_examples)]
  assert ids == [whole.example_id(i) for i in rows]
  assert part.fingerprint != whole.fingerprint


def test_part_converts_only_the_files_that_it_touches(folder, cache):
  _make(folder, 'train[:4]')
  assert len(list(cache.glob('parquet_*.bin'))) == 1
  _make(folder)
  assert len(list(cache.glob('parquet_*.bin'))) == 3


@pytest.mark.parametrize('split', ['trian', 'validation', '', 'train+test'])
def test_unknown_split_lists_those_there_are(folder, split):
  with pytest.raises(ValueError, match='test, train|train, test'):
    _make(folder, split)


def test_bad_part(folder):
  for split in ('train[5:5]', 'train[x:]', 'train[:'):
    with pytest.raises(ValueError, match='split'):
      _make(folder, split)


def test_single_file_and_plain_bytes(tmp_path):
  path = tmp_path / 'mine.parquet'
  _write(path, PICTURES, image='jpg', image_type=pa.binary(), names=None)
  source = _make(path, image_key='jpg')
  assert _images(source) == PICTURES and source.num_classes == 0
  path = tmp_path / 'test-00000-of-00001.parquet'
  _write(path, PICTURES, image_type=pa.large_binary(), names=None)
  assert _images(_make(path, 'test')) == PICTURES


def test_one_shard_of_several_is_no_data_set(folder):
  path = folder / 'data' / 'train-00000-of-00003.parquet'
  with pytest.raises(ValueError, match=r'1 of 3 files.* the folder .*/data'):
    _make(path)


def test_hidden_and_other_files_are_left_out(folder):
  _write(folder / '.partial' / 'train-00000-of-00009.parquet', PICTURES)
  _write(folder / 'data' / '.train-00001-of-00003.parquet', PICTURES)
  _write(folder / 'extra' / 'embeddings.parquet', PICTURES)
  (folder / 'README.md').write_text('pictures')
  assert _make(folder).num_examples == 9


def test_img_column_of_the_hub(tmp_path):
  _write(tmp_path / 'train.parquet', PICTURES[:3], [0, 1, 2], image='img')
  assert _images(_make(tmp_path)) == PICTURES[:3]
  with pytest.raises(ValueError, match=r"'imge' is not a column.*'img'"):
    _make(tmp_path, image_key='imge')


def test_labels_without_names_are_counted_with_those_of_training(tmp_path):
  _write(tmp_path / 'train.parquet', PICTURES[:3], [0, 1, 0], names=None)
  _write(tmp_path / 'test.parquet', PICTURES[:2], [4, 0], names=None)
  assert [_make(tmp_path, s).num_classes for s in ('train', 'test')] == [2, 5]
  assert _make(tmp_path, 'train[:1]').num_classes == 2
  _write(tmp_path / 'test.parquet', PICTURES[:2], [0, 0], names=None)
  assert _make(tmp_path, 'test').num_classes == 2


def test_what_is_held_out_does_not_change_what_is_trained(tmp_path):
  _write(tmp_path / 'train.parquet', PICTURES[:2], [0, 1], names=['b', 'c'])
  found = []
  # The second as `prepare` writes a class that only the test split has.
  for names in (['b', 'c'], ['b', 'c', 'a']):
    _write(tmp_path / 'test.parquet', PICTURES[:2], [1, 0], names=names)
    assert _make(tmp_path, 'test').class_names == tuple(names)
    found.append(_make(tmp_path))
  first, second = found
  assert first.fingerprint == second.fingerprint
  assert second.class_names == ('b', 'c')


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path):
  for split, name in (('train', '\xe9'), ('test', 'e\u0301')):
    _write(
      tmp_path / f'{split}.parquet', PICTURES[:2], [0, 1], names=['a', name]
    )
    assert _make(tmp_path, split).class_names == ('a', '\xe9')


def test_unlabelled(tmp_path):
  _write(tmp_path / 'train.parquet', PICTURES[:3])
  source = _make(tmp_path)
  assert source.num_classes == 0 and _labels(source) == [-1, -1, -1]
  # The Hub's test splits whose labels are kept secret.
  _write(tmp_path / 'test.parquet', PICTURES[:2], [-1, -1])
  source = _make(tmp_path, 'test')
  assert source.num_classes == 0 and _labels(source) == [-1, -1]
  assert source.class_names == ()


def test_labels_that_nobody_wants_or_nobody_named(tmp_path):
  _write(
    tmp_path / 'train.parquet', PICTURES[:3], [0, 1, None], label='fine_label'
  )
  assert _make(tmp_path, label_key='').num_classes == 0
  source = _make(tmp_path, label_key='fine_label')
  assert source.num_classes == 3 and _labels(source) == [0, 1, -1]
  # The default would quietly be 'no labels'.
  with pytest.raises(ValueError, match="'label' is not a column.*fine_label"):
    _make(tmp_path)
  with pytest.raises(ValueError, match="'breed' is not a column"):
    _make(tmp_path, label_key='breed')


@pytest.mark.parametrize(
  ('labels', 'message'),
  [
    (['a', 'b'], 'is string; labels must be integers'),
    ([0.5, 1.0], 'is double; labels must be integers'),
    ([0, -2], 'holds -2'),
    ([0, 3], 'row 1 has label 3, but there are 3 classes'),
  ],
)
def test_impossible_labels(tmp_path, labels, message):
  _write(tmp_path / 'train.parquet', PICTURES[:2], labels)
  with pytest.raises(ValueError, match=message):
    _make(tmp_path)


def test_splits_that_number_classes_differently_are_refused(tmp_path):
  _write(tmp_path / 'train.parquet', PICTURES[:2], [0, 1], names=['a', 'b'])
  _write(tmp_path / 'test.parquet', PICTURES[:2], [0, 1], names=['b', 'a'])
  with pytest.raises(ValueError, match="class 0 is 'a' in one and 'b'"):
    _make(tmp_path)
  assert _make(tmp_path, test_split='').num_classes == 2


def test_pictures_by_path_alone_are_refused(tmp_path):
  rows = [PICTURES[0], {'bytes': None, 'path': 'far/away.jpg'}]
  _write(tmp_path / 'train.parquet', rows)
  with pytest.raises(ValueError, match=r"row 1 of .*train.*'far/away.jpg'"):
    _make(tmp_path)
  _write(tmp_path / 'train.parquet', [None, PICTURES[0]])
  with pytest.raises(ValueError, match='row 0 of .* has no picture'):
    _make(tmp_path)


def test_columns_that_hold_no_pictures(tmp_path):
  _write(tmp_path / 'train.parquet', [[1], [2]], image_type=pa.list_(pa.int8()))
  with pytest.raises(ValueError, match=r"'image' is list<.*encoded pictures"):
    _make(tmp_path)


def test_odd_pictures_come_as_plain_ones(tmp_path):
  pixels = _pixels(1, 6, 9)
  rotated = Image.Exif()
  rotated[0x0112] = 6
  rgba = np.dstack([pixels, np.full(pixels.shape[:2], 128, np.uint8)])
  odd = [
    _encode(pixels, 'JPEG', exif=rotated),
    _encode(rgba),
    _encode(pixels, 'WEBP', lossless=True),
    _encode(pixels, 'GIF'),
    _encode(pixels, 'BMP'),
  ]
  plain = [_encode(pixels, 'JPEG'), _encode(pixels)]
  _write(tmp_path / 'train.parquet', odd + plain)
  images = _images(_make(tmp_path))
  assert images[len(odd) :] == plain
  for stored, image in zip(odd, images, strict=False):
    assert image == plain_image.to_plain(stored) and image[:2] == b'BM'
  decoded = [np.asarray(Image.open(io.BytesIO(image))) for image in images]
  assert decoded[0].shape == (9, 6, 3)  # rotated by a quarter turn
  np.testing.assert_array_equal(decoded[2], pixels)
  np.testing.assert_array_equal(decoded[4], pixels)


def test_bad_pictures_are_counted_and_skipped(tmp_path):
  bad = [b'', b'no picture', PICTURES[0][:-20]]
  _write(tmp_path / 'train.parquet', [*PICTURES[:4], *bad, *PICTURES[4:]])
  source = _make(tmp_path, max_bad_fraction=0.3)
  assert _images(source) == PICTURES
  rows = [name.split(' row ')[1] for name, _ in source.skipped]
  assert rows == ['4', '5', '6']
  assert source.example_id(4) == 'train.parquet row 7'
  # Rows of a part stay the same rows, whatever can be read of them.
  part = _make(tmp_path, 'train[3:8]', max_bad_fraction=0.9)
  assert _images(part) == PICTURES[3:5] and len(part.skipped) == 3
  with pytest.raises(ValueError, match=r'3 of 15 pictures .*max_bad_fraction'):
    _make(tmp_path)
  with pytest.raises(ValueError, match='the file is empty'):
    _make(tmp_path, 'train[4:7]', max_bad_fraction=1.0)


def test_damaged_files_are_named(folder):
  victim = folder / 'data' / 'train-00001-of-00003.parquet'
  whole = victim.read_bytes()
  for content in (whole[:-30], b'', b'PAR1' + bytes(50) + b'PAR1'):
    victim.write_bytes(content)
    with pytest.raises(ValueError, match='train-00001-of-00003.parquet is dam'):
      _make(folder)
  victim.write_bytes(b'version https://git-lfs.github.com/spec/v1\noid sha256')
  with pytest.raises(ValueError, match='git lfs pull'):
    _make(folder)
  victim.unlink()
  with pytest.raises(ValueError, match=r'2 of 3 files; missing .*\[1\]'):
    _make(folder)


def test_damage_within_a_page_is_seen(tmp_path):
  path = tmp_path / 'train.parquet'
  _write(path, PICTURES, compression='none', write_page_checksum=True)
  content = bytearray(path.read_bytes())
  content[content.index(PICTURES[5]) + 40] ^= 1
  path.write_bytes(content)
  with pytest.raises(ValueError, match='train.parquet is damaged'):
    _make(tmp_path)


def test_mixed_writings_are_refused(folder):
  _write(folder / 'data' / 'train-00000-of-00001.parquet', PICTURES)
  with pytest.raises(ValueError, match='mixes files of different writings'):
    _make(folder)


def test_files_of_one_split_must_agree(folder):
  path = folder / 'data' / 'train-00002-of-00003.parquet'
  _write(path, PICTURES[5:9], [0, 1, 2, 0], names=['dog', 'cat', 'eel'])
  with pytest.raises(ValueError, match='same columns and classes'):
    _make(folder)


def test_several_data_sets_must_be_told_apart(tmp_path):
  for name in ('one', 'two'):
    _write(tmp_path / name / 'train-00000-of-00001.parquet', PICTURES)
  with pytest.raises(ValueError, match=r'2 data sets \(one, two\)'):
    _make(tmp_path)
  assert _make(tmp_path / 'two').num_examples == 12


def test_nothing_there(tmp_path):
  with pytest.raises(ValueError, match='neither a folder nor a Parquet file'):
    _make(tmp_path / 'nowhere')
  (tmp_path / 'a.txt').write_text('')
  with pytest.raises(ValueError, match=r"no .parquet file below .*'a.txt'"):
    _make(tmp_path)
  with pytest.raises(ValueError, match='must be local or mounted'):
    _make('gs://bucket/set')


def test_missing_pyarrow_says_what_to_install(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
  with pytest.raises(ValueError, match='pip install pyarrow'):
    _make(folder)


def test_fingerprint_is_that_of_the_contents(folder, tmp_path):
  first = _make(folder).fingerprint
  assert len(first) == 64 and _make(folder).fingerprint == first
  labels = [i % 3 for i in range(9)]

  def other(pictures, labels, **options):
    _write(tmp_path / 'other' / 'train.parquet', pictures, labels, **options)
    return _make(tmp_path / 'other').fingerprint

  # However the rows lie in files.
  assert other(PICTURES[:9], labels, compression='zstd') == first
  assert other(PICTURES[:9], [1, *labels[1:]]) != first
  assert other(PICTURES[1:9] + PICTURES[:1], labels) != first
  assert other(PICTURES[:9], labels, names=['cat', 'dog', 'emu']) != first
  changed = [_encode(_pixels(99)), *PICTURES[1:9]]
  assert other(changed, labels) != first


def test_second_start_converts_nothing(folder, monkeypatch):
  first = _make(folder)
  monkeypatch.setattr(parquet_blob, '_write_blob', None)
  again = _make(folder)
  assert _images(again) == _images(first)
  assert again.fingerprint == first.fingerprint


def test_changed_file_is_converted_again(folder):
  old = _make(folder)
  path = folder / 'data' / 'train-00000-of-00003.parquet'
  size = path.stat().st_size
  # Of the same size: only its time says that it is another.
  _write(path, [PICTURES[i] for i in (1, 0, 3, 2)], [0, 1, 2, 0])
  assert path.stat().st_size == size
  os.utime(path, ns=(1, 1))
  assert _images(_make(folder))[:4] == [PICTURES[i] for i in (1, 0, 3, 2)]
  # What is open keeps what it had.
  assert _images(old) == PICTURES[:9]


def test_conversion_that_was_cut_off_is_made_again(folder, cache):
  _make(folder)
  blobs = sorted(cache.glob('parquet_*.bin'))
  blobs[0].write_bytes(blobs[0].read_bytes()[:-1])
  blobs[1].unlink()
  blobs[2].with_suffix('.npz').write_bytes(b'PK')
  blobs[1].with_suffix('.tmp').write_bytes(b'of a killed process')
  assert _images(_make(folder)) == PICTURES[:9]
  assert not list(cache.glob('*.tmp'))


def test_interrupted_conversion_keeps_whole_files(folder, cache, monkeypatch):
  write_blob, calls = parquet_blob._write_blob, []

  def stop_at_third(*args, **kwargs):
    calls.append(args)
    if len(calls) == 3:
      raise KeyboardInterrupt
    return write_blob(*args, **kwargs)

  monkeypatch.setattr(parquet_blob, '_write_blob', stop_at_third)
  with pytest.raises(KeyboardInterrupt):
    _make(folder)
  assert _images(_make(folder)) == PICTURES[:9] and len(calls) == 4


def test_blob_that_shrinks_is_an_error(folder, cache):
  source = _make(folder)
  for blob in cache.glob('parquet_*.bin'):
    blob.write_bytes(b'')
  with pytest.raises(ValueError, match='cut off: 0 of'):
    source.read(0)


def test_too_little_room_is_said_at_once(folder, cache, monkeypatch):
  free = dataclasses.make_dataclass('Usage', ['free'])(10)
  monkeypatch.setattr(parquet_blob.shutil, 'disk_usage', lambda _: free)
  with pytest.raises(ValueError, match='XDG_CACHE_HOME'):
    _make(folder)
  assert not list(cache.glob('*.bin'))


def test_cache_folder_that_cannot_be_made_is_said(folder, cache):
  cache.parent.write_text('a file')
  with pytest.raises(ValueError, match=r'cannot be written.*XDG_CACHE_HOME'):
    _make(folder)


@pytest.mark.parametrize('step', ['flock', 'fsync', 'replace'])
def test_cache_folder_that_fills_is_said(folder, cache, monkeypatch, step):
  def fail(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  module = parquet_blob.fcntl if step == 'flock' else parquet_blob.os
  with monkeypatch.context() as patch:
    patch.setattr(module, step, fail)
    with pytest.raises(ValueError, match=r'No space left.*XDG_CACHE_HOME'):
      _make(folder)
  assert not list(cache.glob('*.tmp')) and not list(cache.glob('*.bin'))
  assert _images(_make(folder)) == PICTURES[:9]


def test_conversion_opens_one_file_at_a_time(folder, monkeypatch):
  open_file, opened = parquet_schema.open_file, []

  def watched(path):
    assert all(file.closed for file in opened)
    opened.append(open_file(path))
    return opened[-1]

  monkeypatch.setattr(parquet_schema, 'open_file', watched)
  assert _images(_make(folder)) == PICTURES[:9]
  assert len(opened) > 3


def test_many_threads_read_the_same(folder):
  source = _make(folder)
  order = np.random.Generator(np.random.PCG64(3)).integers(0, 9, 400).tolist()
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(source.read, order))
  assert [f.image for f in found] == [PICTURES[i] for i in order]
  assert [f.label for f in found] == [i % 3 for i in order]


def test_travels_to_another_process(folder):
  source = _make(folder)
  for dumps in (pickle.dumps, cloudpickle.dumps):
    assert _images(pickle.loads(dumps(source))) == PICTURES[:9]
  payload = folder / 'source.pkl'
  payload.write_bytes(cloudpickle.dumps(source))
  code = (
    'import pickle, sys\n'
    f'source = pickle.load(open({str(payload)!r}, "rb"))\n'
    'assert source.num_examples == 9\n'
    'print([len(source.read(i).image) for i in range(9)])\n'
    'sys.exit("pyarrow" in sys.modules or "tensorflow" in sys.modules)'
  )
  run = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', code],
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout.strip() == str([len(p) for p in PICTURES[:9]])


def test_who_comes_second_waits_and_converts_nothing(tmp_path, monkeypatch):
  _write(tmp_path / 'train.parquet', PICTURES)
  flock, write_blob = fcntl.flock, parquet_blob._write_blob
  waits, calls = threading.Event(), []
  other = threading.Thread(target=_make, args=(tmp_path,))

  def watched_flock(file, operation):
    if threading.current_thread() is other:
      waits.set()
    flock(file, operation)

  def slow_write_blob(*args, **kwargs):
    calls.append(args)
    if len(calls) == 1:
      other.start()
      waits.wait(10)
    return write_blob(*args, **kwargs)

  monkeypatch.setattr(parquet_blob.fcntl, 'flock', watched_flock)
  monkeypatch.setattr(parquet_blob, '_write_blob', slow_write_blob)
  assert _images(_make(tmp_path)) == PICTURES
  other.join()
  assert len(calls) == 1


def test_empty_file_among_others(folder):
  _write(folder / 'data' / 'train-00001-of-00003.parquet', [], None)
  with pytest.raises(ValueError, match='same columns'):
    _make(folder)
  _write(
    folder / 'data' / 'train-00001-of-00003.parquet',
    [],
    pa.array([], pa.int64()),
  )
  assert _images(_make(folder)) == PICTURES[:4] + PICTURES[5:9]


def test_schema_reads_only_what_is_json(tmp_path):
  path = tmp_path / 'train.parquet'
  table = pa.table({'image': pa.array(PICTURES[:2], pa.binary())})
  pq.write_table(table.replace_schema_metadata({'huggingface': '{'}), path)
  with pytest.raises(ValueError, match="metadata 'huggingface'.*no JSON"):
    _make(tmp_path)
  assert parquet_schema.METADATA_KEY == b'simclr_jax'


def test_memory_does_not_grow_with_epochs(tmp_path):
  """16 MB of pictures read 20 times: the process keeps none of them."""
  rng = np.random.Generator(np.random.PCG64(5))
  big = [
    _encode(rng.integers(0, 256, (256, 256, 3), np.uint8)) for _ in range(80)
  ]
  _write(tmp_path / 'train.parquet', big, row_group_size=20)
  source = _make(tmp_path)
  _images(source)
  statm = '/proc/self/statm'
  if not os.path.exists(statm):
    pytest.skip('only Linux tells')

  def resident():
    with open(statm) as file:
      return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

  before = resident()
  for _ in range(20):
    for i in range(source.num_examples):
      source.read(i)
  assert resident() - before < 8e6
