"""TFDS data sets: real CIFAR-10, and small ones prepared on the spot."""

from __future__ import annotations

import io
import pathlib
import shutil
import struct
import warnings

import numpy as np
from PIL import Image
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data import cache, reading, stream, tfrecord_index
from simclr_jax.data.lazy_tf import tf, tfds
from tests.data import deep_png

_NAMES = ('ant', 'bee', 'cat')


def _config(name, data_dir, **fields):
  return config_lib.DataConfig(name=name, data_dir=str(data_dir), **fields)


def _make(name, data_dir, split='train', *, workdir=None, **fields):
  workdir = workdir or pathlib.Path(data_dir) / 'workdir'
  return data.make_source(
    _config(name, data_dir, **fields), split, workdir=str(workdir)
  )


def _pixels(number):
  rng = np.random.Generator(np.random.PCG64(number))
  return rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)


def _png(number, mode='RGB'):
  out = io.BytesIO()
  Image.fromarray(_pixels(number)).convert(mode).save(out, 'PNG')
  return out.getvalue()


def _deep_png(number):
  """Grey of 12 bits."""
  values = _pixels(number)[..., :1].astype(np.uint16) * 16 + 15
  return deep_png.encode(values)


def _prepare(folder, *, file_format='tfrecord', channels=3, deep=False):
  """A data set of 10 train images in 3 files and 4 test images in 1."""
  folder.mkdir(parents=True)
  features = tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(
        shape=(None, None, 1 if deep else channels),
        dtype=np.uint16 if deep else np.uint8,
      ),
      'label': tfds.features.ClassLabel(names=_NAMES),
      'size': tfds.features.Scalar(np.int64),
      'text': tfds.features.Text(),
    }
  )
  ends = {'train': [0, 4, 7, 10], 'test': [100, 104]}
  splits = []
  for split, bounds in ends.items():
    splits.append(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=list(np.diff(bounds)),
        num_bytes=0,
        filename_template=tfds.core.ShardedFileTemplate(
          data_dir=folder,
          dataset_name='tiny',
          split=split,
          filetype_suffix=file_format,
        ),
      )
    )
    for shard in range(len(bounds) - 1):
      count = len(bounds) - 1
      path = folder / (f'tiny-{split}.{file_format}-{shard:05d}-of-{count:05d}')
      records = [
        features.serialize_example(
          {
            'image': io.BytesIO(
              _deep_png(n)
              if deep
              else _png(n, 'RGBA' if channels == 4 else 'RGB')
            ),
            'label': n % 3,
            'size': n,
            'text': f'number {n}',
          }
        )
        for n in range(bounds[shard], bounds[shard + 1])
      ]
      _write(str(path), records, file_format=file_format)
  with warnings.catch_warnings():
    # TFDS reads a deprecated attribute of protobuf here.
    warnings.simplefilter('ignore')
    tfds.folder_dataset.write_metadata(
      data_dir=folder,
      features=features,
      split_infos=splits,
      check_data=False,
    )
  return folder


def _write(path, records, *, file_format):
  if file_format == 'tfrecord':
    with tf.io.TFRecordWriter(path) as writer:
      for record in records:
        writer.write(record)
    return
  from array_record.python.array_record_module import ArrayRecordWriter

  writer = ArrayRecordWriter(path, 'group_size:1')
  for record in records:
    writer.write(record)
  writer.close()


@pytest.fixture(scope='module')
def tiny_dir(tmp_path_factory):
  pytest.importorskip('tensorflow_datasets')
  root = tmp_path_factory.mktemp('tfds')
  _prepare(root / 'tiny' / '1.0.0')
  _prepare(root / 'tiny_subset' / 'half' / '1.0.0')
  return root


def _sizes(source):
  """Number each example was made from, read back from its pixels."""
  numbers = {_pixels(n).tobytes(): n for n in (*range(10), *range(100, 104))}
  return [
    numbers[stream.decode(tf.constant(source.read(i).image)).numpy().tobytes()]
    for i in range(source.num_examples)
  ]


def test_cifar10_equals_tfds_own_reading(cifar10_dir, tmp_path):
  source = _make('cifar10', cifar10_dir, workdir=tmp_path)
  assert source.num_examples == 50_000 and source.num_classes == 10
  assert source.class_names[:2] == ('airplane', 'automobile')
  builder = tfds.builder_from_directory(f'{cifar10_dir}/cifar10/3.0.2')
  want = builder.as_dataset(
    split='train[:200]',
    shuffle_files=False,
    decoders={'image': tfds.decode.SkipDecoding()},
  )
  for i, example in enumerate(want.as_numpy_iterator()):
    image, label = source.read(i)
    assert image == example['image']
    assert label == example['label']
    # These are JPEGs, which TFDS would decode by the fast DCT.
    found = stream.decode(tf.constant(image)).numpy()
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(image))))
  assert source.example_id(3).endswith('00000-of-00001 record 3')


