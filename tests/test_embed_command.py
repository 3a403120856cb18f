"""python -m simclr_jax.embed killed on one of two hosts, continued on one."""

import json

import numpy as np
from PIL import Image
import pyarrow.parquet as pq

from simclr_jax.retrieval.embedding_set import EmbeddingSet
from tests import multi_process, small_run
from tests.retrieval import retrieval_run

N, SHARD = 90, 10
# Sends its own process a signal in the middle of its second shard: the file is
# written but has not got its name yet.
SIGNAL = """
import os, signal
from simclr_jax.retrieval import shards
closed = []
class Signalled(shards.ShardWriter):
  def close(self):
    super().close()
    closed.append(self)
    if len(closed) == 2:
      os.kill(os.getpid(), signal.{name})
shards.ShardWriter = Signalled
"""


def test_every_picture_once_after_kill_9_on_other_hosts(tmp_path):
  workdir, out = tmp_path / 'run', tmp_path / 'e'
  small_run.save_small_run(workdir)
  arguments = (
    f'--checkpoint={workdir}',
    '--input=procedural',
    f'--split=train[:{N}]',
    f'--out={out}',
    '--loader=opencv',
    f'--shard_rows={SHARD}',
    '--peer_timeout=60',
  )
  options = {'module': 'simclr_jax.embed', 'cache': tmp_path / 'programs'}
  with multi_process.Processes(
    arguments,
    count=2,
    logs=tmp_path / 'two',
    before={1: SIGNAL.format(name='SIGKILL')},
    **options,
  ) as two:
    assert two.code(1) == -9, two.log(1)
    assert two.code(0) == 69, two.log(0)
  there = {p.name: p.stat().st_mtime_ns for p in out.glob('part-*')}
  # Process 1 had finished its first shard; process 0 at least that.
  assert 'part-00001-of-00009.parquet' in there
  assert 'part-00003-of-00009.parquet' not in there
  assert not (out / 'embeddings.json').exists()
  assert list(out.glob('.part-00003.*.tmp'))
  # On one host: asked to stop, it ends after the shard that it is in.
  with multi_process.Processes(
    arguments,
    count=1,
    logs=tmp_path / 'stopped',
    before={0: SIGNAL.format(name='SIGTERM')},
    **options,
  ) as stopped:
    assert stopped.code(0) == 75, stopped.log(0)
    assert 'the same command continues' in stopped.log(0)
  there |= {
    p.name: p.stat().st_mtime_ns
    for p in out.glob('part-*')
    if p.name not in there
  }
  assert len(there) < N // SHARD
  with multi_process.Processes(
    arguments, count=1, logs=tmp_path / 'one', **options
  ) as one:
    one.finish()
    assert f'{N} embeddings of h, {SHARD * len(there)} of them' in one.log(0)
  rows = pq.read_table(sorted(out.glob('part-*.parquet')))
  np.testing.assert_array_equal(rows['id'].to_numpy(), np.arange(N))
  h = np.stack(rows['h'].to_numpy())
  assert np.isfinite(h).all() and len(np.unique(h, axis=0)) == N
  assert {name: (out / name).stat().st_mtime_ns for name in there} == there
  assert json.loads((out / 'embeddings.json').read_text())['num_rows'] == N
  assert not list(out.glob('.*'))


def test_pictures_are_added_by_two_hosts(tmp_path):
  """Each computes files of the new member; the old ones stay as they are."""
  workdir, out, folder = (tmp_path / name for name in ('run', 'e', 'pictures'))
  small_run.save_small_run(workdir)
  folder.mkdir()

  def paint(names):
    for name in names:
      rng = np.random.default_rng(ord(name))
      pixels = rng.integers(0, 256, (9, 9, 3), np.uint8)
      Image.fromarray(pixels).save(folder / f'{name}.png')

  paint('mnop')
  retrieval_run.embed(workdir, folder, out, shard_rows=2)
  old = {p.name: p.read_bytes() for p in out.glob('part-*')}
  paint('azbyc')
  with multi_process.Processes(
    (
      f'--checkpoint={workdir}',
      f'--input={folder}',
      f'--out={out}',
      '--loader=opencv',
      '--shard_rows=2',
      '--peer_timeout=60',
      '--add',
    ),
    count=2,
    logs=tmp_path / 'two',
    module='simclr_jax.embed',
    cache=tmp_path / 'programs',
  ) as two:
    two.finish()
    assert '9 embeddings of h, 4 of them there already' in two.log(0)
  assert {p.name: p.read_bytes() for p in out.glob('part-*')} == old
  found = EmbeddingSet(out)
  rows = found.rows(0, 9, ('path', 'h'))
  assert [path[0] for path in rows.path] == [*'mnop', *'abcyz']
  np.testing.assert_array_equal(rows.id, np.arange(9))
  assert len(np.unique(rows.vectors['h'], axis=0)) == 9
  assert len(list(found.members[1].folder.glob('part-*'))) == 3
  assert not list(out.rglob('.*'))
