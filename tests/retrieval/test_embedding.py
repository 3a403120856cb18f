"""Every picture once, whatever happens; against the features of the probe."""

import errno
import json
import os

import jax
import numpy as np
from PIL import Image
import pyarrow.parquet as pq
import pytest

from simclr_jax import config as config_lib
from simclr_jax import data
from simclr_jax.data import Example
from simclr_jax.evaluation import features as features_lib
from simclr_jax.retrieval import (
  computing,
  embedding,
  embedding_files,
  shards,
  spaces,
)
from simclr_jax.retrieval.embedding_set import EmbeddingSet
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib
from tests import small_run
from tests.retrieval import retrieval_run
from tests.retrieval.retrieval_run import embed

N = 96
pytestmark = pytest.mark.usefixtures('one_compile')
one_compile = retrieval_run.one_compile


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  small_run.save_small_run(path, steps=(3,))
  return path


@pytest.fixture(scope='module')
def other_run(tmp_path_factory):
  path = tmp_path_factory.mktemp('other')
  small_run.save_small_run(path, steps=(4,))
  return path


@pytest.fixture(scope='module')
def oracle(workdir, one_compile):
  """h and z as the probe reads them."""
  config = config_lib.replace(small_run.CONFIG, data={'loader': 'opencv'})
  mesh = mesh_lib.make_mesh(jax.local_devices())
  space = spaces.make_space(checkpoint.load_encoder(workdir), mesh=mesh)
  source = data.make_source(config.data, config.data.train_split)
  return features_lib.extract_features(space.encoder, source, config)


def table(out):
  """All columns of a set, in order, as NumPy arrays."""
  found = pq.read_table(sorted(out.glob('part-*.parquet')))
  return {
    name: np.stack(found[name].to_numpy())
    if name in 'hz'
    else found[name].to_numpy()
    for name in found.column_names
  }


def test_every_picture_once_with_the_features_of_the_probe(
  workdir, oracle, tmp_path
):
  done = embed(
    workdir,
    'run',
    tmp_path / 'e',
    outputs=('z', 'h'),
    shard_rows=41,
    batch_size=17,
  )
  assert (done.num_rows, done.num_computed, done.bad) == (N, N, ())
  names = sorted(p.name for p in (tmp_path / 'e').iterdir())
  assert names == [
    'embedding_run.json',
    'embeddings.json',
    *(f'part-0000{k}-of-00003.parquet' for k in range(3)),
  ]
  found = table(tmp_path / 'e')
  assert list(found) == ['id', 'path', 'h', 'z', 'label']
  np.testing.assert_array_equal(found['id'], np.arange(N))
  np.testing.assert_array_equal(found['label'], oracle.labels)
  assert found['path'][5] == 'procedural train 5'
  for name in ('h', 'z'):
    ours, theirs = found[name], getattr(oracle, name)
    assert ours.dtype == np.float32 and np.ptp(theirs) > 0.1
    # Batches of another size are summed in another order.
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


def test_half_precision_and_length_one_are_recorded(workdir, oracle, tmp_path):
  out = tmp_path / 'e'
  embed(workdir, 'run', out, dtype='float16', normalize=True)
  rows = table(out)['h']
  assert rows.dtype == np.float16
  wanted = oracle.h / np.linalg.norm(oracle.h, axis=1, keepdims=True)
  np.testing.assert_allclose(rows.astype(np.float32), wanted, atol=1e-3)
  manifest = json.loads((out / 'embeddings.json').read_text())
  metadata = pq.read_schema(next(out.glob('*.parquet'))).metadata
  in_file = json.loads(metadata[shards.METADATA_KEY])['identity']
  for identity in (manifest['identity'], in_file):
    assert identity['normalized'] is True and identity['dtype'] == 'float16'


def test_a_stopped_set_is_continued_without_computing_twice(
  workdir, tmp_path, monkeypatch
):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  options = {'shard_rows': 20, 'batch_size': 8}
  embed(workdir, 'run', whole, **options)
  # Stopped in the middle of the third shard, of which nothing must be left.
  asked = iter(range(8))
  with pytest.raises(computing.Stopped):
    embed(workdir, 'run', parts, stop_fn=lambda: next(asked) == 7, **options)
  there = sorted(parts.glob('part-*'))
  assert len(there) == 2 and not (parts / 'embeddings.json').exists()
  assert not list(parts.glob('.*'))
  before = [os.stat(path).st_mtime_ns for path in there]
  done = embed(workdir, 'run', parts, **options)
  assert (done.num_rows, done.num_computed) == (N, N - 40)
  assert [os.stat(path).st_mtime_ns for path in there] == before
  for name in sorted(p.name for p in whole.glob('part-*')):
    assert (whole / name).read_bytes() == (parts / name).read_bytes()
  # Again: nothing is read.
  monkeypatch.setattr(computing.encoding, 'encode', None)
  assert embed(workdir, 'run', parts, **options).num_computed == 0


