"""What tpu_vm.sh asks of gcloud, in which order; what it makes of answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from tests.launch import stand_ins

PLACE = ['--zone=us-west4-a', '--project=p']
WHERE = ['--name=run-1', *PLACE, '--poll=0']
SLICE = [*WHERE, '--type=v5litepod-16']
NASTY = """--config=a b'c"$HOME`id`;exit 3 *"""
FLAGS = ['--', NASTY, '--workdir=gs://b/ü\n']
NOT_FOUND = 'ERROR: NOT_FOUND: Resource projects/p/... was not found'

QUEUED = ['gcloud', 'compute', 'tpus', 'queued-resources']
VM = ['gcloud', 'compute', 'tpus', 'tpu-vm']
DESCRIBE = [
  *QUEUED, 'describe', 'run-1', *PLACE, '--format=value(state.state)'
]  # fmt: skip
CREATE = [
  *QUEUED, 'create', 'run-1', *PLACE, '--node-id=run-1',
  '--accelerator-type=v5litepod-16', '--runtime-version=v2-alpha-tpuv5-lite',
  '--quiet',
]  # fmt: skip
DELETE = [*QUEUED, 'delete', 'run-1', *PLACE, '--force', '--quiet']


@pytest.fixture
def cloud(tmp_path):
  programs = stand_ins.StandIns(tmp_path, ['gcloud', 'git', 'mkdir'])
  programs.answer('git rev-parse', out='0123abcd\n')
  return programs


def states(cloud, *names):
  for name in names:
    answer = {'out': f'{name}\n'}
    if name == 'ABSENT':
      answer = {'err': NOT_FOUND, 'code': 1}
    cloud.answer('describe', **answer)


def run_states(cloud, *ends):
  """What two workers say, look after look, such as ('exited', 75)."""
  for state, code in ends:
    line = f'worker=%s state={state} code={code}\n'
    cloud.answer('worker.sh status', out=line % 'w0' + line % 'w1')


def verbs(cloud):
  """The calls in one word each."""
  words = []
  for call in cloud.calls():
    if call[0] == 'gcloud':
      word = call[4]
      if word == 'ssh':
        command = next(x for x in call if x.startswith('--command='))
        word = command.split('worker.sh ')[1].split()[0]
      words.append(word)
  return words


def test_create_asks_first(cloud):
  states(cloud, 'ABSENT')
  result = cloud.run('tpu_vm.sh', 'create', *SLICE)
  assert result.returncode == 0, result.stderr
  assert cloud.calls() == [DESCRIBE, CREATE]


def test_create_hands_on_what_was_asked_for(cloud):
  states(cloud, 'ABSENT')
  cloud.run(
    'tpu_vm.sh', 'create', *SLICE, '--spot', '--network=n', '--subnetwork=s',
    '--service_account=a@b', '--valid_until=6h', '--runtime=other',
  )  # fmt: skip
  assert cloud.calls()[1] == [
    *CREATE[:-2], '--runtime-version=other', '--spot', '--network=n',
    '--subnetwork=s', '--service-account=a@b', '--valid-until-duration=6h',
    '--quiet',
  ]  # fmt: skip


@pytest.mark.parametrize('state', ['WAITING_FOR_RESOURCES', 'ACTIVE'])
def test_create_of_one_that_is_there_does_nothing(cloud, state):
  states(cloud, state)
  result = cloud.run('tpu_vm.sh', 'create', *SLICE)
  assert result.returncode == 0
  assert f'run-1 exists: {state}' in result.stderr
  assert cloud.calls() == [DESCRIBE]


def test_create_of_one_that_was_taken_away_names_resume(cloud):
  states(cloud, 'SUSPENDED')
  result = cloud.run('tpu_vm.sh', 'create', *SLICE)
  assert result.returncode == 1
  assert "'resume'" in result.stderr
  assert cloud.calls() == [DESCRIBE]


def test_an_error_is_not_taken_for_absence(cloud):
  cloud.answer('describe', err='ERROR: PERMISSION_DENIED', code=1)
  result = cloud.run('tpu_vm.sh', 'create', *SLICE)
  assert result.returncode == 1
  assert 'PERMISSION_DENIED' in result.stderr
  assert cloud.calls() == 3 * [DESCRIBE]


def test_delete(cloud):
  states(cloud, 'SUSPENDED', 'ABSENT')
  assert cloud.run('tpu_vm.sh', 'delete', *WHERE).returncode == 0
  assert cloud.run('tpu_vm.sh', 'delete', *WHERE).returncode == 0
  assert cloud.calls() == [DESCRIBE, DELETE, DESCRIBE]


def test_resume_after_a_preemption(cloud):
  states(cloud, 'SUSPENDING', 'SUSPENDED', 'PROVISIONING', 'ACTIVE')
  result = cloud.run('tpu_vm.sh', 'resume', *SLICE, *FLAGS)
  assert result.returncode == 0, result.stderr
  assert verbs(cloud) == [
    'describe', 'describe', 'delete', 'create', 'describe', 'describe', 'scp',
    'install', 'start',
  ]  # fmt: skip


