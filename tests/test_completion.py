"""The completion script does in bash what a person expects of a tab."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from simclr_jax import commands, completion

BASH = shutil.which('bash')


@pytest.fixture(scope='module')
def complete(command_listing, tmp_path_factory):
  """`complete(line)` -> what stands behind a tab at its end, by bash."""
  if BASH is None:
    pytest.skip('no bash')
  folder = tmp_path_factory.mktemp('completion')
  (folder / 'configs').mkdir()
  (folder / 'configs' / 'cifar10.py').touch()
  script = folder / 'simclr-jax'
  script.write_text(completion.script('bash', command_listing))

  def run(line: str) -> list[str]:
    code = (
      f'source {script}; COMP_LINE="$1"; COMP_POINT=${{#1}}; _simclr_jax; '
      'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
      [BASH, '-u', '-c', code, 'bash', line],
      cwd=folder,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [word for word in done.stdout.split('\n') if word]

  return run


@pytest.mark.parametrize(
  'line,expected',
  [
    ('simclr-jax pre', ['prepare ', 'pretrain ']),
    ('simclr-jax pretrain --work', ['--workdir=']),
    ('simclr-jax main --config.optim.base', ['--config.optim.base_lr=']),
    ('simclr-jax knn --featu', ['--features=']),
    ('simclr-jax knn --features=', ['encoder', 'raw_pixels']),
    ('simclr-jax knn --features=r', ['raw_pixels']),
    ('simclr-jax import-checkpoint --sou', ['--source=']),
    ('simclr-jax pretrain --config=configs/c', ['configs/cifar10.py']),
    ('simclr-jax knn --random', ['--random_init']),
    ('simclr-jax completion z', ['zsh']),
    ('simclr-jax no --work', []),
  ],
)
def test_completes(complete, line, expected):
  assert sorted(complete(line)) == expected


def test_all_commands_and_only_sections_at_first(complete):
  assert {w.strip() for w in complete('simclr-jax ')} == {
    *commands.COMMANDS,
    *commands.ALIASES,
    commands.COMPLETION,
  }
  words = complete('simclr-jax pretrain --')
  assert '--config.' in words and '--config.optim.base_lr=' not in words


def test_zsh_gets_the_same_function(command_listing):
  bash, zsh = (completion.script(s, command_listing) for s in ('bash', 'zsh'))
  assert 'bashcompinit' in zsh and 'bashcompinit' not in bash
  assert (
    zsh.partition('_simclr_jax() {')[2] == bash.partition('_simclr_jax() {')[2]
  )


def test_unknown_shell(capsys):
  assert completion.main(['fish']) == 2
  assert 'bash, zsh' in capsys.readouterr().err
