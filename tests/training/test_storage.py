"""A workdir that fails while the run goes on: full, read-only, gone.

The disk is a tmpfs of a few MiB, which only root may mount.
"""

from __future__ import annotations

import json
import logging as std_logging
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint._src.serialization import ocdbt_utils
import pytest

from simclr_jax import config as config_lib
from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import (
  failures,
  feeding,
  line_file,
  loop,
  recipe,
  storage,
)
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import passport as passport_lib
from simclr_jax.training import step as step_lib
from simclr_jax.training.state import TrainState

SIZE = 3 << 20
NUMBERS = 100_000  # 400 kB, twice in a checkpoint: two fit, three do not.
TOTAL = 8


@pytest.fixture
def disk(tmp_path):
  """A file system of 3 MiB of its own."""
  path = tmp_path / 'disk'
  path.mkdir()
  done = subprocess.run(
    ['mount', '-t', 'tmpfs', '-o', f'size={SIZE}', 'tmpfs', str(path)],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    pytest.skip(f'no tmpfs can be mounted here: {done.stderr.strip()}')
  yield path
  subprocess.run(['umount', '-l', str(path)], check=True)


class Trouble:
  """Ways in which the workdir disk/run fails, and is mended."""

  def __init__(self, disk: pathlib.Path):
    self.disk, self.run = disk, disk / 'run'
    self.is_full = False

  def full(self) -> None:
    self.is_full = True
    with open(self.disk / 'other', 'ab', buffering=0) as file:
      try:
        while True:
          file.write(bytes(1 << 16))
      except OSError:
        pass

  def not_full(self) -> None:
    self.is_full = False
    (self.disk / 'other').unlink()

  def read_only(self) -> None:
    self._mount('--bind', self.run, self.run)
    # Refused as long as files are open for writing there, as by a save.
    deadline = time.monotonic() + 10
    while subprocess.run(
      ['mount', '-o', 'remount,bind,ro', self.run],
      capture_output=True,
      check=time.monotonic() > deadline,
    ).returncode:
      time.sleep(0.01)

  def not_read_only(self) -> None:
    subprocess.run(['umount', self.run], check=True)

  def gone(self) -> None:
    self.run.rename(self.disk / 'elsewhere')

  def not_gone(self) -> None:
    # A save that was going on makes folders anew; a mount would hide them.
    shutil.rmtree(self.run, ignore_errors=True)
    (self.disk / 'elsewhere').rename(self.run)

  def _mount(self, *options) -> None:
    subprocess.run(['mount', *options], check=True)


@pytest.fixture
def trouble(disk, monkeypatch):
  """A full disk stays full when old checkpoints leave it."""
  trouble = Trouble(disk)
  check_folder = storage.check_folder

  def check_then_fill(folder):
    check_folder(folder)
    if trouble.is_full:
      trouble.full()

  monkeypatch.setattr(storage, 'check_folder', check_then_fill)
  return trouble


KINDS = {
  'full': 'No space left on device, ENOSPC',
  'read_only': 'Read-only file system, EROFS',
  'gone': 'No such file or directory, ENOENT',
}


pytestmark = pytest.mark.filterwarnings(
  # A write that fails leaves Orbax's other writes to the garbage collector.
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


def make_state(step, num=NUMBERS):
  bits = np.random.default_rng(step).standard_normal(num).astype('f')
  return TrainState(
    step=jnp.int32(step), params={'w': jnp.asarray(bits)}, model_state={},
    opt_state=(), extra={},
  )  # fmt: skip


def make_run(config, *, on_step):
  """Real states, real checkpoints, no network; `on_step` breaks the disk."""

  def train_step(state, batch):
    del batch
    step = int(state.step) + 1
    on_step(step)
    metrics = {
      name: jnp.float32(1.0 / step)
      for name in ('loss', 'total_loss', 'grad_norm', 'state_norm')
    }
    return make_state(step), step_lib.StepOutput(metrics, jnp.zeros((2, 2)))

  mesh = mesh_lib.make_mesh(jax.devices()[:1])

  def abstract():
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=mesh_lib.replicated(mesh)
      ),
      make_state(0),
    )

  return types.SimpleNamespace(
    config=config,
    resolved=types.SimpleNamespace(
      total_steps=TOTAL,
      warmup_steps=0,
      log_every_steps=1,
      diagnostics_every_steps=0,
      knn_every_steps=0,
      checkpoint_every_steps=1,
    ),
    mesh=mesh,
    source=types.SimpleNamespace(example_id=str),
    objective=types.SimpleNamespace(name='fake', num_views=2),
    about={},
    loss_rows=None,
    train_step=lambda: train_step,
    init_state=lambda: make_state(0),
    abstract_state=abstract,
  )