def test_resume_leaves_a_slice_that_is_there(cloud):
  states(cloud, 'ACTIVE')
  assert cloud.run('tpu_vm.sh', 'resume', *SLICE, *FLAGS).returncode == 0
  assert verbs(cloud) == ['describe', 'start']


def test_a_request_that_always_fails_is_given_up(cloud):
  states(cloud, 'FAILED')
  result = cloud.run('tpu_vm.sh', 'wait', *SLICE)
  assert result.returncode == 1
  assert '3 times in a row' in result.stderr
  assert verbs(cloud) == 2 * ['describe', 'delete', 'create'] + ['describe']


def test_install_copies_the_commit_to_every_worker(cloud):
  assert cloud.run('tpu_vm.sh', 'install', *WHERE).returncode == 0
  mkdir, archive, copy, remote = cloud.calls()
  tar = 'build/simclr_jax.tar.gz'
  assert mkdir == ['mkdir', '-p', 'build']
  assert archive[:2] == ['git', 'archive'] and archive[-1] == 'HEAD'
  assert copy == [
    *VM, 'scp', tar, 'run-1:simclr_jax.tar.gz', *PLACE, '--worker=all',
    '--quiet',
  ]  # fmt: skip
  assert remote[:8] == [*VM, 'ssh', 'run-1', *PLACE, '--worker=all'][:8]
  assert 'worker.sh install tpu 0123abcd' in remote[-2]


def test_a_lost_connection_is_tried_again(cloud):
  cloud.answer('ssh', code=255)
  cloud.answer('ssh', code=0)
  assert cloud.run('tpu_vm.sh', 'run', *WHERE, *FLAGS).returncode == 0
  assert verbs(cloud) == ['start', 'start']


def test_watch_until_finished(cloud):
  states(
    cloud, 'ABSENT', 'PROVISIONING', 'ACTIVE', 'ACTIVE', 'SUSPENDED',
    'SUSPENDED', 'ACTIVE',
  )  # fmt: skip
  run_states(
    cloud, ('running', 'none'), ('exited', 75), ('lost', 'none'), ('exited', 0)
  )
  result = cloud.run('tpu_vm.sh', 'watch', *SLICE, '--delete_when_done', *FLAGS)
  assert result.returncode == 0, result.stderr
  assert verbs(cloud) == [
    'describe', 'create', 'describe', 'describe', 'scp', 'install', 'start',
    'describe', 'status',  # runs
    'describe', 'describe', 'delete', 'create', 'describe',  # preempted
    'scp', 'install', 'start',
    'describe', 'status', 'describe', 'start',  # 75: the same command
    'describe', 'status', 'describe', 'start',  # lost: the same command
    'describe', 'status',  # finished
    'describe', 'delete',
  ]  # fmt: skip


@pytest.mark.parametrize('code', [1, 2, 3])
def test_watch_does_not_repeat_a_failure(cloud, code):
  states(cloud, 'ACTIVE')
  cloud.answer(
    'worker.sh status',
    out=f'state=exited code=69\nstate=exited code={code}\nstate=lost code=none',
  )
  result = cloud.run('tpu_vm.sh', 'watch', *SLICE, *FLAGS)
  assert result.returncode == code
  assert verbs(cloud) == ['describe', 'start', 'describe', 'status']


def test_watch_waits_while_one_worker_runs(cloud):
  states(cloud, 'ACTIVE')
  cloud.answer(
    'worker.sh status', out='state=exited code=1\nstate=running code=none'
  )
  cloud.answer('worker.sh status', err='connection lost', code=1)
  run_states(cloud, ('exited', 0))
  result = cloud.run('tpu_vm.sh', 'watch', *SLICE, *FLAGS)
  assert result.returncode == 0, result.stderr
  assert verbs(cloud).count('start') == 1


def test_watch_gives_up(cloud):
  states(cloud, 'ACTIVE')
  run_states(cloud, ('exited', 137))
  result = cloud.run('tpu_vm.sh', 'watch', *SLICE, '--max_restarts=2', *FLAGS)
  assert result.returncode == 1
  assert 'too many' in result.stderr
  assert verbs(cloud).count('start') == 3


@pytest.mark.parametrize(
  'command', ['run', 'status', 'logs', 'stop', 'install', 'create', 'delete']
)
def test_words_of_the_user_stay_words(cloud, command):
  """The remote line, read by a shell there, gives the words given here."""
  run_name = """it's "a" $HOME run; exit"""
  states(cloud, 'ACTIVE' if command != 'create' else 'ABSENT')
  cloud.run(
    'tpu_vm.sh', command, '--name=a b;c', '--zone=z z', '--project=$p',
    '--type=v5litepod-16', f'--run={run_name}', '--poll=0',
    *(FLAGS if command == 'run' else []),
  )  # fmt: skip
  call = cloud.calls()[-1]
  assert '--zone=z z' in call and '--project=$p' in call
  if command in ('run', 'status', 'logs', 'stop'):
    (line,) = [x[10:] for x in call if x.startswith('--command=')]
    worker = cloud.home / 'simclr_jax/launch/worker.sh'
    worker.parent.mkdir(parents=True)
    worker.write_text('printf "%s\\0" "$@"')
    result = subprocess.run(
      ['bash', '-c', line],
      cwd=cloud.home,
      env=cloud.environment,
      capture_output=True,
      check=True,
    )
    words = result.stdout.decode().split('\0')[:-1]
    assert words[1] == run_name
    if command == 'run':
      python = f'{cloud.home}/simclr_venv/bin/python'
      assert words == [
        'start', run_name, python, '-m', 'simclr_jax.main', '--distributed=on',
        *FLAGS[1:],
      ]  # fmt: skip


