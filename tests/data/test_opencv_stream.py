"""Batches without TensorFlow are those with it, by threads or processes."""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
from PIL import Image
import pytest

pytest.importorskip('cloudpickle')
pytest.importorskip('cv2')

import cloudpickle

from simclr_jax import config as config_lib
from simclr_jax import data as data_lib
from simclr_jax import memory as memory_lib
from simclr_jax.data import pipeline
from simclr_jax.data.source import Example, Source

# A worker cannot import a test: what stands here goes there as it is.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = config_lib.DataConfig(
  source='procedural', image_size=20, loader='opencv', prefetch_batches=1
)
PROCESSES = dataclasses.replace(DATA, num_workers=2)
BOTH = (DATA, PROCESSES)
AUGMENT = config_lib.AugmentConfig()
SEED = 3


def procedural(n=22):
  return data_lib.make_source(DATA, f'train[:{n}]')


def jpegs(n):
  rng = np.random.Generator(np.random.PCG64(0))
  for _ in range(n):
    small = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((24, 21), 2).save(out, 'JPEG')
    yield out.getvalue()


def memory(images):
  return Source(
    name='memory',
    num_examples=len(images),
    num_classes=len(images),
    encoded=True,
    read=lambda i: Example(images[i], i),
    example_id=lambda i: f'picture-{i}',
    fingerprint='',
  )


def train(source, *, make=pipeline.train_batches, data=DATA, **arguments):
  arguments = {
    'batch_size': 8,
    'seed': SEED,
    'num_steps': 4,
    'augment': AUGMENT,
    **arguments,
  }
  return list(make(source, data=data, **arguments))


