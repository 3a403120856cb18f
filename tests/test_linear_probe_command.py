"""python -m simclr_jax.linear_probe on a finished run in miniature."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import linear_probe
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import jobs
from simclr_jax.training import checkpoint
from tests import command_flags, small_run


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Workdir with steps 3 and 5, probed once: (workdir, report)."""
  workdir = tmp_path_factory.mktemp('run')
  small_run.save_small_run(workdir, steps=(3, 5))
  return workdir, jobs.run_probe(jobs.open_subject(workdir))


@pytest.fixture
def command(capsys):
  """Runs the command; gives (exit code, stdout, stderr)."""

  def call(*arguments):
    code = command_flags.call(linear_probe, 'probe', *arguments)
    return code, *capsys.readouterr()

  return call


def _read(file):
  return json.loads(pathlib.Path(file).read_text())


def test_the_report_says_what_was_measured(run):
  workdir, report = run
  written = _read(report['file'])
  assert written == json.loads(json.dumps(report))
  assert report['file'] == str(workdir / 'probe' / 'linear_probe-step5.json')
  assert report['step'] == 5 and report['encoder'] == 'checkpoint'
  loaded = checkpoint.load_encoder(workdir)
  assert report['encoder_fingerprint'] == loaded.fingerprint
  assert report['data']['train']['num_examples'] == 96
  assert report['hardware']['num_devices'] == 8
  assert report['config']['probe']['epochs'] == 20
  assert len(report['result']['holdout']) == 2
  lines = (workdir / 'probe' / 'metrics.jsonl').read_text().splitlines()
  line = json.loads(lines[0])
  assert line['step'] == 5
  assert line['linear_probe/top1'] == report['result']['top1']


def test_the_command_twice_gives_the_same_number(run, command, monkeypatch):
  workdir, report = run
  monkeypatch.setattr(encoder_lib.Encoder, 'encode', None)  # all from the cache
  for _ in range(2):
    code, out, _ = command(f'--checkpoint={workdir}')
    assert code == 0
    assert out == jobs.summary(report) + '\n'
    written = _read(report['file'])
    for name in ('result', 'encoder_fingerprint', 'config', 'data'):
      assert written[name] == json.loads(json.dumps(report[name]))


def test_features_computed_anew_give_the_same_number(run, tmp_path):
  workdir, report = run
  shutil.copytree(workdir / 'checkpoints', tmp_path / 'checkpoints')
  again = jobs.run_probe(jobs.open_subject(tmp_path))
  assert again['result'] == report['result']


def test_given_flags_alone_change_the_passport(run, command, tmp_path):
  workdir, _ = run
  out = tmp_path / 'deep' / 'probe.json'
  code, line, _ = command(
    f'--checkpoint={workdir}',
    '--step=3',
    f'--out={out}',
    '--probe.base_lrs=0.1',
    '--probe.epochs=2',
    '--probe.labels_per_class=5',
    '--data.train_split=train[:80]',
  )
  assert code == 0 and line.startswith('linear_probe of step 3: top-1 ')
  report = json.loads(out.read_text())
  expected = config_lib.to_dict(
    config_lib.replace(
      small_run.CONFIG,
      probe={'base_lrs': (0.1,), 'epochs': 2, 'labels_per_class': 5},
      data={'train_split': 'train[:80]'},
    )
  )
  for section in ('data', 'eval', 'probe'):
    assert report['config'][section] == json.loads(
      json.dumps(expected[section])
    )
  assert report['result']['num_train'] == 40
  assert report['overridden']['probe.epochs'] == 2


def test_with_out_nothing_is_written_in_the_workdir(run, tmp_path):
  workdir, _ = run
  before = sorted(workdir.rglob('*'))
  size = (workdir / 'probe' / 'metrics.jsonl').stat().st_size
  subject = jobs.open_subject(workdir, overrides={'probe': {'epochs': 3}})
  jobs.run_probe(subject, out=tmp_path / 'probe.json')
  assert sorted(workdir.rglob('*')) == before
  assert (workdir / 'probe' / 'metrics.jsonl').stat().st_size == size


def test_other_settings_have_another_file(run):
  workdir, report = run
  files = {
    jobs.run_probe(
      jobs.open_subject(workdir, overrides={'probe': {'epochs': epochs}})
    )['file']
    for epochs in (20, 3, 4)
  }
  assert len(files) == 3 and report['file'] in files


def test_the_number_is_shown_though_it_cannot_be_written(
  run, command, tmp_path
):
  """A disk that is full by then; what can be known before is refused before."""
  (tmp_path / 'probe.json').symlink_to('/dev/full')
  code, out, err = command(
    f'--checkpoint={run[0]}', f'--out={tmp_path}/probe.json'
  )
  assert code == 1
  assert out == jobs.summary(run[1]) + '\n'
  assert 'cannot write' in err and 'Traceback' not in err