def test_cifar10_slices(cifar10_dir, tmp_path):
  whole = _make('cifar10', cifar10_dir, workdir=tmp_path)
  part = _make('cifar10', cifar10_dir, 'train[50%:60%]', workdir=tmp_path)
  both = _make('cifar10', cifar10_dir, 'train+test', workdir=tmp_path)
  assert (part.num_examples, both.num_examples) == (5000, 60_000)
  assert part.read(17) == whole.read(25_017)
  assert both.read(49_999) == whole.read(49_999)
  test = _make('cifar10', cifar10_dir, 'test', workdir=tmp_path)
  assert both.read(50_003) == test.read(3)
  prints = {s.fingerprint for s in (whole, part, both, test)}
  assert len(prints) == 4


@pytest.mark.parametrize(
  ('split', 'want'),
  [
    ('train', list(range(10))),
    ('test', [100, 101, 102, 103]),
    ('train[:30%]', [0, 1, 2]),
    ('train[3:8]', [3, 4, 5, 6, 7]),
    ('train[-2:]', [8, 9]),
    ('test+train[5:]', [100, 101, 102, 103, 5, 6, 7, 8, 9]),
    ('train[:1]+train[9:]', [0, 9]),
  ],
)
def test_splits_over_files(tiny_dir, split, want):
  source = _make('tiny', tiny_dir, split)
  assert _sizes(source) == want
  assert [source.read(i).label for i in range(len(want))] == [
    n % 3 for n in want
  ]
  assert source.class_names == _NAMES


def test_configs_versions_and_labels(tiny_dir):
  assert _make('tiny_subset/half', tiny_dir).num_examples == 10
  assert _make('tiny:1.0.0', tiny_dir).num_examples == 10
  source = _make('tiny', tiny_dir, label_key='')
  assert source.num_classes == 0 and source.read(4).label == -1
  assert source.fingerprint != _make('tiny', tiny_dir).fingerprint


def test_array_record(tmp_path):
  pytest.importorskip('array_record')
  folder = _prepare(tmp_path / 'tiny/1.0.0', file_format='array_record')
  source = _make('tiny', tmp_path, 'train[2:]+test[:1]')
  assert _sizes(source) == [2, 3, 4, 5, 6, 7, 8, 9, 100]
  path = folder / 'tiny-train.array_record-00001-of-00003'
  path.write_bytes(path.read_bytes()[:-10])
  with pytest.raises(ValueError, match=r'00001-of-00003 holds 0 records.* 3'):
    _make('tiny', tmp_path)


def test_alpha_goes_onto_white(tmp_path):
  _prepare(tmp_path / 'tiny/1.0.0', channels=4)
  # The alpha of these is 255 everywhere; TensorFlow alone cannot tell, so look
  # at what is handed on.
  source = _make('tiny', tmp_path)
  assert source.read(0).image[:2] == b'BM'
  assert _sizes(source) == list(range(10))


@pytest.mark.parametrize(
  ('name', 'split', 'fields', 'match'),
  [
    ('nope', 'train', {}, r"'nope' is not prepared in .*tfds build nope"),
    ('tiny', 'val', {}, r"'val' is not a split.*known: train, test"),
    ('tiny', 'train[:0]', {}, 'no examples'),
    ('tiny', 'train', {'image_key': 'img'}, r'image_key.*image, label'),
    ('tiny', 'train', {'image_key': 'label'}, 'not an image'),
    ('tiny', 'train', {'label_key': 'x'}, "label_key.*or '' for none"),
    ('tiny', 'train', {'label_key': 'size'}, 'not a class'),
  ],
)
def test_mistakes(tiny_dir, name, split, fields, match):
  with pytest.raises(ValueError, match=match):
    _make(name, tiny_dir, split, **fields)


def test_images_of_12_bits_are_noticed_and_scaled(tmp_path, monkeypatch):
  _prepare(tmp_path / 'tiny' / '1.0.0', deep=True)
  said: list[str] = []
  monkeypatch.setattr(
    'simclr_jax.data.deep_images.logging.warning',
    lambda text, *args: said.append(text % args),
  )
  dark, right = (_make('tiny', tmp_path, bits=bits) for bits in (16, 12))
  assert len(said) == 1 and '--config.data.bits=12' in said[0]
  assert dark.fingerprint != right.fingerprint
  pixels = stream.decode(tf.constant(right.read(3).image)).numpy()
  np.testing.assert_array_equal(pixels[..., :1], _pixels(3)[..., :1])


def _shard(tmp_path):
  path = tmp_path / 'x.tfrecord'
  records = [bytes([n]) * n for n in range(20)]
  _write(str(path), records, file_format='tfrecord')
  return path, records