def test_a_damaged_shard_is_computed_again(workdir, tmp_path):
  options = {'shard_rows': 48}
  embed(workdir, 'run', tmp_path / 'e', **options)
  path = tmp_path / 'e' / 'part-00001-of-00002.parquet'
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  (tmp_path / 'e' / '.part-00000.abc.tmp').write_bytes(b'of a killed process')
  done = embed(workdir, 'run', tmp_path / 'e', **options)
  assert done.num_computed == 48 and path.read_bytes() == whole
  assert not list((tmp_path / 'e').glob('.*'))


def test_a_shard_that_another_command_is_writing_stays(workdir, tmp_path):
  out = tmp_path / 'e'
  embed(workdir, 'run', out)
  identity = EmbeddingSet(out).identity
  left = out / '.part-00000.left.tmp'
  left.write_bytes(b'of a killed process')
  with pytest.raises(RuntimeError, match='no shard'):
    with shards.shard_writer(out, identity, 0):
      embedding_files.remove_unfinished(out)
      hidden = list(out.glob('.part-*'))
      raise RuntimeError('no shard')
  assert len(hidden) == 1 and left not in hidden
  assert not list(out.glob('.part-*'))


def test_a_refused_folder_is_left_as_it_was(workdir, tmp_path):
  (tmp_path / 'pictures').mkdir()
  Image.new('RGB', (9, 9)).save(tmp_path / 'pictures/x.png')
  (tmp_path / 'pictures/y.jpg').write_bytes(b'\xff\xd8\xff no picture')
  out = tmp_path / 'mine'
  out.mkdir()
  (out / 'thesis.tex').write_text('')
  with pytest.raises(ValueError, match='is not empty'):
    embed(workdir, tmp_path / 'pictures', out)
  assert [path.name for path in out.iterdir()] == ['thesis.tex']


def test_something_else_is_never_continued(workdir, other_run, tmp_path):
  embed(workdir, 'run', tmp_path / 'e')
  with pytest.raises(ValueError, match='another checkpoint'):
    embed(other_run, 'run', tmp_path / 'e')
  with pytest.raises(ValueError, match='another checkpoint'):
    embed(workdir, 'run', tmp_path / 'e', kind='random_init')
  with pytest.raises(ValueError, match='the pictures have changed'):
    embed(workdir, 'run', tmp_path / 'e', split='train[1:97]')
  with pytest.raises(ValueError, match='dtype: float32 -> float16'):
    embed(workdir, 'run', tmp_path / 'e', dtype='float16')
  with pytest.raises(ValueError, match='not empty'):
    embed(workdir, 'run', workdir)


def test_pictures_of_a_folder(workdir, tmp_path):
  """Nested, one damaged, one whose name is no text; paths are relative."""
  pictures = tmp_path / 'pictures'
  rng = np.random.default_rng(0)
  for name in ('b/x.png', 'a/y.jpg', 'a/\udcff.png'):
    (pictures / name).parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(pictures / name)
  (pictures / 'a/z.jpg').write_bytes(b'\xff\xd8\xff no picture')
  out = tmp_path / 'e'
  done = embed(workdir, pictures, out, changes={'labels_from': 'folders'})
  assert done.num_rows == 3 and len(done.bad) == 1
  found = table(out)
  assert found['path'].tolist() == ['a/y.jpg', 'a/\\udcff.png', 'b/x.png']
  assert found['label'].tolist() == [0, 0, 1]
  (line,) = (out / 'skipped_files.txt').read_text().splitlines()
  assert line.startswith(str(pictures / 'a/z.jpg')) and '\t' in line
  assert json.loads((out / 'embeddings.json').read_text())['num_bad'] == 1


