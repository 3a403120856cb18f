"""python -m simclr_jax.knn on a finished run in miniature."""

import json
import threading

import pytest

from simclr_jax import config as config_lib
from simclr_jax import knn
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import jobs
from simclr_jax.training import checkpoint
from tests import command_flags, small_run


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  small_run.save_small_run(path, steps=(3,))
  return path


@pytest.fixture
def command(capsys):
  """Runs the command; gives (exit code, stdout, stderr)."""

  def call(*arguments):
    code = command_flags.call(knn, 'knn', *arguments)
    return code, *capsys.readouterr()

  return call


def test_reports_the_whole_table_and_shares_features(
  workdir, command, monkeypatch
):
  code, out, _ = command(f'--checkpoint={workdir}')
  file = workdir / 'probe' / 'knn-step3.json'
  report = json.loads(file.read_text())
  assert code == 0 and out == jobs.summary(report) + '\n'
  table = report['result']['table']
  assert [(row['k'], row['temperature']) for row in table] == [
    (5, 0.1),
    (5, None),
    (1, 0.1),
    (1, None),
  ]
  assert report['result']['headline'] == table[0]
  # With one neighbour there is nothing to weigh.
  assert table[2]['top1'] == table[3]['top1']
  line = json.loads((workdir / 'probe' / 'metrics.jsonl').read_text())
  assert line['knn/top1'] == table[0]['top1']
  # Again, also on z: everything from the cache.
  monkeypatch.setattr(encoder_lib.Encoder, 'encode', None)
  code, again, _ = command(f'--checkpoint={workdir}')
  assert (code, again) == (0, out)
  code, out, _ = command(
    f'--checkpoint={workdir}', '--knn.layer=z', '--knn.ks=3'
  )
  assert code == 0 and 'k 3' in out
  (file,) = (workdir / 'probe').glob('knn-z-*-step3.json')
  assert json.loads(file.read_text())['overridden'] == {
    'knn.layer': 'z',
    'knn.ks': [3],
  }


def test_follow_keeps_up_with_a_live_run(tmp_path, command):
  """The run deletes all but its newest checkpoint while it is judged."""
  config = config_lib.replace(
    small_run.CONFIG, checkpoint={'keep_latest': 1, 'keep_best': 0}
  )
  steps = tuple(range(1, 9))

  def train():
    small_run.save_small_run(tmp_path, steps=steps, config=config, pause=0.3)
    (tmp_path / checkpoint.FINISHED).write_text('{}')

  run = threading.Thread(target=train)
  run.start()
  try:
    code, out, err = command(
      f'--checkpoint={tmp_path}', '--follow', '--follow_poll=0.02'
    )
  finally:
    run.join()
  assert code == 0, err
  judged = [int(line.split()[3].rstrip(':')) for line in out.splitlines()]
  assert judged == sorted(set(judged)) and judged[-1] == steps[-1]
  assert {f'knn-step{step}.json' for step in judged} == {
    path.name for path in (tmp_path / 'probe').glob('*.json')
  }


def test_errors_are_one_line(workdir, command):
  code, out, err = command(f'--checkpoint={workdir}', '--knn.ks=97')
  assert code == 2 and out == ''
  assert 'error: k = 97 is larger than the bank of 96' in err
  code, _, err = command(f'--checkpoint={workdir}', '--knn.temperatures=-1.')
  assert code == 2 and 'config.knn.temperatures' in err
