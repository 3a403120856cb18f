from __future__ import annotations

import importlib.util
import json
import math
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.training import events, metrics

NEED_TENSORBOARD = ('test_runs_without_tensorflow', 'test_tensorboard_events')


@pytest.fixture(autouse=True)
def without_tensorboard(request, monkeypatch):
  """Importing TensorFlow takes seconds; one test does."""
  if request.function.__name__ not in NEED_TENSORBOARD:
    monkeypatch.setattr(metrics, '_make_tensorboard', lambda workdir: None)


def steps_in(workdir) -> list[int]:
  return [r['step'] for r in metrics.read_lines(workdir / 'metrics.jsonl')]


def write(workdir, steps, *, start_step=0, **scalars) -> None:
  writer = metrics.MetricWriter(workdir, primary=True, start_step=start_step)
  for step in steps:
    writer.write_scalars(step, {'loss': 1 / (1 + step), **scalars})
  writer.close()
  writer.close()


def test_lines_are_plain_json(tmp_path):
  writer = metrics.MetricWriter(tmp_path / 'new', primary=True)
  writer.write_scalars(
    3,
    {
      'loss': jnp.float32(0.5),
      'count': np.int64(7),
      'nan': float('nan'),
      'up': np.float32('inf'),
      'down': -math.inf,
    },
  )
  # Without a flush: a killed run loses no whole line.
  text = (tmp_path / 'new' / 'metrics.jsonl').read_text()
  writer.close()

  def refuse(constant):
    raise AssertionError(f'{constant} is no JSON')

  record = json.loads(text, parse_constant=refuse)
  assert text.endswith('\n')
  assert abs(record.pop('time') - time.time()) < 60
  assert record == {
    'step': 3,
    'loss': 0.5,
    'count': 7,
    'nan': 'NaN',
    'up': 'Infinity',
    'down': '-Infinity',
  }
  assert math.isnan(float(record['nan'])) and float(record['up']) == math.inf


def test_names_of_the_line_are_taken(tmp_path):
  writer = metrics.MetricWriter(tmp_path, primary=True)
  with pytest.raises(ValueError, match=r"\['step'\] are names of the line"):
    writer.write_scalars(1, {'step': 1})
  writer.close()


def test_resume_drops_later_lines(tmp_path):
  write(tmp_path, range(1, 11))
  before = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  write(tmp_path, range(7, 13), start_step=6)
  after = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert steps_in(tmp_path) == list(range(1, 13))
  assert after[:6] == before[:6]
  assert [p.name for p in tmp_path.iterdir()] == ['metrics.jsonl']


def test_a_fresh_start_drops_all(tmp_path):
  write(tmp_path, [0, 1, 2])
  write(tmp_path, [0, 1])
  assert steps_in(tmp_path) == [0, 1]


@pytest.mark.parametrize('num_bytes', [1, 5, 20])
def test_a_half_written_last_line_is_dropped(tmp_path, num_bytes):
  write(tmp_path, [1, 2, 3])
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text()[:-num_bytes])
  # Cut by the newline alone, the line is whole and must not be glued to the
  # next one.
  kept = [1, 2, 3] if num_bytes == 1 else [1, 2]
  assert steps_in(tmp_path) == kept
  write(tmp_path, [4], start_step=3)
  assert steps_in(tmp_path) == [*kept, 4]


def test_another_broken_line_is_an_error(tmp_path):
  write(tmp_path, [1, 2])
  path = tmp_path / 'metrics.jsonl'
  path.write_text('not json\n' + path.read_text())
  with pytest.raises(ValueError, match=r'metrics\.jsonl, line 1 is not'):
    metrics.MetricWriter(tmp_path, primary=True, start_step=2)
  assert path.read_text().startswith('not json')


def test_only_the_primary_process_writes(tmp_path):
  writer = metrics.MetricWriter(tmp_path / 'run', primary=False)
  writer.write_scalars(1, {'loss': 1.0})
  writer.flush()
  writer.close()
  assert not (tmp_path / 'run').exists()


def test_an_object_store_gets_whole_files(tmp_path, monkeypatch):
  """No append there, so the text is kept and written at flush and close."""
  write(tmp_path, [1, 2, 3])
  monkeypatch.setattr(metrics, '_is_remote', lambda path: True)
  writer = metrics.MetricWriter(tmp_path, primary=True, start_step=2)
  writer.write_scalars(3, {'loss': 3.0})
  assert steps_in(tmp_path) == [1, 2]
  writer.flush()
  assert steps_in(tmp_path) == [1, 2, 3]
  writer.write_scalars(4, {'loss': 4.0})
  writer.close()
  assert steps_in(tmp_path) == [1, 2, 3, 4]


def test_runs_without_tensorflow(tmp_path, monkeypatch):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name: None if name == 'tensorflow' else find_spec(name),
  )
  writer = metrics.MetricWriter(tmp_path, primary=True)
  assert writer._tensorboard is None
  writer.write_scalars(1, {'loss': 1.0})
  writer.close()
  assert [p.name for p in tmp_path.iterdir()] == ['metrics.jsonl']


def test_tensorboard_events(tmp_path):
  for name in ('tensorflow', 'clu', 'tensorboard'):
    if importlib.util.find_spec(name) is None:
      pytest.skip(f'{name} is not installed')
  writer = metrics.MetricWriter(tmp_path, primary=True)
  writer.write_scalars(5, {'loss': 0.25, 'nan': float('nan')})
  writer.close()
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util

  (events,) = tmp_path.glob('events.*')
  reader = event_accumulator.EventAccumulator(str(events)).Reload()
  (tensor,) = reader.Tensors('loss')
  assert tensor.step == 5
  assert tensor_util.make_ndarray(tensor.tensor_proto) == 0.25


@pytest.mark.parametrize('how', ['fails', 'hangs', 'cannot be made'])
def test_an_event_file_neither_ends_nor_delays_a_run(
  tmp_path, monkeypatch, capfd, how
):
  over = threading.Event()

  def open_file():
    over.wait() if how == 'hangs' else None
    raise OSError(5, 'Input/output error')

  def make(workdir):
    if how == 'cannot be made':
      open_file()
    return events.EventWriter(open_file)

  monkeypatch.setattr(metrics, '_make_tensorboard', make)
  monkeypatch.setattr(events, '_SECONDS', 0.1)
  begin = time.monotonic()
  writer = metrics.MetricWriter(tmp_path, primary=True)
  for step in (1, 2, 3):
    writer.write_scalars(step, {'loss': 1.0})
    writer.flush()
  writer.close()
  assert time.monotonic() - begin < 5
  over.set()
  assert capfd.readouterr().err.count('no more TensorBoard events') == 1
  assert steps_in(tmp_path) == [1, 2, 3]


def test_lines_that_a_run_resumes_after_are_known(tmp_path):
  writer = metrics.MetricWriter(tmp_path, primary=True)
  for step in (1, 2, 3):
    writer.write_scalars(step, {'loss': float(step)})
  writer.write_scalars(2, {'knn_top1': 0.5})
  writer.close()
  assert not writer.has(2, ['knn_top1'])  # Its own lines are no history.
  writer = metrics.MetricWriter(tmp_path, primary=True, start_step=2)
  writer.close()
  assert [r['step'] for r in writer.history] == [1, 2, 2]
  assert writer.has(2, ['knn_top1']) and not writer.has(1, ['knn_top1'])
  assert not writer.has(3, ['loss'])
