"""Pictures added to a finished set: what stays, what comes, what is refused."""

import fcntl
import json
import os
import shutil

import numpy as np
from PIL import Image
import pyarrow.parquet as pq
import pytest

from simclr_jax.retrieval import (
  atomic,
  computing,
  embedding_files,
  growth,
  indexes,
  searching,
)
from simclr_jax.retrieval.embedding_set import EmbeddingSet
from simclr_jax.training import mesh as mesh_lib
from tests import small_run
from tests.retrieval import retrieval_run
from tests.retrieval.retrieval_run import embed

pytestmark = pytest.mark.usefixtures('one_compile')
one_compile = retrieval_run.one_compile
OPTIONS = {'shard_rows': 2, 'batch_size': 4, 'outputs': ('h', 'z')}


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  small_run.save_small_run(path, steps=(3,))
  return path


def paint(path, seed):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
  Image.fromarray(pixels).save(path)


@pytest.fixture(scope='module')
def started(workdir, tmp_path_factory):
  """A folder of five pictures and a broken one, and its finished set."""
  place = tmp_path_factory.mktemp('started')
  for i in range(5):
    paint(place / 'pictures' / f'm{i}.png', i)
  (place / 'pictures' / 'x.jpg').write_bytes(b'\xff\xd8\xff no picture')
  embed(workdir, place / 'pictures', place / 'e', **OPTIONS)
  return place


@pytest.fixture
def place(started, tmp_path):
  """A copy of it, with the times of its files."""
  return shutil.copytree(started, tmp_path / 'place')


def grow(place):
  """New pictures before, between and behind the old ones; one is broken."""
  for name, seed in (('a', 10), ('m2b', 11), ('z', 12)):
    paint(place / 'pictures' / f'{name}.png', seed)
  (place / 'pictures' / 'y.jpg').write_bytes(b'\xff\xd8\xff none')


def add(workdir, place, **options):
  return embed(
    workdir,
    options.pop('pictures', place / 'pictures'),
    place / 'e',
    add=True,
    **(OPTIONS | options),
  )


def contents(folder):
  """Every file and folder below, with its bytes."""
  return {
    str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
    for path in sorted(folder.rglob('*'))
  }


def rows(out):
  found = EmbeddingSet(out)
  return found, found.rows(0, len(found), ('path', 'h', 'z'))


OLD = [f'm{i}.png' for i in range(5)]
NEW = ['a.png', 'm2b.png', 'z.png']


def test_only_new_pictures_are_embedded(workdir, place, tmp_path):
  out = place / 'e'
  before = contents(out)
  grow(place)
  done = add(workdir, place)
  assert (done.num_rows, done.num_computed, len(done.bad)) == (8, 3, 2)
  # What was there is what it was, but for the description.
  after = contents(out)
  changed = {name for name in before if after[name] != before[name]}
  # What was found out about the new pictures is known the next time.
  assert any(n.startswith('data_cache/') for n in after.keys() - before.keys())
  assert changed == {
    'embeddings.json',
    'skipped_files.txt',
  }
  found, all_rows = rows(out)
  assert all_rows.path == OLD + NEW
  np.testing.assert_array_equal(all_rows.id, np.arange(8))
  np.testing.assert_array_equal(found.find([7, 5, 0]), [7, 5, 0])
  assert found.identity.num_examples == 8 and len(found.members) == 2
  lines = (out / 'skipped_files.txt').read_text().splitlines()
  assert [os.path.basename(x.split('\t')[0]) for x in lines] == [
    'x.jpg',
    'y.jpg',
  ]
  assert json.loads((out / 'embeddings.json').read_text())['num_bad'] == 2
  # Whatever reads Parquet sees one table.
  files = [*sorted(out.glob('part-*')), *sorted(out.glob('added-*/part-*'))]
  assert pq.read_table(files)['id'].to_pylist() == list(range(8))
  # The same vectors as in a set that is made anew.
  embed(workdir, place / 'pictures', tmp_path / 'anew', **OPTIONS)
  _, anew = rows(tmp_path / 'anew')
  order = [anew.path.index(path) for path in all_rows.path]
  for name in ('h', 'z'):
    np.testing.assert_allclose(
      all_rows.vectors[name], anew.vectors[name][order], rtol=2e-4, atol=2e-5
    )
  # Once more: nothing is new, and nothing is written.
  done = add(workdir, place)
  assert (done.num_rows, done.num_computed) == (8, 0)
  assert contents(out) == after


