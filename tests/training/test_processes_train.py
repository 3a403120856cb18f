"""The real commands as 1, 2 and 4 processes: the same numbers, the same end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from simclr_jax import console, knn, linear_probe
from simclr_jax.training import checkpoint
from simclr_jax.training import metrics as metrics_lib
from tests import command_flags
from tests.multi_process import TINY, Processes

TOTAL = 6
# Process 1 is told to stop in the evaluation after this step, which is then
# given up.
STOPPED = 3
TRAIN = (
  *TINY,
  f'--config.train.duration={TOTAL} steps',
  '--config.checkpoint.every=1 steps',
  '--config.monitor.knn_every=3 steps',
  '--config.eval.batch_size=24',
)
# The arrays of so small a network would all stay whole.
_DIVIDE = """
from simclr_jax.training import state_sharding
state_sharding.MIN_SIZE = 64
"""
_TELL_IN_TIME = """
import signal
from simclr_jax.training import signals
questions = []
agreed = signals.StopRequest.agreed
def ask(self):
  questions.append(1)
  if len(questions) == 3 + 1:  # one before each step, one before each batch
    signal.raise_signal(signal.SIGTERM)
  return agreed(self)
signals.StopRequest.agreed = ask
"""


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('compiled')


@pytest.fixture(scope='module')
def runs(tmp_path_factory, cache):
  """Workdirs: one process; two that were stopped; and how those went on.

  The four processes keep the state in pieces, each a quarter of it.
  """
  folder = tmp_path_factory.mktemp('runs')

  def start(name, count, devices, *flags, **options):
    return Processes(
      (*TRAIN, f'--workdir={folder / name}', *flags),
      count=count,
      devices=devices,
      logs=folder / 'logs' / name,
      cache=cache,
      **options,
    )

  with (
    start('one', 1, 4) as one,
    start('two', 2, 2, before={1: _TELL_IN_TIME}) as two,
  ):
    one.finish()
    assert two.codes() == [console.EXIT_STOPPED] * 2, two.log(0)[-3000:]
    logs = [two.log(k) for k in range(2)]
  shutil.copytree(folder / 'two', folder / 'two_then_one')
  shutil.copytree(folder / 'one', folder / 'one_then_four')
  for step in range(4, TOTAL + 1):
    shutil.rmtree(folder / 'one_then_four' / 'checkpoints' / str(step))
  (folder / 'one_then_four' / checkpoint.FINISHED).unlink()
  with (
    start('two_then_one', 1, 1) as resumed,
    start(
      *('one_then_four', 4, 2, '--config.train.state_sharding=fsdp'),
      before=dict.fromkeys(range(4), _DIVIDE),
    ) as four,
  ):
    resumed.finish()
    four.finish()
    (held,) = re.findall(r'fsdp: (.*) of (.*) MiB of', four.log(0))
  assert float(held[0]) < 0.5 * float(held[1]), held
  return folder, logs


def states_differ(first, second, step):
  """Largest difference of any array, relative to its largest value."""
  a, b = (
    jax.tree_util.tree_leaves_with_path(
      checkpoint.load_state_arrays(workdir, step=step)
    )
    for workdir in (first, second)
  )
  assert [path for path, _ in a] == [path for path, _ in b] and len(a) > 100
  return max(
    float(np.max(np.abs(x - y), initial=0) / max(np.max(np.abs(x)), 1e-3))
    for (_, x), (_, y) in zip(a, b, strict=True)
    if x.dtype.kind == 'f'
  )


def lines(workdir, name):
  found = metrics_lib.read_lines(workdir / metrics_lib.FILE_NAME)
  return {r['step']: r[name] for r in found if name in r}


@pytest.mark.parametrize(
  ('name', 'step'),
  [('two', STOPPED), ('two_then_one', TOTAL), ('one_then_four', TOTAL)],
)
def test_as_many_processes_as_you_like(runs, name, step):
  folder, _ = runs
  want, got = lines(folder / 'one', 'loss'), lines(folder / name, 'loss')
  assert list(got) == list(range(1, step + 1))
  for k, loss in got.items():
    assert loss == pytest.approx(want[k], rel=1e-5), k
  # The sums of 4 devices are those of 8 or 1 in another order: 4e-5 measured.
  assert states_differ(folder / 'one', folder / name, step) < 5e-4
  want, got = (lines(folder / run, 'knn_top1') for run in ('one', name))
  # What was given up is made up for.
  assert list(want) == [3, 6] and got == ({} if step == STOPPED else want)


def test_a_signal_to_one_process_stops_all_at_the_same_step(runs):
  folder, (first, second) = runs
  assert checkpoint.list_steps(folder / 'two') == [1, 2, STOPPED]
  newest = checkpoint.load_encoder(folder / 'two').passport['metrics']
  assert 'evaluation_owed' in newest and 'knn_top1' not in newest
  assert 'SIGTERM: stopping after this step' in second
  assert 'another process was asked to stop' in first
  assert not (folder / 'two' / checkpoint.FINISHED).exists()


def test_only_the_first_process_says_how_it_goes(runs):
  _, (first, second) = runs
  assert 'step 3/6' in first and 'step 3/6' not in second
  assert '(process 1 of 2 on ' in second


@pytest.fixture(scope='module')
def judged(runs, cache):
  """Reports of both commands by two processes."""
  folder, _ = runs
  flags = {
    'knn': ('--knn.ks=3,1', '--knn.num_bootstrap=50'),
    'linear_probe': (
      '--probe.epochs=3',
      '--probe.base_lrs=0.1,1.0',
      '--probe.weight_decays=0.0,',
      '--probe.num_bootstrap=50',
    ),
  }
  common = (f'--checkpoint={folder / "one"}', '--eval.batch_size=10')

  def start(name):
    return Processes(
      (*common, *flags[name], f'--out={folder / name}.json'),
      count=2,
      module=f'simclr_jax.{name}',
      logs=folder / 'logs' / name,
      cache=cache,
    )

  with start('knn') as first, start('linear_probe') as second:
    first.finish()
    second.finish()
    outputs = {'knn': first.log(1), 'linear_probe': second.log(1)}
  return folder, {k: (*common, *v) for k, v in flags.items()}, outputs


@pytest.mark.parametrize(
  ('name', 'module', 'section'),
  [('knn', knn, 'knn'), ('linear_probe', linear_probe, 'probe')],
)
def test_every_example_is_judged_once(judged, name, module, section, tmp_path):
  folder, flags, outputs = judged
  alone = tmp_path / 'alone.json'
  # Other features than those that the two processes have kept.
  shutil.rmtree(folder / 'one' / 'features', ignore_errors=True)
  code = command_flags.call(module, section, *flags[name], f'--out={alone}')
  assert code == 0
  want = json.loads(alone.read_text())['result']
  report = json.loads((folder / f'{name}.json').read_text())
  assert report['hardware']['num_processes'] == 2
  got = report['result']
  assert got['num_test'] == want['num_test'] == 19  # 10 do not divide it
  best, other = got.get('headline', got), want.get('headline', want)
  assert best['top1'] == other['top1']
  # Printed once.
  assert 'top-1' not in outputs[name]


# Process 1 reads fewer images of a split than it needs.
_LOSE_DATA = """
import dataclasses, itertools
from simclr_jax import retries
from simclr_jax.data import sources
retries.limit = 1
make, reads = sources.SOURCES['procedural'], itertools.count()
def lose(data, split, **options):
  source = make(data, split, **options)
  def read(i):
    if split.startswith({split!r}) and next(reads) >= {most}:
      raise OSError(5, 'Input/output error', 'away.png')
    return source.read(i)
  return dataclasses.replace(source, read=read)
