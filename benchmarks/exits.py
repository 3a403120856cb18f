"""How long a process takes to end after an exception that nobody expects.

  python -m benchmarks.exits --out=docs/results/exits_cpu.json

Each try pretrains on generated JPEGs with TensorFlow's loader. In its third
step it waits until its input pipeline is --age seconds old, since threads of
tf.data sleep the longer, the older it is, and raises. Measured is the time from
there to the end of the process; one that is still there after a minute is
killed.
"""

from __future__ import annotations

from concurrent import futures
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
import numpy as np
from PIL import Image

from benchmarks import result_file

_OUT = flags.DEFINE_string('out', None, 'JSON file to write.', required=True)
_TRIES = flags.DEFINE_integer('tries', 20, 'Processes.')
_AT_ONCE = flags.DEFINE_integer('at_once', 4, 'Of them at a time.')
_AGE = flags.DEFINE_float('age', 75.0, 'Seconds before the exception.')
_KILLED_AFTER = 60.0
_WANTED = 10.0
_RAISED = 'raised at '
_CHILD = f"""
import runpy, time
from simclr_jax.training import reporter
push = reporter.Reporter.push
def wait_and_raise(self, step, *args):
  push(self, step, *args)
  if step == 3:
    time.sleep({{age}})
    print({_RAISED!r} + str(time.time()), flush=True)
    raise RuntimeError('made by the benchmark')
reporter.Reporter.push = wait_and_raise
runpy.run_module('simclr_jax.main', run_name='__main__', alter_sys=True)
"""


def make_pictures(folder: pathlib.Path) -> None:
  """Writes JPEGs of noise."""
  rng = np.random.default_rng(0)
  folder.mkdir()
  for i in range(200):
    pixels = rng.integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).resize((400, 300)).save(folder / f'{i}.jpg')


def one_try(folder: pathlib.Path, number: int) -> dict[str, Any]:
  """Exit code (None: killed) and seconds until then."""
  log = folder / f'{number}.log'
  arguments = [
    '--config=configs/folder.py',
    f'--workdir={folder / str(number)}',
    f'--config.data.path={folder / "pictures"}',
    '--config.data.image_size=64',
    '--config.model.depth=18',
    '--config.model.width=0.125',
    '--config.train.batch_size=32',
    '--config.train.duration=4 steps',
    '--config.optim.warmup=1 steps',
  ]
  with open(log, 'w') as file:
    child = subprocess.Popen(
      [sys.executable, '-c', _CHILD.format(age=_AGE.value), *arguments],
      stdout=file,
      stderr=subprocess.STDOUT,
    )
  raised = None
  while child.poll() is None:
    time.sleep(0.05)
    lines = log.read_text(errors='replace').splitlines()
    times = [x for x in lines if x.startswith(_RAISED)]
    raised = float(times[0].removeprefix(_RAISED)) if times else None
    if raised is not None and time.time() - raised > _KILLED_AFTER:
      child.kill()
      child.wait()
  if raised is None:
    raise RuntimeError(f'ended before its third step:\n{log.read_text()}')
  killed = child.returncode < 0
  return {
    'age_seconds': _AGE.value,
    'exit_code': None if killed else child.returncode,
    'seconds': round(time.time() - raised, 1),
  }


def main(argv: list[str]) -> None:
  """Writes what was found."""
  del argv
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    make_pictures(folder / 'pictures')
    with futures.ThreadPoolExecutor(_AT_ONCE.value) as pool:
      tries = list(pool.map(lambda k: one_try(folder, k), range(_TRIES.value)))
  in_time = [t['exit_code'] == 1 and t['seconds'] <= _WANTED for t in tries]
  print(f'{sum(in_time)} of {len(tries)} ended within {_WANTED:g} s')
  result_file.report('exits', tries, out=_OUT.value)


if __name__ == '__main__':
  app.run(main)