def test_ids_stay_whatever_is_added_and_a_repaired_picture_is_new(
  workdir, place
):
  grow(place)
  add(workdir, place)
  paint(place / 'pictures' / 'x.png', 20)
  paint(place / 'pictures' / 'b.png', 21)
  (place / 'pictures' / 'x.jpg').unlink()
  (place / 'pictures' / 'y.jpg').unlink()
  assert add(workdir, place).num_rows == 10
  found, all_rows = rows(place / 'e')
  assert all_rows.path == [*OLD, *NEW, 'b.png', 'x.png']
  np.testing.assert_array_equal(all_rows.id, np.arange(10))
  assert len(found.members) == 3 and len(found.earlier) == 2
  assert not (place / 'e' / 'skipped_files.txt').exists()
  for id in range(10):
    position = found.find([id])
    assert found.take(position, ('path',)).path == [all_rows.path[id]]
  with pytest.raises(ValueError, match='ids are 0 to 9'):
    found.find([10])


def test_pictures_whose_reading_failed_keep_their_ids(
  workdir, place, monkeypatch
):
  """A row without an embedding, as of a file that vanished for a moment."""
  grow(place)
  relative = computing.relative
  encode = computing.encoding.encode

  def failing(encoder, part, config):
    names = [part.example_id(i) for i in range(part.num_examples)]
    if any(name.endswith('m2b.png') for name in names):
      raise ValueError('m2b')
    return encode(encoder, part, config)

  find_bad = computing._find_bad

  def found_bad(part, good, *, base):
    for i in range(part.num_examples):
      path = relative(part.example_id(i), base)
      if path == 'm2b.png':
        return [computing.shards.Bad(int(good[i]), path, 'once')]
    return find_bad(part, good, base=base)

  monkeypatch.setattr(computing.encoding, 'encode', failing)
  monkeypatch.setattr(computing, '_find_bad', found_bad)
  assert add(workdir, place).num_rows == 7
  paint(place / 'pictures' / 'q.png', 30)
  assert add(workdir, place).num_rows == 8
  found, all_rows = rows(place / 'e')
  assert all_rows.path == [*OLD, 'a.png', 'z.png', 'q.png']
  assert all_rows.id.tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
  assert found.find([8, 7]).tolist() == [7, 6]
  with pytest.raises(ValueError, match='picture 6 .* could not be read'):
    found.find([6])


def _removed(place):
  (place / 'pictures' / 'm3.png').unlink()


def _changed(place):
  paint(place / 'pictures' / 'm3.png', 99)


def _changed_long_ago(place):
  _changed(place)
  os.utime(place / 'pictures' / 'm3.png', (1, 1))


def _renamed(place):
  (place / 'pictures' / 'm3.png').rename(place / 'pictures' / 'n.png')


def _unfinished(place):
  (place / 'e' / 'embeddings.json').unlink()


def _no_set(place):
  shutil.rmtree(place / 'e')


@pytest.mark.parametrize(
  'change,options,what',
  [
    (_removed, {}, r'1 pictures \(m3.png\) of .* are not there any more'),
    (_changed, {}, r'pictures \(written since: .*m3.png\) of .* have changed'),
    (_changed_long_ago, {}, r'^pictures of .* have changed, or their class'),
    (_renamed, {}, r'\(m3.png\) of .* are not there any more'),
    (grow, {'dtype': 'float16'}, 'dtype: float32 -> float16'),
    (grow, {'outputs': ('h',)}, "dims: {'h': 32, 'z': 4} -> {'h': 32}"),
    (grow, {'shard_rows': 9}, 'shard_rows: 2 -> 9'),
    (grow, {'kind': 'random_init'}, 'another checkpoint'),
    (grow, {'pictures': 'run'}, '--add: procedural has no pictures that come'),
    (_unfinished, {}, 'is not finished'),
    (_no_set, {}, 'holds no embeddings'),
  ],
)
def test_what_would_be_stale_or_mixed_is_refused_and_nothing_changed(
  workdir, place, change, options, what
):
  grow(place)
  change(place)
  before = contents(place)
  with pytest.raises(ValueError, match=what):
    add(workdir, place, **options)
  assert contents(place) == before


def test_classes(workdir, tmp_path):
  """A new class would number the others anew; a picture may not change its."""
  for name in ('cat/1.png', 'dog/1.png', 'dog/2.png'):
    paint(tmp_path / 'pictures' / name, len(name))
  labelled = {'changes': {'labels_from': 'folders'}}
  embed(workdir, tmp_path / 'pictures', tmp_path / 'e', **OPTIONS, **labelled)
  paint(tmp_path / 'pictures' / 'cat/0.png', 5)
  with pytest.raises(ValueError, match='was made with labels; give the same'):
    add(workdir, tmp_path)
  add(workdir, tmp_path, **labelled)
  found = EmbeddingSet(tmp_path / 'e')
  assert found.rows(0, 4, ('label',)).label.tolist() == [0, 1, 1, 0]
  paint(tmp_path / 'pictures' / 'cow/1.png', 6)
  with pytest.raises(ValueError, match=r'2 folders, and there are 3 now \(cow'):
    add(workdir, tmp_path, **labelled)


