from __future__ import annotations

import grp
import json
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
from orbax.checkpoint._src.path import atomicity, atomicity_defaults
from orbax.checkpoint._src.serialization import ocdbt_utils
import pytest

from simclr_jax.config import CheckpointConfig
from simclr_jax.training import checkpoint
from tests.random_state import (
  SYNC,
  State,
  abstract,
  assert_same_bits,
  make_mesh,
  make_state,
  save,
)


@pytest.fixture(scope='module')
def saved(tmp_path_factory) -> pathlib.Path:
  """A workdir with steps 80 and 90, to be copied."""
  workdir = tmp_path_factory.mktemp('saved')
  checkpointer = checkpoint.Checkpointer(workdir / 'checkpoints', SYNC)
  save(checkpointer, 80)
  save(checkpointer, 90)
  checkpointer.close()
  return workdir


@pytest.fixture
def workdir(saved, tmp_path) -> pathlib.Path:
  shutil.copytree(saved, tmp_path / 'run')
  return tmp_path / 'run'


@pytest.fixture
def checkpointer(workdir):
  checkpointer = checkpoint.Checkpointer(workdir / 'checkpoints', SYNC)
  yield checkpointer
  checkpointer.close()


@pytest.mark.parametrize('asynchronous', [False, True])
def test_round_trip_is_bitwise(tmp_path, asynchronous):
  config = CheckpointConfig(asynchronous=asynchronous)
  checkpointer = checkpoint.Checkpointer(tmp_path / 'checkpoints', config)
  assert checkpointer.latest_passport() is None
  state = make_state(7)
  assert checkpointer.restore_latest(abstract(state)) is None
  save(checkpointer, 7, state=state, loss=0.25)
  restored = checkpointer.restore_latest(abstract(state))
  checkpointer.close()
  assert restored.step == 7
  assert restored.passport == {'step': 7, 'metrics': {'loss': 0.25}}
  assert_same_bits(restored.state, state)


def test_state_may_be_donated_right_after_an_async_save(tmp_path):
  checkpointer = checkpoint.Checkpointer(
    tmp_path / 'checkpoints', CheckpointConfig()
  )
  advance = jax.jit(
    lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0
  )
  state = make_state(1)._replace(
    model_state={'big': jax.device_put(jnp.zeros((1 << 20,)), jax.devices()[0])}
  )
  want = jax.tree.map(np.array, state)
  save(checkpointer, 1, state=state)
  for _ in range(5):
    state = state._replace(model_state=advance(state.model_state))
  restored = checkpointer.restore_latest(
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=NamedSharding(make_mesh(1), P())
      ),
      want,
    )
  )
  checkpointer.close()
  assert_same_bits(restored.state, want)


@pytest.mark.parametrize('num_devices', [8, 4, 1])
def test_restore_onto_another_mesh(checkpointer, num_devices):
  state = make_state(90)
  target = abstract(state, num_devices)
  with jax.set_mesh(make_mesh(num_devices)):
    restored = checkpointer.restore_latest(target)
  assert_same_bits(restored.state, state)
  for leaf, want in zip(
    jax.tree.leaves(restored.state), jax.tree.leaves(target), strict=True
  ):
    assert leaf.sharding == want.sharding
    assert len(leaf.addressable_shards) == num_devices


def test_a_sharded_leaf_keeps_its_sharding(tmp_path):
  def put(value, num_devices):
    return jax.device_put(
      value, NamedSharding(make_mesh(num_devices), P('data'))
    )

  queue = np.random.default_rng(0).standard_normal((16, 4)).astype('f')
  state = make_state(1)._replace(extra={'queue': put(queue, 8)})
  checkpointer = checkpoint.Checkpointer(tmp_path / 'checkpoints', SYNC)
  save(checkpointer, 1, state=state)
  target = abstract(state, 4)._replace(
    extra={
      'queue': jax.ShapeDtypeStruct(
        queue.shape, queue.dtype, sharding=put(queue, 4).sharding
      )
    }
  )
  restored = checkpointer.restore_latest(target)
  checkpointer.close()
  assert_same_bits(restored.state, state)
  assert restored.state.extra['queue'].sharding.spec == P('data')


def test_containers_without_arrays_do_not_decide(checkpointer):
  """E.g. optax adds an EmptyState, or a state class changes its name."""
  state = make_state(90)
  target = abstract(state)._replace(
    opt_state=[*abstract(state).opt_state, optax.EmptyState()]
  )
  restored = checkpointer.restore_latest(target)
  assert jax.tree.structure(restored.state) == jax.tree.structure(target)
  assert_same_bits(restored.state.params, state.params)


def test_abstract_state_needs_shardings(checkpointer):
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_state(90)
  )
  with pytest.raises(ValueError, match='no sharding'):
    checkpointer.restore_latest(target)


# Strictness.


def _change(state: State, **changes: Any) -> State:
  head = {**state.params['head'], **changes}
  head = {name: leaf for name, leaf in head.items() if leaf is not None}
  return state._replace(params={**state.params, 'head': head})


def _leaf(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
  sharding = NamedSharding(make_mesh(8), P())
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'kernel': (64, 32)},
      r'1 of another shape: params/head/kernel \(saved \[64, 64\], '
      r'wanted \[64, 32\]\)',
    ),
    (
      {'kernel': jnp.bfloat16},
      r'1 of another dtype: params/head/kernel \(saved float32, '
      r'wanted bfloat16\)',
    ),
    ({'bias': (64,)}, r'1 missing in the checkpoint: params/head/bias'),
    ({'kernel': None}, r'1 unexpected in the checkpoint: params/head/kernel'),
  ],
)
def test_a_state_that_does_not_fit_is_refused(workdir, changes, message):
  checkpointer = checkpoint.Checkpointer(workdir / 'checkpoints', SYNC)
  leaves = {
    name: want
    if want is None
    else _leaf(want, jnp.float32)
    if isinstance(want, tuple)
    else _leaf((64, 64), want)
    for name, want in changes.items()
  }
  target = _change(abstract(make_state(90)), **leaves)
  with pytest.raises(ValueError, match=message) as caught:
    checkpointer.restore_latest(target)
  checkpointer.close()
  assert isinstance(caught.value, checkpoint.CheckpointMismatch)
  num_arrays = len(jax.tree.leaves(target))
  assert f'of {num_arrays} arrays match' in str(caught.value)
  assert checkpoint.list_steps(workdir) == [80, 90]  # no damage


# Damage.


def _files(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
  files = [p for p in folder.rglob(pattern) if p.is_file()]
  assert files
  return files


def _largest(item: pathlib.Path) -> pathlib.Path:
  files = _files(item, 'ocdbt.process_0/d/*')
  return max(files, key=lambda p: p.stat().st_size)


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in folder.rglob('*')
    if p.is_file()
  }


def _flip(path: pathlib.Path) -> None:
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0x10
  path.write_bytes(data)


def _flip_data(item: pathlib.Path) -> None:
  """One bit of one array; Orbax reads the file without complaint."""
  # Random bits do not compress, so they are found in the file as they are.
  words = make_state(int(item.parent.name)).model_state['words']
  needle = np.asarray(words)[50:54].tobytes()
  path = next(p for p in _files(item, 'd/*') if needle in p.read_bytes())
  data = bytearray(path.read_bytes())
  data[data.index(needle)] ^= 0x10
  path.write_bytes(data)


def _truncate(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(step: pathlib.Path) -> None:
  shutil.rmtree(step)
  step.mkdir()


def _edit_json(path: pathlib.Path, old: str, new: str) -> None:
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))


DAMAGE = {
  'data truncated': lambda s: _truncate(_largest(s / 'state')),
  'data flipped': lambda s: _flip_data(s / 'state'),
  'data deleted': lambda s: _largest(s / 'state').unlink(),
  'index flipped': lambda s: _flip(_files(s / 'state' / 'd', '*')[0]),
  'index truncated': lambda s: _truncate(s / 'state' / 'manifest.ocdbt'),
  'index deleted': lambda s: (s / 'state' / 'manifest.ocdbt').unlink(),
  '_METADATA truncated': lambda s: _truncate(s / 'state' / '_METADATA'),
  'no state': lambda s: shutil.rmtree(s / 'state'),
  'no passport': lambda s: shutil.rmtree(s / 'passport'),
  'no manifest': lambda s: shutil.rmtree(s / 'manifest'),
  'empty step': _empty,
  'passport garbage': lambda s: (s / 'passport' / 'metadata').write_bytes(
    b'\xff\x00garbage'
  ),
  'passport edited': lambda s: _edit_json(
    s / 'passport' / 'metadata', '90', '91'
  ),
  'manifest edited': lambda s: _edit_json(
    s / 'manifest' / 'metadata', '[64, 64]', '[64, 32]'
  ),
}


@pytest.mark.parametrize('kind', DAMAGE)
def test_damage_falls_back_loudly_and_trains_on(workdir, capfd, kind):
  folder = workdir / 'checkpoints'
  DAMAGE[kind](folder / '90')
  damaged = _contents(folder / '90')

  config = CheckpointConfig(asynchronous=False, keep_best=1)
  checkpointer = checkpoint.Checkpointer(folder, config)
  restored = checkpointer.restore_latest(abstract(make_state(90)))
  assert restored.step == 80
  assert_same_bits(restored.state, make_state(80))
  printed = capfd.readouterr().err
  assert f'*** checkpoint {folder / "90"} is DAMAGED' in printed
  assert '90.damaged-0' in printed

  # Nothing is deleted, and the step can be saved again.
  assert _contents(folder / '90.damaged-0') == damaged
  assert checkpoint.list_steps(workdir) == [80]
  again = save(checkpointer, 90, state=make_state(90, seed=1))
  assert_same_bits(checkpointer.restore_latest(abstract(again)).state, again)
  checkpointer.close()


def test_all_damaged_is_an_error_and_changes_nothing(workdir):
  folder = workdir / 'checkpoints'
  DAMAGE['data flipped'](folder / '80')
  DAMAGE['no state'](folder / '90')
  checkpointer = checkpoint.Checkpointer(folder, SYNC)
  with pytest.raises(checkpoint.DamagedCheckpoint) as caught:
    checkpointer.restore_latest(abstract(make_state(90)))
  checkpointer.close()
  assert '80: not what was saved' in str(caught.value)
  assert '  - 90: ' in str(caught.value)
  assert checkpoint.list_steps(workdir) == [80, 90]


@pytest.mark.parametrize(
  ('name', 'garbage'),
  [
    ('state/_METADATA', None),
    ('state/_sharding', None),
    ('state/_sharding', b'\xff{'),
    ('_CHECKPOINT_METADATA', None),
    ('_CHECKPOINT_METADATA', b'\xff{'),
  ],
)
def test_what_can_be_read_all_the_same_is_read(workdir, name, garbage):
  path = workdir / 'checkpoints' / '90' / name
  if garbage is None:
    path.unlink()
  else:
    path.write_bytes(garbage)
  checkpointer = checkpoint.Checkpointer(workdir / 'checkpoints', SYNC)
  restored = checkpointer.restore_latest(abstract(make_state(90)))
  checkpointer.close()
  assert_same_bits(restored.state, make_state(90))


def test_no_permission_is_no_damage(checkpointer, workdir, monkeypatch):
  def refuse(*args: Any) -> None:
    raise PermissionError('not yours')

  monkeypatch.setattr(checkpoint, '_read_json_items', refuse)
  with pytest.raises(checkpoint.UnreadableNow, match='now: .*not yours'):
    checkpointer.restore_latest(abstract(make_state(90)))
  assert checkpoint.list_steps(workdir) == [80, 90]


def test_a_score_that_cannot_be_read_now_stops_the_opening(
  workdir, monkeypatch
):
  """Going on without it could delete the best checkpoint."""

  def refuse(*args: Any) -> None:
    raise OSError('UNAVAILABLE: try again')

  monkeypatch.setattr(checkpoint, '_read_json_items', refuse)
  with pytest.raises(OSError, match='UNAVAILABLE'):
    checkpoint.Checkpointer(workdir / 'checkpoints', SYNC)


@pytest.mark.parametrize('keep_best', [0, 1])
def test_a_damaged_score_is_reported_and_its_step_kept(
  workdir, capfd, keep_best
):
  folder = workdir / 'checkpoints'
  DAMAGE['manifest edited'](folder / '90')
  state = make_state(91)
  config = CheckpointConfig(
    asynchronous=False, keep_latest=1, keep_best=keep_best, best_metric='loss'
  )
  checkpointer = checkpoint.Checkpointer(folder, config)
  assert f'{folder / "90"} has no readable score' in capfd.readouterr().err
  save(checkpointer, 91, state=state, loss=1.0)
  save(checkpointer, 92, state=state, loss=2.0)
  checkpointer.close()
  best = [91] if keep_best else []
  assert checkpoint.list_steps(workdir) == [90, *best, 92]


# Saving.


def test_an_older_or_equal_step_is_refused(checkpointer):
  for step in (80, 85, 90):
    with pytest.raises(ValueError, match='already holds step 90'):
      save(checkpointer, step)
  save(checkpointer, 91)


@pytest.mark.parametrize(
  ('metric', 'values', 'kept'),
  [
    # The best is not the newest, and the newest stays.
    ('knn_top1', {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3, 5: 0.1}, [2, 4, 5]),
    ('loss', {1: 3.0, 2: 1.0, 3: 2.0, 4: 4.0, 5: 5.0}, [2, 4, 5]),
    # Steps without the metric, or with NaN, are never the best.
    (
      'knn_top1',
      {1: 0.1, 2: None, 3: float('nan'), 4: None, 5: None},
      [1, 4, 5],
    ),
    ('loss', {1: None, 2: None, 3: None, 4: None}, [3, 4]),
  ],
)
def test_latest_and_best_are_kept(tmp_path, metric, values, kept):
  config = CheckpointConfig(
    keep_latest=2, keep_best=1, best_metric=metric, asynchronous=False
  )
  for step, value in values.items():
    # Opened anew each time: scores of former runs count.
    checkpointer = checkpoint.Checkpointer(tmp_path / 'checkpoints', config)
    metrics = {} if value is None else {metric: value}
    state = State(np.int32(step), {'w': jnp.ones(2)}, {}, (), {})
    checkpointer.save(
      step,
      state,
      encoder={'params': state.params, 'batch_stats': {}},
      passport={},
      metrics=metrics,
    )
    checkpointer.close()
  assert checkpoint.list_steps(tmp_path) == kept
  if any(v is not None for v in values.values()):
    best = checkpoint.load_encoder(tmp_path, step='best')
    assert best.step == kept[0]
  else:
    with pytest.raises(ValueError, match=f'has the metric {metric!r}'):
      checkpoint.load_encoder(tmp_path, step='best')


def test_a_step_leaves_whole(tmp_path):
  """A reader, or a run after a kill, never meets half a checkpoint."""
  folder = tmp_path / 'checkpoints'
  config = CheckpointConfig(keep_latest=1, keep_best=0, asynchronous=False)
  checkpointer = checkpoint.Checkpointer(folder, config)
  save(checkpointer, 1)
  save(checkpointer, 2)
  assert checkpoint.list_steps(folder) == [2]
  (tmp_path / 'moved').mkdir()
  (folder / 'deleted' / '1').rename(tmp_path / 'moved' / '1')
  assert checkpoint.load_encoder(tmp_path / 'moved').step == 1
  checkpointer.close()
  assert [path.name for path in folder.iterdir()] == ['2']


def test_what_a_killed_run_had_not_deleted_yet_is_deleted(workdir):
  folder = workdir / 'checkpoints'
  (folder / 'deleted').mkdir()
  (folder / '80').rename(folder / 'deleted' / '80')
  checkpoint.Checkpointer(folder, SYNC).close()
  assert [path.name for path in folder.iterdir()] == ['90']