@pytest.fixture
def pretrain(monkeypatch):
  """`pretrain(workdir, on_step, **checkpoint)` with the real loop."""
  for module, name, value in (
    (feeding, 'train_feed', lambda run, start_step: _batches()),
    (recipe, 'flops_per_step', lambda run: 0.0),
    (recipe, 'describe', lambda *args, **kwargs: ''),
    (passport_lib, 'check_same_run', lambda *args, **kwargs: []),
    (
      passport_lib,
      'make_passport',
      lambda *a, step, metrics, **k: {'step': step, 'metrics': metrics},
    ),
    (metrics_lib, '_make_tensorboard', lambda workdir: None),
  ):
    monkeypatch.setattr(module, name, value)

  def run(workdir, on_step, **checkpoint):
    config = config_lib.replace(
      config_lib.Config(), data={'source': 'digits'}, checkpoint=checkpoint
    )
    return loop.pretrain(make_run(config, on_step=on_step), str(workdir))

  return run


def check_no_thread_waits():
  """One that waits for a save that failed keeps the process from ending."""
  deadline = time.monotonic() + 10
  while time.monotonic() < deadline:
    waiting = [
      thread.name
      for thread in threading.enumerate()
      # Pools end by themselves.
      if not thread.daemon and not re.search(r'Main|Pool|_\d+$', thread.name)
    ]
    if not waiting:
      return
    time.sleep(0.05)
  pytest.fail(f'still there: {waiting}')


def _batches():
  while True:
    yield {}, np.arange(2)


def steps_of(workdir):
  lines = metrics_lib.read_lines(workdir / metrics_lib.FILE_NAME)
  return [r['step'] for r in lines if 'loss' in r]


def check_restores(workdir, step):
  arrays = checkpoint_lib.load_state_arrays(workdir, step=step)
  np.testing.assert_array_equal(arrays['params']['w'], make_state(step)[1]['w'])