@pytest.mark.parametrize(
  ('command', 'first_states'),
  [
    ('create', ['ABSENT']),
    ('wait', ['SUSPENDED', 'ACTIVE']),
    ('install', []),
    ('run', []),
    ('status', ['ACTIVE']),
    ('logs', []),
    ('stop', []),
    ('resume', ['SUSPENDED', 'ACTIVE']),
    ('watch', ['SUSPENDED', 'ACTIVE']),
    ('delete', ['ACTIVE']),
  ],
)
def test_dry_run_prints_what_a_run_does(cloud, command, first_states):
  flags = FLAGS if command in ('run', 'resume', 'watch') else []
  arguments = [command, *SLICE, '--run=x y', *flags]
  dry = cloud.run('tpu_vm.sh', *arguments, LAUNCH_DRY_RUN='true')
  assert dry.returncode == 0, dry.stderr
  assert cloud.calls() == []
  cloud.run_lines(dry.stdout)
  printed = cloud.calls()
  cloud.forget()
  states(cloud, *first_states)
  run_states(cloud, ('exited', 0))
  assert cloud.run('tpu_vm.sh', *arguments).returncode == 0
  assert cloud.calls() == printed
  assert printed


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['create', *PLACE, '--type=t'], '--name is missing (or LAUNCH_NAME)'),
    (['create', '--name=n', '--project=p'], '--zone is missing'),
    (['create', *WHERE], '--type is missing'),
    (['create', *WHERE, '--type=gpu-8'], '--runtime is missing'),
    (['run', *WHERE], 'flags of the run are missing'),
    (['run', *WHERE, 'x'], 'unexpected argument x'),
    (['run', *WHERE, '--workdir=x'], 'unknown option --workdir'),
    (['run', *WHERE, '--zone', '--', 'x'], '--zone needs a value'),
    (['status', *WHERE, '--poll=soon'], '--poll=soon is not a whole number'),
    (['status', *WHERE, '--spot=yes'], 'neither true nor false'),
    (['status', *WHERE, '--run=../x'], 'must be a file name'),
    (['destroy', *WHERE], "unknown command 'destroy'"),
    ([], "unknown command ''"),
  ],
)
def test_mistakes_are_named_before_anything_runs(cloud, arguments, message):
  result = cloud.run('tpu_vm.sh', *arguments)
  assert result.returncode == 2
  assert message in result.stderr
  assert cloud.calls() == []


def test_options_by_environment_variables(cloud):
  result = cloud.run(
    'tpu_vm.sh',
    'delete',
    '--dry_run',
    LAUNCH_NAME='a b',
    LAUNCH_ZONE='z',
    LAUNCH_PROJECT='p',
  )
  assert result.returncode == 0, result.stderr
  assert 'delete a\\ b --zone=z' in result.stdout


def test_gcloud_itself_knows_these_commands(cloud, tmp_path):
  """By gcloud's own parser, which runs nothing and asks nobody."""
  gcloud = shutil.which('gcloud')
  if gcloud is None:
    pytest.skip('gcloud is not installed')
  result = cloud.run(
    'tpu_vm.sh', 'watch', *SLICE, '--spot', '--valid_until=6h', '--dry_run',
    '--', '--config=c', '--workdir=gs://b/w',
  )  # fmt: skip
  lines = [x for x in result.stdout.splitlines() if x.startswith('gcloud ')]
  assert len(lines) >= 7
  clean = {k: v for k, v in os.environ.items() if k in ('PATH', 'LANG')}
  clean |= {
    'HOME': str(tmp_path / 'nobody'),
    'CLOUDSDK_CONFIG': str(tmp_path / 'nobody'),
    'CLOUDSDK_CORE_CHECK_GCE_METADATA': 'false',
    'CLOUDSDK_CORE_DISABLE_USAGE_REPORTING': 'true',
  }
  commands = tmp_path / 'commands.json'
  lines = [*dict.fromkeys(lines), f'{lines[0]} --no-such-flag=x']
  commands.write_text(json.dumps([{'command_string': x} for x in lines]))
  parsed = subprocess.run(
    [gcloud, 'meta', 'lint-gcloud-commands', f'--commands-file={commands}'],
    env=clean,
    capture_output=True,
    text=True,
    timeout=60,
  )
  *answers, wrong = json.loads(parsed.stdout)
  assert len(answers) == len(lines) - 1
  assert not [a for a in answers if not a['success']]
  assert not wrong['success']