_SAVE_AND_DIE = """
import os, pathlib, signal, sys
import jax.numpy as jnp, numpy as np
from simclr_jax.config import CheckpointConfig
from simclr_jax.training import checkpoint

folder = pathlib.Path(sys.argv[1])
checkpointer = checkpoint.Checkpointer(folder, CheckpointConfig())
bits = np.random.default_rng(0).standard_normal((16, 1 << 20)).astype('f')
for step in (1, 2):
  size = 1 << (10 if step == 1 else 20)
  params = {str(i): jnp.asarray(x[:size]) for i, x in enumerate(bits)}
  checkpointer.save(step, {'step': jnp.int32(step), 'params': params},
    encoder={'params': params, 'batch_stats': {}}, passport={'step': step},
    metrics={})
  if step == 1:
    checkpointer.wait()
while not any(p.stat().st_size for p in folder.glob('2.*/*/ocdbt*/d/*')):
  pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_during_an_async_save(tmp_path):
  folder = tmp_path / 'checkpoints'
  done = subprocess.run(
    [sys.executable, '-c', _SAVE_AND_DIE, str(folder)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )
  assert done.returncode == -signal.SIGKILL, done.stderr
  # The save was under way: otherwise this shows nothing.
  assert not (folder / '2').exists()
  assert any(p.name.startswith('2.') for p in folder.iterdir())
  assert checkpoint.list_steps(tmp_path) == [1]
  encoder = checkpoint.load_encoder(tmp_path)
  assert encoder.step == 1

  checkpointer = checkpoint.Checkpointer(folder, SYNC)
  target = {'step': np.int32(1), 'params': encoder.variables['params']}
  sharding = NamedSharding(make_mesh(2), P())
  restored = checkpointer.restore_latest(
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      target,
    )
  )
  assert_same_bits(restored.state, target)
  checkpointer.save(
    3,
    restored.state,
    encoder={'params': restored.state['params'], 'batch_stats': {}},
    passport={},
    metrics={},
  )
  checkpointer.close()
  assert checkpoint.list_steps(tmp_path) == [1, 3]
  # What the killed save left is gone; it would fill the disk in time.
  assert sorted(p.name for p in folder.iterdir()) == ['1', '3']


# The encoder alone.


@pytest.mark.parametrize('where', ['.', 'checkpoints', 'checkpoints/90'])
def test_load_encoder(saved, where):
  encoder = checkpoint.load_encoder(saved / where)
  state = make_state(90)
  assert encoder.step == 90
  assert encoder.path == str(saved / 'checkpoints' / '90')
  assert encoder.passport['step'] == 90
  want = {'params': state.params, 'batch_stats': state.model_state}
  assert_same_bits(encoder.variables, jax.tree.map(np.asarray, want))
  assert all(
    isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(encoder.variables)
  )
  assert encoder.fingerprint == checkpoint.fingerprint(want)


def test_load_state_arrays(saved):
  arrays = checkpoint.load_state_arrays(saved, step=80)
  state = make_state(80)
  assert checkpoint.fingerprint(arrays) == checkpoint.fingerprint(state)
  assert arrays['params']['head']['kernel'].shape == (64, 64)


def test_load_encoder_of_a_step(saved):
  assert checkpoint.load_encoder(saved, step=80).step == 80
  with pytest.raises(ValueError, match=r'no checkpoint 85 .*\[80, 90\]'):
    checkpoint.load_encoder(saved, step=85)
  with pytest.raises(ValueError, match='step 80 is not in it'):
    checkpoint.load_encoder(saved / 'checkpoints' / '90', step=80)
  with pytest.raises(ValueError, match="'best' or None"):
    checkpoint.load_encoder(saved, step='newest')


def test_load_encoder_without_checkpoints(tmp_path):
  with pytest.raises(ValueError, match='no checkpoint'):
    checkpoint.load_encoder(tmp_path)
  with pytest.raises(ValueError, match='no checkpoint'):
    checkpoint.load_encoder(tmp_path / 'missing')


def test_load_encoder_past_damage(workdir, capfd):
  _flip_data(workdir / 'checkpoints' / '90' / 'encoder')
  assert checkpoint.load_encoder(workdir).step == 80
  assert 'DAMAGED' in capfd.readouterr().err
  # Readers move nothing, and a step asked for by number has no stand-in.
  assert checkpoint.list_steps(workdir) == [80, 90]
  with pytest.raises(checkpoint.DamagedCheckpoint, match='not what was saved'):
    checkpoint.load_encoder(workdir, step=90)


def test_load_encoder_while_the_step_is_deleted(workdir, monkeypatch):
  """The run deletes 90 while it is read, having written 100."""
  folder = workdir / 'checkpoints'
  read = checkpoint._read_json_items

  def read_late(path):
    if path.name == '90' and path.exists():
      (folder / '90').rename(folder / '100')
    return read(path)

  monkeypatch.setattr(checkpoint, '_read_json_items', read_late)
  encoder = checkpoint.load_encoder(workdir)
  assert encoder.path == str(folder / '100')


def test_a_step_asked_for_that_is_deleted_meanwhile(workdir, monkeypatch):
  folder = workdir / 'checkpoints'
  read = checkpoint._read_json_items

  def read_late(path):
    if (folder / '80').exists():
      shutil.rmtree(folder / '80')
    return read(path)

  monkeypatch.setattr(checkpoint, '_read_json_items', read_late)
  with pytest.raises(
    checkpoint.UnreadableNow, match=r'80 in .* was deleted .*\[90\]'
  ):
    checkpoint.load_encoder(workdir, step=80)


def test_owners_without_a_name_do_not_matter(workdir, monkeypatch):
  def nobody(number):
    raise KeyError(f'getpwuid(): uid not found: {number}')

  monkeypatch.setattr(pwd, 'getpwuid', nobody)
  monkeypatch.setattr(grp, 'getgrgid', nobody)
  assert checkpoint.load_encoder(workdir).step == 90
  checkpointer = checkpoint.Checkpointer(workdir / 'checkpoints', SYNC)
  assert checkpointer.restore_latest(abstract(make_state(90))).step == 90
  save(checkpointer, 91)
  checkpointer.close()


def test_what_nobody_expected_is_no_damage(workdir, monkeypatch):
  def fail(*args, **kwargs):
    raise KeyError('surroundings')

  checkpointer = checkpoint.Checkpointer(workdir / 'checkpoints', SYNC)
  monkeypatch.setattr(checkpoint.ocp.StandardCheckpointHandler, 'restore', fail)
  with pytest.raises(
    checkpoint.UnreadableNow, match="KeyError: 'surroundings'"
  ):
    checkpointer.restore_latest(abstract(make_state(90)))
  checkpointer.close()
  assert checkpoint.list_steps(workdir) == [80, 90]


# What counts as saved.


def _without_renames(monkeypatch):
  """Makes Orbax write a step under its own name, as in an object store."""
  for name in (
    'get_default_temporary_path_class',
    'get_item_default_temporary_path_class',
  ):
    monkeypatch.setattr(
      atomicity_defaults,
      name,
      lambda *args, **kwargs: atomicity.CommitFileTemporaryPath,
    )


async def _merge_nothing(*args, **kwargs):
  """As Orbax, with a warning, where it finds nothing to merge."""


async def _merge_on_full_disk(*args, **kwargs):
  raise OSError(28, 'No space left on device')


@pytest.mark.parametrize('renames', [True, False])
@pytest.mark.parametrize('asynchronous', [True, False])
@pytest.mark.parametrize('merge', [_merge_nothing, _merge_on_full_disk])
def test_only_what_a_restore_finds_is_saved(
  tmp_path, monkeypatch, merge, asynchronous, renames
):
  if not renames:
    _without_renames(monkeypatch)
  folder = tmp_path / 'checkpoints'
  checkpointer = checkpoint.Checkpointer(
    folder, CheckpointConfig(asynchronous=asynchronous)
  )
  save(checkpointer, 1)
  checkpointer.wait()
  with monkeypatch.context() as patch:
    patch.setattr(ocdbt_utils, 'merge_ocdbt_per_process_files', merge)
    with pytest.raises(checkpoint.SaveFailed, match='manifest.ocdbt|ENOSPC'):
      save(checkpointer, 2)
      checkpointer.wait()
  assert checkpoint.list_steps(tmp_path) == [1]
  assert not (folder / '2').exists()
  state = save(checkpointer, 2)
  assert checkpointer.restore_latest(abstract(state)).step == 2
  checkpointer.close()


def test_a_folder_that_is_being_written_is_no_step(workdir):
  step = workdir / 'checkpoints' / '90'
  (step / 'commit_success.txt').unlink()
  assert checkpoint.list_steps(workdir) == [80, 90]  # A copy without it.
  facts = json.loads((step / '_CHECKPOINT_METADATA').read_text())
  facts['commit_timestamp_nsecs'] = None
  (step / '_CHECKPOINT_METADATA').write_text(json.dumps(facts))
  assert checkpoint.list_steps(workdir) == [80]
  assert checkpoint.load_encoder(workdir).step == 80


@pytest.mark.parametrize('name', ['run[1]', 'a*b?', '[!a]', '**'])
def test_a_path_is_no_pattern(tmp_path, name):
  checkpointer = checkpoint.Checkpointer(tmp_path / name / 'checkpoints', SYNC)
  state = save(checkpointer, 1)
  assert_same_bits(checkpointer.restore_latest(abstract(state)).state, state)
  checkpointer.close()


@pytest.mark.parametrize('name', ['a\\b', 'a\udcff'])
def test_a_path_that_the_writer_takes_for_another_is_refused(tmp_path, name):
  with pytest.raises(ValueError, match='All other characters are allowed'):
    checkpoint.Checkpointer(tmp_path / name / 'checkpoints', SYNC)
  assert not list(tmp_path.iterdir())


def test_fingerprint_sees_every_change():
  base = {'params': {'a': np.zeros(4, np.float32)}, 'batch_stats': {}}
  prints = {
    checkpoint.fingerprint(tree)
    for tree in (
      base,
      {'params': {'b': np.zeros(4, np.float32)}},
      {'params': {'a': np.zeros((2, 2), np.float32)}},
      {'params': {'a': np.zeros(4, np.int32)}},
      {'params': {'a': np.float32([0, 0, 0, 1e-45])}},
      {'params': {'a': np.float32([0, 0, 0, -0.0])}},
      {'batch_stats': {'a': np.zeros(4, np.float32)}},
    )
  }
  assert len(prints) == 7
  on_device = jax.device_put(base, NamedSharding(make_mesh(8), P()))
  assert checkpoint.fingerprint(on_device) == checkpoint.fingerprint(base)


# Following a run.


def test_unfinished_and_damaged_folders_are_no_steps(workdir):
  for name in ('95.orbax-checkpoint-tmp', '70.damaged-0', 'notes'):
    (workdir / 'checkpoints' / name).mkdir()
  (workdir / 'checkpoints' / '96').write_text('a file')
  assert checkpoint.list_steps(workdir) == [80, 90]
  assert checkpoint.list_steps(workdir / 'checkpoints') == [80, 90]
  assert checkpoint.list_steps(workdir / 'elsewhere') == []


def test_follow_a_run_to_its_end(tmp_path):
  folder = tmp_path / 'checkpoints'
  follow = checkpoint.wait_for_new_step(tmp_path, -1, timeout=5, poll=0.01)
  (folder / '10').mkdir(parents=True)
  (folder / '20').mkdir()
  assert next(follow) == 10
  (folder / '20').rmdir()
  (folder / '30').mkdir()
  (tmp_path / 'finished.json').write_text('{}')
  assert list(follow) == [30]


def test_follow_gives_up(tmp_path):
  (tmp_path / 'checkpoints' / '10').mkdir(parents=True)
  begin = time.monotonic()
  follow = checkpoint.wait_for_new_step(tmp_path, 10, timeout=0.1, poll=0.01)
  assert list(follow) == []
  assert 0.1 <= time.monotonic() - begin < 5


def test_passport_is_plain_json_on_disk(saved):
  path = saved / 'checkpoints' / '90' / 'passport' / 'metadata'
  assert json.loads(path.read_text()) == {'step': 90, 'metrics': {}}
