"""What holds for every launcher, and for the Dockerfile."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sysconfig

import pytest

from tests.launch import stand_ins

LAUNCH = stand_ins.ROOT / 'launch'
SCRIPTS = sorted(
  path for path in LAUNCH.iterdir() if path.suffix in ('.sh', '.sbatch')
)
COMMANDS = [path for path in SCRIPTS if path.name != 'options.sh']


def find_tool(name: str) -> str:
  """Its path; skips where it is absent. Pip puts it beside Python."""
  path = f'{sysconfig.get_path("scripts")}:{os.environ["PATH"]}'
  tool = shutil.which(name, path=path)
  if tool is None:
    pytest.skip(f'{name} is not installed (requirements-dev.txt has it)')
  return tool


def test_shellcheck():
  shellcheck = find_tool('shellcheck')
  result = subprocess.run(
    [shellcheck, '--external-sources', *SCRIPTS],
    cwd=stand_ins.ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_it_and_it_stops_at_errors(path):
  subprocess.run(['bash', '-n', path], check=True)
  text = path.read_text()
  assert 'set -euo pipefail' in text or '. "$here/options.sh"' in text


@pytest.mark.parametrize('path', COMMANDS, ids=lambda path: path.name)
def test_it_can_be_run(path):
  assert path.read_text().startswith('#!/usr/bin/env bash\n')
  assert os.access(path, os.X_OK)


@pytest.mark.parametrize('name', ['tpu_vm.sh', 'gke.sh', 'xpk.sh', 'slurm.sh'])
def test_help_names_every_option(name):
  path = LAUNCH / name
  result = subprocess.run(
    [path, 'help'], capture_output=True, text=True, check=True
  )
  (known,) = re.findall(r"parse_options '([\w ]+)'", path.read_text())
  named = set(re.findall(r'--(\w+)', result.stdout))
  assert set(known.split()) <= named
  assert '#' not in result.stdout


def dockerfile():
  """Its instructions as (name, rest)."""
  text = (stand_ins.ROOT / 'Dockerfile').read_text()
  text = re.sub(r'^#.*\n', '', text, flags=re.M).replace('\\\n', ' ')
  return [tuple(x.split(None, 1)) for x in text.splitlines() if x.strip()]


def test_hadolint():
  result = subprocess.run(
    [find_tool('hadolint'), 'Dockerfile'],
    cwd=stand_ins.ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout


def test_the_image_is_not_roots_and_runs_the_command():
  instructions = dockerfile()
  assert instructions[-1] == (
    'ENTRYPOINT',
    '["python", "-m", "simclr_jax.main"]',
  )
  user = max(i for i, (name, _) in enumerate(instructions) if name == 'USER')
  assert instructions[user][1] == '1000'
  assert not [x for x in instructions[user:] if x[0] in ('RUN', 'COPY')]
  assert ('ARG', 'ACCELERATOR=cpu') in instructions


def test_what_the_image_copies_is_there_and_not_ignored():
  copied = [
    word
    for name, rest in dockerfile()
    if name == 'COPY'
    for word in shlex.split(rest)[:-1]
  ]
  allowed = (stand_ins.ROOT / '.dockerignore').read_text().splitlines()
  assert copied
  for name in copied:
    assert (stand_ins.ROOT / name).exists()
    assert f'!{name}' in allowed
  assert '*' in allowed


@pytest.mark.parametrize(
  ('accelerator', 'extra'),
  [('cpu', 'cpu'), ('tpu', 'tpu'), ('gpu', 'cuda13'), ('tpus', None)],
)
def test_the_image_installs_the_pinned_jax(tmp_path, accelerator, extra):
  """The line of the Dockerfile itself, with a recording pip."""
  programs = stand_ins.StandIns(tmp_path, ['pip'])
  for name in ('requirements.txt', 'requirements-no-tf.txt'):
    shutil.copy(stand_ins.ROOT / name, tmp_path)
  (line,) = [x for name, x in dockerfile() if name == 'RUN' and 'pip' in x]
  result = programs.run_lines(f'ACCELERATOR={accelerator}; {line}')
  pins = (tmp_path / 'requirements-no-tf.txt').read_text()
  if extra is None:
    assert result.returncode == 2
    assert 'cpu, tpu or gpu' in result.stderr
    assert programs.calls() == []
  else:
    assert result.returncode == 0, result.stderr
    assert programs.calls()[0][-1] == 'requirements.txt'
    assert re.search(rf'^jax\[{extra}\]==[\d.]+$', pins, re.M)


def documented_commands():
  """The lines of docs/running.md that start a launcher."""
  text = (stand_ins.ROOT / 'docs' / 'running.md').read_text()
  blocks = re.findall(r'^```\n(.*?)^```', text, re.M | re.S)
  lines = ''.join(blocks).replace('\\\n', ' ').splitlines()
  return [line for line in lines if line.startswith('launch/')]


@pytest.mark.parametrize('line', documented_commands())
def test_documented_commands_are_understood(tmp_path, line):
  programs = stand_ins.StandIns(tmp_path, [])
  script, *arguments = shlex.split(line)
  result = programs.run(
    script.removeprefix('launch/'),
    *arguments,
    LAUNCH_DRY_RUN='true',
    LAUNCH_NAME='v1',
    LAUNCH_ZONE='z',
    LAUNCH_PROJECT='p',
    LAUNCH_TYPE='v5litepod-16',
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout
