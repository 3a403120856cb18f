"""Reading a set in pieces, and what is refused."""

import json

import numpy as np
import pytest

from simclr_jax.retrieval import embedding_set, shards
from tests.retrieval import fake_set

N, BAD = 53, (0, 17, 18, 52)
H = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
GOOD = np.setdiff1d(np.arange(N), BAD)


@pytest.fixture
def small_groups(monkeypatch):
  monkeypatch.setattr(shards, 'GROUP_ROWS', 4)


@pytest.fixture
def found(tmp_path, small_groups):
  return fake_set.write(
    tmp_path / 'e', H, labels=np.arange(N) % 5, shard_rows=10, bad=BAD
  )


@pytest.mark.parametrize('size', [1, 3, 10, 100])
def test_chunks_are_all_rows_in_order(found, size):
  parts = list(found.chunks(size, ('path', 'label', 'h')))
  rows = shards.join(parts)
  np.testing.assert_array_equal(rows.id, GOOD)
  np.testing.assert_array_equal(rows.vectors['h'], H[GOOD])
  np.testing.assert_array_equal(rows.label, GOOD % 5)
  assert rows.path == [f'{i}.jpg' for i in GOOD]
  assert max(len(part.id) for part in parts) <= size
  assert len(found) == len(GOOD)


def test_any_rows_in_any_order(found):
  positions = np.array([30, 2, 2, 48, 0])
  rows = found.take(positions, ('h',))
  np.testing.assert_array_equal(rows.id, GOOD[positions])
  np.testing.assert_array_equal(rows.vectors['h'], H[GOOD[positions]])


def test_rows_by_id_where_some_are_missing(found):
  ids = [51, 1, 19, 16, 30]
  np.testing.assert_array_equal(GOOD[found.find(ids)], ids)
  for wrong, why in ((17, 'could not be read'), (N, 'ids are 0 to 52')):
    with pytest.raises(ValueError, match=why):
      found.find([wrong])


def test_half_precision_is_read_as_single(tmp_path):
  found = fake_set.write(tmp_path / 'e', H, dtype='float16')
  rows = found.rows(0, N, ('h',)).vectors['h']
  assert rows.dtype == np.float32
  np.testing.assert_array_equal(rows, H.astype(np.float16).astype(np.float32))


def test_unfinished_and_absent_sets_are_told_apart(found):
  (found.folder / 'embeddings.json').unlink()
  with pytest.raises(ValueError, match='holds no embeddings'):
    embedding_set.EmbeddingSet(found.folder)
  (found.folder / 'embedding_run.json').write_text('{}')
  with pytest.raises(ValueError, match='not finished'):
    embedding_set.EmbeddingSet(found.folder)


def test_a_shard_of_another_set_is_refused(found, tmp_path):
  other = fake_set.write(
    tmp_path / 'o', H, shard_rows=10, labels=np.arange(N) % 5
  )
  name = found.identity.file_name(2)
  (found.folder / name).write_bytes((other.folder / name).read_bytes())
  again = embedding_set.EmbeddingSet(found.folder)
  # The same identity, but not the rows that embeddings.json promises? Shard 2
  # has none that is bad, so the files are interchangeable.
  assert len(again.rows(20, 25, ('h',)).id) == 5
  stranger = fake_set.write(tmp_path / 's', H + 1, shard_rows=10, space='other')
  (found.folder / name).write_bytes((stranger.folder / name).read_bytes())
  with pytest.raises(ValueError, match='a shard of other embeddings'):
    embedding_set.EmbeddingSet(found.folder).rows(20, 25, ('h',))


def test_damage_is_found_when_it_is_read(found):
  path = found.folder / found.identity.file_name(1)
  content = bytearray(path.read_bytes())
  # A number of the first page of vectors.
  at = content.index(H[10].tobytes()[:8])
  content[at + 3] ^= 1
  path.write_bytes(content)
  with pytest.raises(ValueError, match='is damaged'):
    embedding_set.EmbeddingSet(found.folder).rows(8, 12, ('h',))


@pytest.mark.parametrize(
  'change',
  [
    {'rows_of_shards': [1]},
    {'rows_of_shards': ['a'] * 6},
    {'identity': {'format': 1}},
    {'identity': None},
  ],
)
def test_descriptions_of_others_are_data(found, change):
  file = found.folder / 'embeddings.json'
  file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
  with pytest.raises(ValueError, match='embeddings.json'):
    embedding_set.EmbeddingSet(found.folder)