def assert_equal(got, expected):
  for a, b in zip(got, expected, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      assert a[name].dtype == b[name].dtype
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize('encoded', [False, True])
@pytest.mark.parametrize('sigma_per', ['image', 'batch'])
def test_training_batches_are_those_of_tensorflow(encoded, sigma_per):
  source = memory(list(jpegs(11))) if encoded else procedural()
  augment = config_lib.AugmentConfig(blur_sigma_per=sigma_per)
  arguments = {'augment': augment, 'start_step': 2}
  got = train(source, **arguments)
  tf_data = dataclasses.replace(DATA, loader='tf')
  expected = train(source, data=tf_data, **arguments)
  for a, b in zip(got, expected, strict=True):
    assert a.keys() == b.keys()
    for name in ('label', 'index'):
      assert a[name].dtype == b[name].dtype
      np.testing.assert_array_equal(a[name], b[name])
    assert a['views'].dtype == np.float32
    np.testing.assert_allclose(a['views'], b['views'], atol=1e-5)


def test_crop_batches_are_those_of_tensorflow():
  source = memory(list(jpegs(11)))
  got = train(source, make=pipeline.crop_batches)
  tf_data = dataclasses.replace(DATA, loader='tf')
  expected = train(source, make=pipeline.crop_batches, data=tf_data)
  for a, b in zip(got, expected, strict=True):
    assert a.keys() == b.keys() == {'crops', 'draws', 'label', 'index'}
    for name in ('draws', 'label', 'index'):
      assert a[name].dtype == b[name].dtype
      np.testing.assert_array_equal(a[name], b[name])
    assert a['crops'].dtype == np.uint8
    difference = np.abs(a['crops'].astype(int) - b['crops'])
    assert difference.max() <= 1 and np.mean(difference > 0) < 0.01


@pytest.mark.parametrize('n', [1, 16, 21])
def test_evaluation_batches_are_those_of_tensorflow(n):
  arguments = {'eval_config': config_lib.EvalConfig(batch_size=8)}
  got = pipeline.eval_batches(procedural(n), data=DATA, **arguments)
  tf_data = dataclasses.replace(DATA, loader='tf')
  expected = pipeline.eval_batches(procedural(n), data=tf_data, **arguments)
  for a, b in zip(got, expected, strict=True):
    for name in ('label', 'index', 'mask'):
      np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_allclose(a['image'], b['image'], atol=1e-5)


@pytest.mark.parametrize(
  'workers,make',
  [(1, pipeline.crop_batches), (3, pipeline.train_batches)],
)
def test_worker_processes_change_nothing(workers, make):
  source = memory(list(jpegs(11)))
  data = dataclasses.replace(DATA, num_workers=workers)
  assert_equal(train(source, make=make, data=data), train(source, make=make))


def test_resuming_is_starting_elsewhere():
  source = procedural()
  whole = train(source, num_steps=7)
  for step in (1, 4, 6):
    rest = train(source, start_step=step, num_steps=7 - step)
    assert_equal(rest, whole[step:])


def test_hosts_share_the_global_batch():
  source = procedural()
  parts = [train(source, num_hosts=2, host_index=host) for host in range(2)]
  joined = [
    {name: np.concatenate([a[name], b[name]]) for name in a}
    for a, b in zip(*parts, strict=True)
  ]
  assert_equal(joined, train(source))


@pytest.mark.parametrize('data', BOTH, ids=['threads', 'processes'])
def test_a_damaged_example_is_named_after_the_batches_before_it(data):
  images = list(jpegs(64))
  images[50] = images[50][:-50]
  batches = pipeline.eval_batches(
    memory(images), data=data, eval_config=config_lib.EvalConfig(batch_size=8)
  )
  for _ in range(6):
    next(batches)
  with pytest.raises(
    ValueError,
    match=r'example 50 of memory \(picture-50\).*(damaged|truncated)',
  ):
    next(batches)


def test_a_failure_in_a_worker_that_is_none_of_an_example_shows_where():
  source = dataclasses.replace(procedural(), example_id=None, read=None)
  with pytest.raises(RuntimeError, match='describe_failure'):
    train(source, data=PROCESSES)


def test_a_worker_that_is_killed_is_an_error():
  def read(i):
    if i == 20:
      os.kill(os.getpid(), signal.SIGKILL)
    return Example(np.zeros((9, 9, 3), np.uint8), 0)

  source = dataclasses.replace(procedural(), read=read)
  with pytest.raises(memory_lib.OutOfMemory, match='killed .*num_workers'):
    train(source, data=PROCESSES)


def test_a_source_that_cannot_be_sent_is_refused_at_once():
  lock = threading.Lock()
  source = dataclasses.replace(procedural(), read=lambda i: lock)
  with pytest.raises(ValueError, match='num_workers=0'):
    pipeline.train_batches(
      source, data=PROCESSES, augment=AUGMENT, batch_size=8, seed=0
    )


def running(pids):
  """Those that are there and no zombies."""
  found = []
  for pid in pids:
    status = pathlib.Path(f'/proc/{pid}/status')
    if status.exists() and 'State:\tZ' not in status.read_text():
      found.append(pid)
  return found


def children(pid):
  tasks = pathlib.Path(f'/proc/{pid}/task').glob('*/children')
  return [int(c) for task in tasks for c in task.read_text().split()]


@pytest.mark.skipif(not os.path.exists('/proc/self'), reason='reads /proc')
def test_workers_die_with_a_parent_that_is_killed():
  code = f"""
import sys, time
sys.path[:] = {sys.path!r}
from simclr_jax import config as config_lib
from simclr_jax import data as data_lib
from simclr_jax.data import pipeline
data = config_lib.DataConfig(
  source='procedural', image_size=20, loader='opencv', num_workers=2)
batches = pipeline.train_batches(
  data_lib.make_source(data, 'train[:22]'), data=data,
  augment=config_lib.AugmentConfig(), batch_size=8, seed=0)
next(batches)
print('ready', flush=True)
time.sleep(100)
"""
  with subprocess.Popen(
    [sys.executable, '-c', code], stdout=subprocess.PIPE, cwd=ROOT
  ) as parent:
    try:
      assert parent.stdout.readline() == b'ready\n'
      workers = children(parent.pid)
      assert len(running(workers)) == 2
    finally:
      parent.kill()
  deadline = time.monotonic() + 20
  while running(workers) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert not running(workers)


@pytest.mark.skipif(not os.path.exists('/proc/self'), reason='reads /proc')
def test_closing_ends_the_processes():
  before = set(children(os.getpid()))
  batches = pipeline.train_batches(
    procedural(), data=PROCESSES, augment=AUGMENT, batch_size=8, seed=0
  )
  next(batches)
  workers = set(children(os.getpid())) - before
  assert len(workers) == 2
  batches.close()
  assert not running(workers)


@pytest.mark.skipif(not os.path.exists('/proc/self'), reason='reads /proc')
@pytest.mark.parametrize('data', BOTH, ids=['threads', 'processes'])
def test_nothing_grows(data):
  # Alone in a process: TensorFlow's memory comes and goes as it likes.
  code = f"""
import itertools, os, pathlib, sys
sys.path[:] = {sys.path!r}
from simclr_jax import config as config_lib
from simclr_jax import data as data_lib
from simclr_jax.data import pipeline
data = config_lib.DataConfig(
  source='procedural', image_size=20, loader='opencv',
  num_workers={data.num_workers})
batches = pipeline.train_batches(
  data_lib.make_source(data, 'train[:22]'), data=data,
  augment=config_lib.AugmentConfig(), batch_size=16, seed=0)
for _ in range(4):
  for batch in itertools.islice(batches, 60):
    assert batch['views'].shape == (16, 2, 20, 20, 3)
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  print(pages * os.sysconf('SC_PAGE_SIZE'), len(os.listdir('/proc/self/fd')))
batches.close()
"""
  run = subprocess.run(
    [sys.executable, '-c', code],
    stdout=subprocess.PIPE,
    cwd=ROOT,
    timeout=100,
    check=True,
  )
  rows = [tuple(map(int, line.split())) for line in run.stdout.splitlines()]
  # 60 batches hold 9 MB of views; the first 60 filled the caches.
  assert rows[3][0] - rows[1][0] < 4 << 20
  assert rows[3][1] == rows[1][1]


@pytest.mark.skipif(not os.path.exists('/proc/self'), reason='reads /proc')
def test_streams_leave_no_files_open():
  data = dataclasses.replace(DATA, num_workers=1)
  train(procedural(), data=data, num_steps=1)
  before = len(os.listdir('/proc/self/fd'))
  for _ in range(2):
    train(procedural(), data=data, num_steps=1)
  assert len(os.listdir('/proc/self/fd')) <= before


@pytest.mark.parametrize(
  'loader,hidden,message',
  [
    ('tf', 'tensorflow', r"tensorflow-cpu; or set data.loader='opencv'"),
    ('opencv', 'cv2', r"opencv-python-headless; or set data.loader='tf'"),
  ],
)
def test_a_missing_package_is_named_with_the_other_loader(
  monkeypatch, loader, hidden, message
):
  find_spec = pipeline.importlib.util.find_spec
  monkeypatch.setattr(
    pipeline.importlib.util,
    'find_spec',
    lambda name: None if name == hidden else find_spec(name),
  )
  data = dataclasses.replace(DATA, loader=loader)
  with pytest.raises(ValueError, match=message):
    train(procedural(), data=data)
