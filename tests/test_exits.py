"""A process ends when its command does, whatever its threads do."""

from __future__ import annotations

import subprocess
import sys
import time
import types

import pytest

from simclr_jax import commands, data
from simclr_jax import config as config_lib
from simclr_jax.data import pipeline, stream
from tests import command_server, multi_process, small_run

# What an iterator of tf.data can do, surely instead of now and then.
_PROGRAM = """
import atexit, threading, time
from simclr_jax import console
class Slow:
  def __del__(self):
    time.sleep(60)
def command():
  held = Slow()
  threading.Thread(target=time.sleep, args=(60,)).start()
  atexit.register(time.sleep, 60)
  atexit.register(print, 'handled')
  print('said')
  {end}
console.leave(command)
"""


@pytest.mark.parametrize(
  'end,code,says',
  [
    ('globals()["kept"] = held; return 0', 0, ''),
    ('return 3', 3, ''),
    ('raise KeyError("planted")', 1, "error: KeyError: 'planted'"),
    ('raise KeyboardInterrupt', 130, 'error: interrupted'),
  ],
)
def test_nothing_is_waited_for(end, code, says):
  if code == 3:
    end = f'globals()["kept"] = held; {end}'
  start = time.monotonic()
  done = subprocess.run(
    [sys.executable, '-c', _PROGRAM.format(end=end)],
    cwd=command_server.ROOT,
    capture_output=True,
    text=True,
    timeout=50,
    check=False,
  )
  assert done.returncode == code
  assert done.stdout == 'said\nhandled\n'
  assert (done.stderr.splitlines() or [''])[-1] == says
  assert time.monotonic() - start < 45


def test_every_command_ends_so():
  for command in commands.COMMANDS.values():
    file = command_server.ROOT / 'simclr_jax' / f'{command.module}.py'
    last = file.read_text().split("if __name__ == '__main__':")[1]
    assert 'flag_errors.run(' in last or 'console.leave(' in last


_PLANTED = """
import time
from simclr_jax.training import reporter
class Slow:
  def __del__(self):
    time.sleep(600)
def push(self, *args):
  held = Slow()
  raise RuntimeError('planted')
reporter.Reporter.push = push
"""


@pytest.mark.parametrize('count', [1, 2])
def test_a_run_ends_after_an_exception(count, tmp_path):
  pytest.importorskip('cv2')
  arguments = (
    *multi_process.TINY,
    '--config.train.duration=4 steps',
    f'--workdir={tmp_path / "run"}',
  )
  with multi_process.Processes(
    arguments, count=count, logs=tmp_path / 'logs', before={0: _PLANTED}
  ) as running:
    assert running.codes() == [1] * count
    assert all(
      'RuntimeError: planted' in running.errors(k)[-1] for k in range(count)
    )
    assert running.log(0).count('Traceback (most recent call last)') == 1


def test_an_iterator_is_dropped_without_waiting(monkeypatch):
  pytest.importorskip('tensorflow')
  freed = []

  class Slow:
    def __next__(self) -> dict:
      return {}

    def __del__(self) -> None:
      time.sleep(0.5)
      freed.append(True)

  dataset = types.SimpleNamespace(as_numpy_iterator=Slow)
  monkeypatch.setattr(stream, '_make_dataset', lambda *_, **__: dataset)
  plan = types.SimpleNamespace(local=range(9), rows=1)
  made = stream._make_stream(None, plan, to_row=None, data=None)
  assert next(made) == {}
  start = time.monotonic()
  made.close()
  assert time.monotonic() - start < 0.4
  deadline = time.monotonic() + 20
  while not freed and time.monotonic() < deadline:
    time.sleep(0.05)
  assert freed


def test_tf_data_starts_no_thread_that_sleeps(monkeypatch):
  pytest.importorskip('tensorflow')
  made = []
  monkeypatch.setattr(
    stream, '_name_errors', lambda *given, **more: made.append(given)
  )
  config = small_run.CONFIG
  data_config = config_lib.replace(config, data={'loader': 'tf'}).data
  source = data.make_source(data_config, data_config.test_split)
  pipeline.eval_batches(source, data=data_config, eval_config=config.eval)
  assert made[0][0].options().autotune.enabled is False