def test_pictures_that_fail_only_when_read(
  workdir, oracle, tmp_path, monkeypatch
):
  """As a damaged record of a TFDS data set, which nobody decoded before."""
  make = data.SOURCES['procedural']

  def make_damaged(*args, **kwargs):
    source = make(*args, **kwargs)

    def read(i):
      if i == 50:
        raise OSError('the disk says no')
      example = source.read(i)
      return Example(b'\xff\xd8\xff half', 0) if i == 3 else example

    return embedding.dataclasses.replace(source, read=read)

  monkeypatch.setitem(data.SOURCES, 'procedural', make_damaged)
  done = embed(workdir, 'run', tmp_path / 'e', shard_rows=30)
  assert [path for path, _ in done.bad] == [
    'procedural train 3',
    'procedural train 50',
  ]
  assert 'the disk says no' in done.bad[1][1]
  found = table(tmp_path / 'e')
  good = np.setdiff1d(np.arange(N), [3, 50])
  np.testing.assert_array_equal(found['id'], good)
  np.testing.assert_allclose(found['h'], oracle.h[good], rtol=2e-4, atol=2e-5)
  # Continued, they are known.
  assert embed(workdir, 'run', tmp_path / 'e', shard_rows=30).bad == done.bad


@pytest.mark.parametrize(
  'error',
  [OSError(errno.EIO, 'no'), FileNotFoundError(2, 'gone'), MemoryError()],
)
def test_what_the_machine_failed_to_read_is_no_bad_picture(
  workdir, tmp_path, monkeypatch, error
):
  make = data.SOURCES['procedural']

  def make_failing(*args, **kwargs):
    source = make(*args, **kwargs)

    def read(i):
      if i == 50:
        raise error
      return source.read(i)

    return embedding.dataclasses.replace(source, read=read)

  with monkeypatch.context() as patch:
    patch.setitem(data.SOURCES, 'procedural', make_failing)
    with pytest.raises((OSError, MemoryError)):
      embed(workdir, 'run', tmp_path / 'e', shard_rows=48)
  assert not (tmp_path / 'e' / 'embeddings.json').exists()
  # Once it can be read, nothing is missing.
  done = embed(workdir, 'run', tmp_path / 'e', shard_rows=48)
  assert (done.num_rows, done.bad) == (N, ())


def test_embeddings_never_lie_among_what_is_embedded(workdir, tmp_path):
  Image.new('RGB', (9, 9)).save(tmp_path / 'x.png')
  with pytest.raises(ValueError, match='would be among its files'):
    embed(workdir, tmp_path, tmp_path / 'sub' / 'e')
  with pytest.raises(ValueError, match='is a file'):
    embed(workdir, 'run', tmp_path / 'x.png')


def test_numbers_that_do_not_fit_are_refused(workdir, tmp_path, monkeypatch):
  encode = computing.encoding.encode

  def scaled(factor):
    def fake(*args):
      for batch in encode(*args):
        h = batch.outputs['h'].copy()
        h[2] *= factor
        yield batch._replace(outputs={'h': h})

    return fake

  monkeypatch.setattr(computing.encoding, 'encode', scaled(1e9))
  with pytest.raises(ValueError, match='beyond 65504'):
    embed(workdir, 'run', tmp_path / 'e', dtype='float16')
  assert not list((tmp_path / 'e').glob('*part*'))


def test_files_of_others_are_data(workdir, tmp_path):
  embed(workdir, 'run', tmp_path / 'e')
  path = tmp_path / 'e' / 'embedding_run.json'
  for text in ('[1]', '{"identity": {"format": 9}}', '{', '[' * 100_000):
    path.write_text(text)
    with pytest.raises(ValueError, match=embedding_files.STARTED):
      embed(workdir, 'run', tmp_path / 'e')


def test_a_refused_command_changes_nothing(workdir, other_run, tmp_path):
  """Not even the list of bad pictures, or what was found out about them."""
  folders = [tmp_path / 'pictures', tmp_path / 'other']
  for number, folder in enumerate(folders):
    folder.mkdir()
    Image.new('RGB', (9, 9), (number, 0, 0)).save(folder / 'x.png')
    (folder / f'{number}.jpg').write_bytes(b'\xff\xd8\xff no picture')
  out = tmp_path / 'e'
  assert len(embed(workdir, folders[0], out).bad) == 1

  def contents():
    return {path: path.is_dir() or path.read_bytes() for path in out.rglob('*')}

  before = contents()
  assert out / 'skipped_files.txt' in before
  for run, folder, options in (
    (workdir, folders[1], {}),
    (other_run, folders[0], {}),
    (workdir, folders[0], {'dtype': 'float16'}),
    (workdir, 'run', {}),
    (workdir, folders[1], {'add': True}),
  ):
    with pytest.raises(ValueError, match='something else|have changed'):
      embed(run, folder, out, **options)
    assert contents() == before
  # The same again keeps what it has found out.
  (folders[0] / '0.jpg').write_bytes(b'\xff\xd8\xff none at all')
  embed(workdir, folders[0], out)
  assert contents().keys() == before.keys()