def test_baselines_have_their_own_files(run, command, monkeypatch):
  workdir, _ = run
  # Another network's weights stand for fresh ones: compiling the
  # initialisation takes long and is tested elsewhere.
  monkeypatch.setattr(
    encoder_lib.models,
    'init_variables',
    lambda *args, **kwargs: small_run.make_variables(
      small_run.CONFIG, num_classes=0, seed=99
    ),
  )
  code, out, _ = command(f'--checkpoint={workdir}', '--features=raw_pixels')
  assert code == 0 and out.startswith('linear_probe of raw pixels')
  code, out, _ = command(f'--checkpoint={workdir}', '--random_init')
  assert code == 0 and out.startswith('linear_probe of random initialisation')
  files = {path.name for path in (workdir / 'probe').glob('*.json')}
  assert {
    'linear_probe-raw_pixels-step5.json',
    'linear_probe-random_init-step5.json',
    'linear_probe-step5.json',
  } <= files


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--step=4'], r'no checkpoint 4.*\[3, 5\]'),
    (['--step=newest'], "a number or 'best'"),
    (['--probe.epochs=-1'], 'config.probe.epochs = -1'),
    (['--data.test_split='], 'data.test_split is empty'),
    (['--data.test_split=train[:96]'], 'training split'),
    (['--random_init', '--follow'], 'exclude each other'),
    (['--follow', '--out=x'], 'no --step or --out'),
    (['--probe.base_lrs=1e30'], 'loss did not fall'),
    (['stray'], 'unknown arguments stray'),
  ],
)
def test_errors_are_one_line_without_a_traceback(
  run, command, arguments, message
):
  code, out, err = command(f'--checkpoint={run[0]}', *arguments)
  assert code == 2 and out == ''
  assert 'Traceback' not in err
  last = err[err.index('error: ') :]
  assert re.search(message, last, re.S), last


def test_a_planted_change_of_the_encoder_is_refused(
  run, command, tmp_path, monkeypatch
):
  shutil.copytree(run[0] / 'checkpoints', tmp_path / 'checkpoints')
  encode = encoder_lib.Encoder.encode

  def updating(self, images):
    encoded = encode(self, images)
    stats = self.variables['batch_stats']
    changed = {**stats, 'backbone': _scaled(stats['backbone'])}
    self.variables = {**self.variables, 'batch_stats': changed}
    return encoded

  with monkeypatch.context() as planted:
    planted.setattr(encoder_lib.Encoder, 'encode', updating)
    code, out, err = command(f'--checkpoint={tmp_path}')
  assert code == 2 and out == ''
  assert 'the encoder changed' in err
  assert [path.name for path in tmp_path.iterdir()] == ['checkpoints']
  # Nothing is left behind that the next command would take for features.
  code, out, _ = command(f'--checkpoint={tmp_path}')
  assert (code, out) == (0, jobs.summary(run[1]) + '\n')


def _scaled(tree):
  return jax.tree.map(lambda x: np.float32(1.01) * x, tree)


def test_follow_passes_over_a_step_deleted_before_it_is_loaded(
  run, tmp_path, monkeypatch, caplog
):
  shutil.copytree(run[0] / 'checkpoints', tmp_path / 'checkpoints')
  (tmp_path / checkpoint.FINISHED).write_text('{}')
  load_encoder = checkpoint.load_encoder

  def late(path, *, step):
    if step == 3:
      shutil.rmtree(tmp_path / 'checkpoints' / '3')
    return load_encoder(path, step=step)

  monkeypatch.setattr(checkpoint, 'load_encoder', late)
  refused = []
  found = list(
    jobs.follow(
      tmp_path,
      lambda loaded: {'step': loaded.step},
      refused_fn=lambda *args: refused.append(args),
      timeout=1,
      poll=0.01,
    )
  )
  assert found == [{'step': 5}] and not refused
  assert any('step 3 was deleted' in r.getMessage() for r in caplog.records)


def test_follow_reports_a_refused_step_and_goes_on(
  run, command, tmp_path, monkeypatch
):
  shutil.copytree(run[0] / 'checkpoints', tmp_path / 'checkpoints')
  shutil.copytree(run[0] / 'features', tmp_path / 'features')
  (tmp_path / checkpoint.FINISHED).write_text('{}')
  run_probe = jobs.run_probe

  def refusing(subject, **kwargs):
    if subject.step == 3:
      # Deleted meanwhile, which must not hide why it is refused.
      shutil.rmtree(tmp_path / 'checkpoints' / '3')
      raise ValueError('the planted refusal')
    return run_probe(subject, **kwargs)

  monkeypatch.setattr(jobs, 'run_probe', refusing)
  code, out, err = command(f'--checkpoint={tmp_path}', '--follow')
  assert code != 0
  assert 'step 3 is refused' in err and 'the planted refusal' in err
  assert [line.split(':')[0] for line in out.splitlines()] == [
    'linear_probe of step 5'
  ]


def test_follow_judges_every_step_until_the_run_has_finished(
  run, command, tmp_path
):
  shutil.copytree(run[0] / 'checkpoints', tmp_path / 'checkpoints')
  shutil.copytree(run[0] / 'features', tmp_path / 'features')
  (tmp_path / checkpoint.FINISHED).write_text('{}')
  start = time.monotonic()
  code, out, _ = command(
    f'--checkpoint={tmp_path}', '--follow', '--probe.base_lrs=0.1'
  )
  assert code == 0 and time.monotonic() - start < 60
  steps = [line.split(':')[0] for line in out.splitlines()]
  assert steps == ['linear_probe of step 3', 'linear_probe of step 5']


def test_help_reads_and_unknown_fields_are_named():
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}

  def call(*arguments):
    return subprocess.run(
      [sys.executable, '-m', 'simclr_jax.linear_probe', *arguments],
      capture_output=True,
      text=True,
      timeout=120,
      env=environment,
    )

  text = call('--help').stdout
  assert 'python -m simclr_jax.linear_probe --checkpoint=WORKDIR' in text
  for flag in ('--checkpoint', '--step', '--[no]follow', '--probe', '--data'):
    assert flag in text
  failed = call('--checkpoint=x', '--probe.epoch=3')
  assert failed.returncode == 2
  assert 'Traceback' not in failed.stderr
  assert 'no field \'epoch\' Did you mean "epochs"' in failed.stderr