def _index(path):
  return tfrecord_index.build(str(path), tfrecord_index.stamp(str(path))[0])


def test_index_reads_every_record(tmp_path):
  path, records = _shard(tmp_path)
  shard = _index(path)
  assert [tfrecord_index.read_record(shard, i) for i in range(20)] == records
  # The same bytes through tf.io.gfile, as for remote files.
  remote = tfrecord_index.load_or_build(
    [f'file://{path}'], cache_folder=tmp_path
  )[0]
  assert tfrecord_index.read_record(remote, 7) == records[7]


def test_empty_file_has_no_records(tmp_path):
  path = tmp_path / 'x.tfrecord'
  path.touch()
  assert not len(_index(path).offsets)


@pytest.mark.parametrize('cut', [1, 5, 20, 30])
def test_truncated_file_is_named(tmp_path, cut):
  path, _ = _shard(tmp_path)
  path.write_bytes(path.read_bytes()[:-cut])
  with pytest.raises(ValueError, match=r'x\.tfrecord is truncated: record 1'):
    _index(path)


@pytest.mark.parametrize('byte', [0, 5, 8, 11])
def test_damaged_header_is_named(tmp_path, byte):
  path, records = _shard(tmp_path)
  at = sum(16 + len(r) for r in records[:6]) + byte
  content = bytearray(path.read_bytes())
  content[at] ^= 0x10
  path.write_bytes(bytes(content))
  with pytest.raises(ValueError, match='header of record 6 at byte'):
    _index(path)


def test_missing_file_and_wrong_count_are_named(tiny_dir, tmp_path):
  shutil.copytree(tiny_dir / 'tiny', tmp_path / 'tiny')
  path = tmp_path / 'tiny/1.0.0/tiny-train.tfrecord-00001-of-00003'
  other = path.with_name('tiny-train.tfrecord-00000-of-00003')
  path.write_bytes(other.read_bytes())
  with pytest.raises(ValueError, match=r'00001-of-00003 holds 4 .*promises 3'):
    _make('tiny', tmp_path)
  path.unlink()
  with pytest.raises(ValueError, match='00001-of-00003 is missing'):
    _make('tiny', tmp_path)


def test_records_that_are_not_what_they_should_be_are_named(tmp_path):
  """A label beyond the classes, and bytes that are no example."""
  folder = _prepare(tmp_path / 'tiny/1.0.0')
  (folder / 'label.labels.txt').write_text('ant\nbee\n')
  features = folder / 'features.json'
  text = features.read_text()
  assert '"numClasses": "3"' in text
  features.write_text(text.replace('"numClasses": "3"', '"numClasses": "2"'))
  path = str(folder / 'tiny-test.tfrecord-00000-of-00001')
  _write(path, [b'no example'] * 4, file_format='tfrecord')
  source = _make('tiny', tmp_path)
  assert source.read(1).label == 1
  with pytest.raises(ValueError, match=r'label is 2, and there are 2 classes'):
    source.read(2)
  broken = _make('tiny', tmp_path, 'test')
  with pytest.raises(ValueError, match=r'00001 record 3\) cannot be read'):
    reading.read(broken, 3)


def test_index_is_kept_until_a_file_changes(tmp_path, monkeypatch):
  path, records = _shard(tmp_path)
  built: list[str] = []
  build = tfrecord_index.build
  monkeypatch.setattr(
    tfrecord_index,
    'build',
    lambda path, size: (built.append(path), build(path, size))[1],
  )

  def load():
    return tfrecord_index.load_or_build(
      [str(path)], cache_folder=tmp_path / 'kept'
    )[0]

  first, second = load(), load()
  assert len(built) == 1
  assert np.array_equal(first.offsets, second.offsets)
  assert tfrecord_index.read_record(second, 19) == records[19]
  with open(path, 'ab') as file:
    header = struct.pack('<Q', 1)
    crc = tfrecord_index._masked_crc32c(np.array([1], np.uint64))[0]
    file.write(header + struct.pack('<I', crc) + b'x' + bytes(4))
  assert len(load().offsets) == 21 and len(built) == 2
  (kept, _) = sorted((tmp_path / 'kept').iterdir())
  for each in (tmp_path / 'kept').iterdir():
    each.write_bytes(b'not an archive')
  assert len(load().offsets) == 21 and len(built) == 3


def test_cache_folder(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert cache.folder('/runs/a') == pathlib.Path('/runs/a/data_cache')
  assert cache.folder(None) == tmp_path / 'simclr_jax'
  assert cache.folder('gs://bucket/run') == tmp_path / 'simclr_jax'


def test_cache_that_cannot_be_written_stops_nothing(tmp_path):
  (tmp_path / 'file').touch()
  cache.save(tmp_path / 'file' / 'x.npz', {'a': np.arange(3)})
  assert cache.load(tmp_path / 'file' / 'x.npz') is None