def test_without_add_it_is_said_what_to_do(workdir, place):
  grow(place)
  before = contents(place)
  for _ in range(2):
    with pytest.raises(ValueError, match='added, --add embeds those alone'):
      embed(workdir, place / 'pictures', place / 'e', **OPTIONS)
    assert contents(place) == before
    add(workdir, place)
    before = contents(place)
  # The old pictures alone are not the set any more either.
  for name in (*NEW, 'y.jpg'):
    (place / 'pictures' / name).with_suffix('.png').unlink(missing_ok=True)
  (place / 'pictures' / 'y.jpg').unlink()
  before = contents(place)
  with pytest.raises(ValueError, match='since .* put the others back'):
    embed(workdir, place / 'pictures', place / 'e', **OPTIONS)
  assert contents(place) == before


def test_an_unfinished_set_says_when_it_can_grow(workdir, place):
  _unfinished(place)
  grow(place)
  with pytest.raises(ValueError, match='finished with the old ones alone'):
    embed(workdir, place / 'pictures', place / 'e', **OPTIONS)


def test_stopped_at_any_moment_it_is_the_old_set_or_the_new(
  workdir, place, monkeypatch
):
  """Everything that appears does so by a rename: each is the last once."""
  out = place / 'e'
  grow(place)
  replace, seen = os.replace, []

  class Killed(BaseException):
    pass

  for moment in range(20):
    count = iter(range(100))

    def killing(source, target, count=count, moment=moment):
      if next(count) == moment:
        raise Killed
      replace(source, target)

    try:
      with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', killing)
        add(workdir, place)
    except Killed:
      found, all_rows = rows(out)
      seen.append(len(found))
      assert all_rows.path in (OLD, OLD + NEW)
      continue
    break
  found, all_rows = rows(out)
  assert all_rows.path == OLD + NEW
  # Shards, their descriptions, the cache and the set's own: all were reached.
  assert seen[0] == 5 and len(seen) >= 4
  assert not list(out.rglob('.*'))


def test_what_was_begun_of_other_pictures_is_removed(workdir, place):
  out = place / 'e'
  grow(place)
  asked = iter(range(9))
  with pytest.raises(computing.Stopped):
    add(workdir, place, stop_fn=lambda: next(asked) == 1)
  (left,) = out.glob('added-*')
  os.utime(left, (1, 1))  # Else somebody might be at it.
  paint(place / 'pictures' / 'zz.png', 40)
  assert add(workdir, place).num_rows == 9
  (kept,) = out.glob('added-*')
  assert kept != left
  assert rows(out)[1].path == [*OLD, *NEW, 'zz.png']


def test_two_commands_at_once_never_give_an_id_twice(workdir, place):
  out = place / 'e'
  before = EmbeddingSet(out)
  grow(place)
  add(workdir, place)
  added = EmbeddingSet(next(out.glob('added-*')))
  text = (out / 'embeddings.json').read_bytes()
  # The same command, a second time: it is there.
  growth.publish(before, added, {}, num_bad=0)
  assert (out / 'embeddings.json').read_bytes() == text
  # Other pictures, chosen when the set was still the old one.
  paint(place / 'more' / 'n.png', 50)
  embed(workdir, place / 'more', out / 'added-00001-01234567', **OPTIONS)
  other = EmbeddingSet(out / 'added-00001-01234567')
  with pytest.raises(ValueError, match='another command has added'):
    growth.publish(before, other, {}, num_bad=0)
  assert (out / 'embeddings.json').read_bytes() == text


def test_what_others_compute_is_not_removed(workdir, place):
  """Nor what was made just now; what was left over long ago is."""
  out = place / 'e'
  kinds = ('written', 'recent', 'old')
  folders = [out / f'added-00001-{k:08x}' for k in range(3)]
  for kind, folder in zip(kinds, folders, strict=True):
    folder.mkdir()
    (folder / '.part-00000.x.tmp').write_bytes(b'')
    (folder / kind).write_text('')
  looked = [out / '.looking-old', out / '.looking-new']
  for path in looked:
    path.mkdir()
  for path in (folders[0], folders[2], looked[0]):
    os.utime(path, (1, 1))
  grow(place)
  with open(folders[0] / '.part-00000.x.tmp', 'r+b') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    add(workdir, place)
  assert [folder.exists() for folder in folders] == [True, True, False]
  assert [path.exists() for path in looked] == [False, True]


