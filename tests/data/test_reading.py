"""Reads that the system refuses, with every loader and every kind of source."""

from __future__ import annotations

import dataclasses
import errno
import io
import logging
import os
import signal
import sys
import time

import numpy as np
from PIL import Image
import pytest

pytest.importorskip('cloudpickle')
pytest.importorskip('cv2')

import cloudpickle

from simclr_jax import config as config_lib
from simclr_jax import data as data_lib
from simclr_jax import retries
from simclr_jax.data import pipeline
from tests import flaky

cloudpickle.register_pickle_by_value(sys.modules[__name__])

LOADERS = {
  f'{loader} {workers}': config_lib.DataConfig(
    image_size=8, loader=loader, num_workers=workers
  )
  for loader, workers in (('tf', 0), ('opencv', 0), ('opencv', 2))
}


@pytest.fixture(autouse=True)
def episode(monkeypatch):
  monkeypatch.setattr(retries, '_episode', retries._Episode())


def broken(mended, *, times=1, kill=False):
  """A source, and it with an example that fails until a file is that long."""
  fine = data_lib.make_source(
    config_lib.DataConfig(source='procedural', image_size=8), 'train[:64]'
  )

  mended.write_bytes(b'')

  def read(i):
    if i == 40 and mended.stat().st_size < times:
      with open(mended, 'ab') as file:
        file.write(b'.')
      if kill:
        os.kill(os.getpid(), signal.SIGKILL)
      raise OSError(errno.EIO, 'Input/output error', 'p40.png')
    return fine.read(i)

  return fine, dataclasses.replace(fine, read=read)


def batches(source, data):
  return pipeline.train_batches(
    source,
    data=data,
    augment=config_lib.AugmentConfig(blur_prob=0.0),
    batch_size=8,
    seed=0,
    num_steps=8,
  )


@pytest.mark.parametrize(
  'loader,kill', [*((name, False) for name in LOADERS), ('opencv 2', True)]
)
def test_batches_are_the_same_after_a_failure(tmp_path, caplog, loader, kill):
  data = LOADERS[loader]
  caplog.set_level(logging.WARNING, logger='absl')
  fine, source = broken(tmp_path / 'mended', kill=kill)
  for got, want in zip(batches(source, data), batches(fine, data), strict=True):
    for name in want:
      np.testing.assert_array_equal(got[name], want[name])
  (record,) = caplog.records
  assert ('code -9' if kill else 'example 40') in record.getMessage()


@pytest.mark.parametrize('loader', LOADERS)
def test_what_stays_away_ends_in_its_place(
  tmp_path, monkeypatch, capfd, loader
):
  data = LOADERS[loader]
  monkeypatch.setattr(retries, 'limit', 0.5)
  fine, source = broken(tmp_path / 'mended', times=10**9)
  whole = [batch['index'] for batch in batches(fine, data)]
  (at,) = (k for k, index in enumerate(whole) if 40 in index)
  got, begin = batches(source, data), time.monotonic()
  with pytest.raises(retries.DataAway, match=r'example 40 .*p40\.png'):
    for want in whole[: at + 1]:
      np.testing.assert_array_equal(next(got)['index'], want)
  del got
  assert time.monotonic() - begin < 30
  assert 'Traceback' not in ''.join(capfd.readouterr())


def png(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', (9, 9)).save(path)


def parquet(path):
  pa = pytest.importorskip('pyarrow')
  out = io.BytesIO()
  Image.new('RGB', (9, 9)).save(out, 'PNG')
  table = pa.table({'image': [out.getvalue()]})
  pytest.importorskip('pyarrow.parquet').write_table(table, path)


KINDS = {
  'folder': lambda root: png(root / 'x.png'),
  'arrays': lambda root: np.save(
    root / 'train_images.npy', np.zeros((2, 9, 9, 3), np.uint8)
  ),
  'parquet': lambda root: parquet(root / 'train.parquet'),
}


@pytest.mark.parametrize('function', ['stat', 'open'])
@pytest.mark.parametrize('kind', KINDS)
def test_a_source_is_opened_again(tmp_path, monkeypatch, kind, function):
  root = tmp_path / 'data'
  root.mkdir()
  KINDS[kind](root)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  module = {'stat': os, 'open': __import__('builtins')}[function]
  real, failures = getattr(module, function), [errno.EMFILE, errno.EIO]

  def sometimes(path, *args, **kwargs):
    if str(path).startswith(str(root)) and failures:
      flaky.refuse(failures.pop(), path)
    return real(path, *args, **kwargs)

  monkeypatch.setattr(module, function, sometimes)
  split = '' if kind == 'folder' else 'train'
  data = config_lib.DataConfig(source=kind, path=str(root))
  assert data_lib.make_source(data, split, workdir=tmp_path / 'w').num_examples
  if (kind, function) != ('parquet', 'open'):  # Opened in C++.
    assert not failures


def test_what_a_parquet_file_refuses_is_no_damage_and_not_the_cache(
  tmp_path, monkeypatch
):
  module = pytest.importorskip('pyarrow.parquet')
  path = str(tmp_path / 'train.parquet')
  parquet(path)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(retries, 'limit', 0)
  opened, real = [], module.ParquetFile.iter_batches

  def iter_batches(*args, **kwargs):
    opened.append(1)
    yield from real(*args, **kwargs)
    raise OSError(
      errno.EIO, 'Input/output error'
    )  # As pyarrow: without a name.

  monkeypatch.setattr(module.ParquetFile, 'iter_batches', iter_batches)
  data = config_lib.DataConfig(source='parquet', path=path)
  with pytest.raises(retries.DataAway, match='Input/output.*train.parquet'):
    data_lib.make_source(data, 'train')
  assert opened


def test_a_record_file_that_cannot_be_opened_is_not_damaged(
  tmp_path, monkeypatch
):
  module = pytest.importorskip('array_record.python.array_record_module')
  from simclr_jax.data import record_files

  paths = [str(tmp_path / f'{k}.array_record') for k in range(9)]
  for path in paths:
    writer = module.ArrayRecordWriter(path, 'group_size:1')
    for value in (b'one', b'two'):
      writer.write(value)
    writer.close()
  monkeypatch.setattr(
    'resource.getrlimit', lambda which: (8, 8)
  )  # half of it may stay open
  record_files._readers.cache_clear()
  try:
    for path in [*paths, *paths]:
      assert record_files.count(path) == 2
      assert record_files.read(path, 1) == b'two'
    assert record_files._readers().cache_info().currsize == 4
  finally:
    record_files._readers.cache_clear()
  monkeypatch.setattr(
    module, 'ArrayRecordReader', lambda *a, **k: type('R', (), {'ok': bool})
  )
  monkeypatch.setattr('builtins.open', lambda p, *a, **k: flaky.refuse(24, p))
  with pytest.raises(OSError, match='Too many open files'):
    record_files.count(paths[0])
  monkeypatch.undo()
  record_files._readers.cache_clear()