sources.SOURCES['procedural'] = lose
"""


@pytest.mark.parametrize(
  ('split', 'most', 'steps'),
  [
    # Reads run ahead of the steps, so how many are made before is not known.
    ('train', 32 * 4, range(5)),
    ('train', 0, [0]),
    # In the evaluation after step 3, at its first batch: all know at once.
    ('test', 0, [3]),
  ],
)
def test_all_stop_and_save_where_one_cannot_read(
  runs, cache, tmp_path, split, most, steps
):
  workdir = tmp_path / 'run'
  every = 3 if split == 'test' else 0
  arguments = (
    *TRAIN,
    f'--workdir={workdir}',
    '--config.checkpoint.every=1000 steps',
    f'--config.monitor.knn_every={every} steps',
    '--config.eval.batch_size=10',
  )
  before = {1: _LOSE_DATA.format(split=split, most=most)}
  with Processes(
    arguments, count=2, logs=tmp_path, cache=cache, before=before
  ) as both:
    assert both.codes() == [console.EXIT_STOPPED] * 2, both.log(1)[-3000:]
    text = both.log(1)
    assert 'Traceback' not in text + both.log(0)
    assert len(re.findall('trying again', text)) == 1
    (line,) = both.errors(1)
    assert 'away.png' in line
  saved = checkpoint.list_steps(workdir)
  assert len(saved) <= 1 and sum(saved) in steps
  want, got = lines(runs[0] / 'one', 'loss'), lines(workdir, 'loss')
  # The state of the last step that was made is what is saved.
  assert list(got) == list(range(1, sum(saved) + 1))
  for k, loss in got.items():
    assert loss == pytest.approx(want[k], rel=1e-5)


@pytest.fixture(scope='module')
def faults(tmp_path_factory, cache):
  """(start, workdir) of a run that does not end by itself."""
  folder = tmp_path_factory.mktemp('faults')

  def start(name, *flags, count=2, **options):
    return Processes(
      (
        *TINY,
        '--config.train.duration=1000000 steps',
        '--config.checkpoint.every=1000 steps',
        '--config.monitor.knn_every=0 steps',
        f'--workdir={folder / "run"}',
        *flags,
      ),
      count=count,
      logs=folder / name,
      cache=cache,
      **options,
    )

  return start, folder / 'run'


def trained(workdir):
  return len(lines(workdir, 'loss'))


def test_lost_processes(faults):
  """Killed, then the same command again, and one that hangs."""
  start, workdir = faults
  with start('killed') as run:
    run.wait_until(lambda: trained(workdir) > 3)
    with start('second', count=1) as second:
      assert second.code(0) == console.EXIT_WRONG_INPUT
      (line,) = second.errors(0)
      assert f'is in use by a run on host {os.uname().nodename}' in line
      assert f'process id {run.all[0].pid}' in line
    # With it goes the service of JAX's runtime, which aborts the others.
    run.all[0].kill()
    assert run.code(1) == console.EXIT_PEER_LOST, run.log(1)[-3000:]
    (line,) = run.errors(1)
    assert line.startswith('error (process 1 of 2 on ')
    assert 'process 0 of 2 on ' in line and 'ended without a word' in line

  # The lock has gone with the process that held it.
  with start('stopped', '--peer_timeout=2') as run:
    run.wait_until(lambda: 'step 5/' in run.log(0))
    run.all[1].send_signal(signal.SIGSTOP)
    assert run.code(0) == console.EXIT_PEER_LOST
    (line,) = run.errors(0)
    assert 'process 1 of 2 on ' in line
    assert 'no sign of life for 2 s' in line