def test_another_split_is_no_change_of_pictures(workdir, place):
  grow(place)
  manifest = json.loads((place / 'e' / 'embeddings.json').read_text())
  manifest['input']['split'] = 'train'
  (place / 'e' / 'embeddings.json').write_text(json.dumps(manifest))
  with pytest.raises(ValueError, match='was made with --split=train, not'):
    add(workdir, place)


def test_transforms_and_indexes_follow(workdir, place):
  out = place / 'e'

  def search(kind):
    found = EmbeddingSet(out)
    view = searching.open_view(found, transform='pca:2')
    index = indexes.open_index(
      found, view, kind=kind, mesh=mesh_lib.make_mesh()
    )
    vectors = view.prepare(found.rows(0, len(found), ('h',)).vectors['h'])
    return view, index.search(vectors, 1).index_Qxk[:, 0].tolist()

  kinds = ['exact']
  try:
    import faiss

    assert faiss
    kinds.append('hnsw')
  except ImportError:
    pass
  for kind in kinds:
    assert search(kind)[1] == list(range(5))
  old, _ = search('exact')
  grow(place)
  add(workdir, place)
  for kind in kinds:
    view, found = search(kind)
    assert found == list(range(8))
    assert not np.array_equal(view.transform.mean, old.transform.mean)


@pytest.mark.parametrize(
  'change,what',
  [
    ({'folder': '../../elsewhere'}, 'no folder that simclr_jax.embed --add'),
    ({'folder': '/tmp'}, 'no folder that simclr_jax.embed --add'),
    ({'folder': 'added-00002-00000000'}, 'no folder that simclr_jax.embed'),
    ({'folder': ''}, 'no folder that simclr_jax.embed'),
    ({'folder': 3}, 'no folder that simclr_jax.embed'),
    ({'identity': None}, 'is no description of embeddings'),
    ({'rows_of_shards': [3]}, 'rows_of_shards is damaged'),
    ({'space': 'other'}, 'differ in space'),
    ({'first_id': 4}, 'ids of members 1 do not begin with 5'),
    ({'first_id': True}, 'the description of the embeddings is damaged'),
    ({'source': 'other'}, 'not those that its identity is of'),
  ],
)
def test_members_of_strangers_are_data(workdir, place, change, what):
  grow(place)
  add(workdir, place)
  file = place / 'e' / 'embeddings.json'
  manifest = json.loads(file.read_text())
  entry = manifest['members'][1]
  if change.keys() <= entry.keys():
    entry |= change
  else:
    entry['identity'] |= change
  atomic.write_json(file, manifest)
  with pytest.raises(ValueError, match=what):
    EmbeddingSet(place / 'e')
  for value in (None, [], {}, 3, [3]):
    atomic.write_json(file, manifest | {'members': value})
    with pytest.raises(ValueError, match='embeddings.json: members'):
      EmbeddingSet(place / 'e')


def test_a_damaged_description_can_be_written_anew(workdir, place):
  file = place / 'e' / 'embeddings.json'
  file.write_text('{')
  with pytest.raises(ValueError, match='delete it, and the same command'):
    embed(workdir, place / 'pictures', place / 'e', **OPTIONS)
  file.unlink()
  assert embed(workdir, place / 'pictures', place / 'e', **OPTIONS)._replace(
    bad=()
  ) == (place / 'e', 5, (), 0)
  assert rows(place / 'e')[1].path == OLD


def test_versions_that_know_no_members_refuse(workdir, place):
  """They look at the format of the identity."""
  grow(place)
  add(workdir, place)
  manifest = json.loads((place / 'e' / 'embeddings.json').read_text())
  assert manifest['identity']['format'] == 2
  with pytest.raises(ValueError, match='has format 2'):
    embedding_files.identity_from_json(manifest['identity'], where='x')


def test_links_to_one_picture(workdir, place):
  """Both have its name; one more is one more."""
  pictures = place / 'pictures'
  (pictures / 'n.png').symlink_to(pictures / 'm1.png')
  assert add(workdir, place).num_rows == 6
  (pictures / 'p.png').symlink_to(pictures / 'm1.png')
  assert add(workdir, place).num_rows == 7
  assert rows(place / 'e')[1].path == [*OLD, 'm1.png', 'm1.png']