@pytest.mark.parametrize('asynchronous', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_training_goes_on_and_a_later_save_succeeds(
  trouble, pretrain, capfd, kind, asynchronous
):
  left = []

  def on_step(step):
    if step == 4:  # While the save of step 3 may still be going on.
      getattr(trouble, kind)()
    if step == 6:
      place = trouble.disk / 'elsewhere' if kind == 'gone' else trouble.run
      folder = place / 'checkpoints'
      left.extend(sorted(p.name for p in folder.iterdir()))
      getattr(trouble, f'not_{kind}')()

  outcome = pretrain(trouble.run, on_step, asynchronous=asynchronous)
  assert outcome.finished and outcome.step == TOTAL
  check_no_thread_waits()
  said = capfd.readouterr().err
  assert (
    f'*** the checkpoint of step 4 (up to 781 KiB) was not saved: {KINDS[kind]}'
    in said
  )
  assert 'free there). Training goes on; the newest checkpoint is that' in said
  # Nor do Orbax's threads speak for themselves.
  assert 'Traceback' not in said and 'could not remove' not in said
  assert checkpoint_lib.list_steps(trouble.run) == [7, 8]
  check_restores(trouble.run, 8)
  # What a save began and could not end takes no space, where it can be removed.
  assert not [name for name in left if 'tmp' in name] or kind != 'full'
  names = {p.name for p in trouble.run.iterdir() if p.is_file()}
  assert names >= {'metrics.jsonl', 'finished.json'}
  assert not [p for p in (trouble.run / 'checkpoints').iterdir()
              if not p.name.isdigit()]  # fmt: skip
  # No line is lost, and none is half.
  assert steps_of(trouble.run) == list(range(1, TOTAL + 1))


@pytest.mark.parametrize('asynchronous', [False, True])
def test_a_last_state_that_is_not_saved_is_a_failure(
  trouble, pretrain, capfd, asynchronous
):

  def on_step(step):
    if step == 7:
      trouble.full()

  with pytest.raises(storage.StorageFailed) as caught:
    pretrain(
      trouble.run, on_step, asynchronous=asynchronous, max_failed_saves=9
    )
  text = str(caught.value)
  assert 'training reached step 8' in text and 'could not be saved' in text
  assert 'ENOSPC' in text and str(trouble.run) in text and 'free there' in text
  assert 'the same command again: it goes on from step' in text
  assert not (trouble.run / 'finished.json').exists()
  # With asynchronous saves, that of step 6 is still being written.
  newest = max(checkpoint_lib.list_steps(trouble.run))
  assert newest == 6 or asynchronous and newest == 5
  assert f'it goes on from step {newest}' in text
  check_restores(trouble.run, newest)
  # After the room is there again, the same command goes on.
  trouble.not_full()
  capfd.readouterr()
  outcome = pretrain(trouble.run, lambda step: None, asynchronous=asynchronous)
  assert outcome.finished
  check_restores(trouble.run, 8)
  assert steps_of(trouble.run) == list(range(1, TOTAL + 1))


@pytest.mark.parametrize('asynchronous', [False, True])
def test_a_last_save_that_is_not_whole_is_a_failure(
  tmp_path, pretrain, monkeypatch, asynchronous
):
  """Orbax says nothing, and the folder of the step is there."""
  merge = ocdbt_utils.merge_ocdbt_per_process_files

  async def merge_but_the_last(directory, *args, **kwargs):
    if f'/{TOTAL}' not in str(directory):
      await merge(directory, *args, **kwargs)

  monkeypatch.setattr(
    ocdbt_utils, 'merge_ocdbt_per_process_files', merge_but_the_last
  )
  with pytest.raises(storage.RunNotSaved, match=r'not whole.*from step 7'):
    pretrain(tmp_path, lambda step: None, asynchronous=asynchronous)
  assert not (tmp_path / 'finished.json').exists()
  assert max(checkpoint_lib.list_steps(tmp_path)) == TOTAL - 1


@pytest.mark.parametrize('asynchronous', [False, True])
def test_too_many_failed_saves_end_the_run(trouble, pretrain, asynchronous):
  reached = []

  def on_step(step):
    reached.append(step)
    if step == 3:
      trouble.gone()

  with pytest.raises(storage.StorageFailed, match='2 saves in a row') as caught:
    pretrain(
      trouble.run, on_step, asynchronous=asynchronous, max_failed_saves=1
    )
  assert 'it goes on from step ' in str(caught.value)
  # A folder made anew would hide that the file system is not there.
  assert reached[-1] in ((3, 4) if asynchronous else (4,))
  assert checkpoint_lib.list_steps(trouble.run) == []


def test_a_workdir_that_cannot_be_written_ends_before_training(
  trouble, pretrain
):
  trouble.run.mkdir()
  trouble.read_only()
  with pytest.raises((ValueError, OSError), match='Read-only file system'):
    pretrain(trouble.run, lambda step: pytest.fail('trained'))


def test_the_end_is_not_marked_on_a_full_disk(trouble, pretrain, monkeypatch):
  finish = loop.saver_lib.Saver.finish

  def finish_then_fill(self, step):
    finish(self, step)
    trouble.full()

  monkeypatch.setattr(loop.saver_lib.Saver, 'finish', finish_then_fill)
  with pytest.raises(storage.StorageFailed, match=r'finished\.json cannot be'):
    pretrain(trouble.run, lambda step: None)
  trouble.not_full()
  monkeypatch.undo()
  check_restores(trouble.run, TOTAL)


def test_a_record_that_cannot_be_written_is_told_instead(disk):
  Trouble(disk).full()
  with pytest.raises(failures.NonFiniteLoss) as caught:
    failures.record_non_finite(
      disk,
      step=3,
      metrics={'total_loss': np.nan, 'grad_norm': 1.0, 'state_norm': 1.0},
      example_ids=['cat.jpg', 'dog.jpg'],
      saved_steps=[],
    )
  assert 'total_loss is nan at step 3' in str(caught.value)
  assert 'No space left on device' in str(caught.value)
  assert 'cat.jpg, dog.jpg' in str(caught.value)


# Lines.


def test_a_line_that_does_not_fit_leaves_no_half(disk, caplog, capfd):
  path = disk / 'lines'
  file = line_file.LineFile(path)
  file.write('first\n')
  with open(disk / 'other', 'wb') as other:
    other.truncate(0)
  Trouble(disk).full()
  before = path.stat().st_size
  for number in range(4):  # Together more than what is left of a page.
    file.write(f'{number}' * 3000 + '\n')
  assert file.num_unwritten >= 3
  content = path.read_bytes()
  assert content.endswith(b'\n') and content.startswith(b'first\n')
  assert path.stat().st_size - before in (0, 3001)
  assert capfd.readouterr().err.count(f'cannot write to {path}') == 1
  (disk / 'other').unlink()
  with caplog.at_level(std_logging.WARNING, logger='absl'):
    file.write('last\n')
  file.close()
  assert 'lines late' in caplog.text
  want = ['first', *(f'{k}' * 3000 for k in range(4)), 'last']
  assert path.read_text().split() == want


def test_a_file_that_is_gone_and_comes_back(tmp_path, capfd):
  (tmp_path / 'run').mkdir()
  path = tmp_path / 'run' / 'lines'
  file = line_file.LineFile(path)
  file.write('1\n')
  path.rename(tmp_path / 'kept')
  file.write('2\n')
  file.write('3\n')
  said = capfd.readouterr().err
  assert said.count('moved or deleted') == said.count('cannot write to') == 1
  assert file.num_unwritten == 2 and not path.exists()
  (tmp_path / 'kept').rename(path)
  file.write('4\n')
  assert path.read_text() == '1\n2\n3\n4\n'
  path.unlink()
  file.write('5\n')
  file.close()
  assert path.read_text() == '5\n'


def test_lines_that_stay_unwritten_are_said(capfd):
  if not os.path.exists('/dev/full'):
    pytest.skip('no /dev/full here')
  file = line_file.LineFile(pathlib.Path('/dev/full'))
  file.write('1\n')
  file.write('2\n')
  file.close()
  file.close()
  assert '2 lines of /dev/full are lost' in capfd.readouterr().err


_LIMITED = """
import json, pathlib, resource, sys
from simclr_jax.training import metrics, storage
workdir = pathlib.Path(sys.argv[1])
metrics._make_tensorboard = lambda workdir: None
writer = metrics.MetricWriter(workdir, primary=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (150, resource.RLIM_INFINITY))
for step in range(1, 6):
  writer.write_scalars(step, {'loss': 1.0})
resource.setrlimit(
  resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.write_scalars(6, {'loss': 1.0})
writer.close()
"""


def test_a_quota_in_the_middle_of_a_line(tmp_path):
  """As a quota does, the limit lets a part of the line through."""
  done = subprocess.run(
    [sys.executable, '-c', _LIMITED, str(tmp_path)],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )
  assert 'File too large, EFBIG' in done.stderr
  lines = metrics_lib.read_lines(tmp_path / metrics_lib.FILE_NAME)
  assert [r['step'] for r in lines] == [1, 2, 3, 4, 5, 6]


def test_event_files_that_fail_stop_alone(tmp_path, monkeypatch, capfd):
  class Board:
    def write_scalars(self, step, values):
      raise OSError(28, 'No space left on device')

    flush = close = write_scalars

  monkeypatch.setattr(metrics_lib, '_make_tensorboard', lambda path: Board())
  writer = metrics_lib.MetricWriter(tmp_path, primary=True)
  for step in (1, 2):
    writer.write_scalars(step, {'loss': 1.0})
  writer.close()
  said = capfd.readouterr().err
  assert said.count('no more TensorBoard events') == 1
  assert len(metrics_lib.read_lines(tmp_path / metrics_lib.FILE_NAME)) == 2


@pytest.mark.parametrize(
  ('error', 'is_storage'),
  [
    (OSError(28, 'No space left on device'), True),
    (ValueError('RESOURCE_EXHAUSTED: Error writing: No space left'), True),
    (ValueError("OUT_OF_RANGE: Error writing [os_error_code='27']"), True),
    (ValueError('shapes differ'), False),
    (TypeError('no array'), False),
    (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: device memory'), False),
  ],
)
def test_which_errors_come_from_the_storage(error, is_storage):
  assert storage.is_storage_error(error) == is_storage
  wrapper = Exception('a save failed')
  wrapper.__cause__ = error
  assert storage.is_storage_error(wrapper) == is_storage


def test_an_object_store_is_not_probed():
  storage.check_folder('gs://bucket/run')
  assert storage.space('gs://bucket/run') == 'an object store'
  assert json.dumps(storage.explain('gs://b/run', 'no')) == (
    '"no (gs://b/run; an object store)"'
  )


def test_closing_after_a_failure_asks_no_other_process(tmp_path, monkeypatch):
  """One process closes because it failed; the others are in a step."""
  checkpointer = checkpoint_lib.Checkpointer(
    tmp_path / 'checkpoints', config_lib.CheckpointConfig()
  )
  state = make_state(1, num=10)
  checkpointer.save(
    1,
    state,
    encoder={'params': state.params, 'batch_stats': {}},
    passport={'step': 1},
    metrics={},
  )
  monkeypatch.setattr(
    checkpoint_lib.processes, 'gather', lambda value: pytest.fail('asked')
  )
  checkpointer.close()
  assert checkpoint_lib.list_steps(tmp_path) == [1]
