"""The script with all commands: complete, quick, and clear about mistakes."""

from __future__ import annotations

import importlib.util
import pathlib
import runpy
import subprocess
import sys

import pytest

from simclr_jax import commands

PACKAGE = pathlib.Path(commands.__file__).parent


def _command_files() -> set[str]:
  return {
    path.stem
    for path in PACKAGE.glob('*.py')
    if "if __name__ == '__main__'" in path.read_text()
    and path.stem != '__main__'
  }


def test_every_command_file_has_a_row():
  assert {c.module for c in commands.COMMANDS.values()} == _command_files()


def test_each_has_a_short_summary():
  for name, command in commands.COMMANDS.items():
    assert importlib.util.find_spec(f'simclr_jax.{command.module}')
    assert 10 < len(command.summary) < 58, name
    assert not command.summary.endswith('.'), name


def test_names_that_are_not_modules_do_not_hide_one():
  hidden = (set(commands.COMMANDS) | set(commands.ALIASES)) & _command_files()
  for name in hidden:
    assert commands.find(name).module == name


def test_imports_nothing_before_it_knows_the_command():
  code = (
    'import sys; from simclr_jax import commands; '
    "code = commands.main(['--help']); "
    "heavy = {'jax', 'absl', 'numpy', 'ml_collections'} & set(sys.modules); "
    'sys.exit(str(heavy) if heavy else code)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=PACKAGE.parent,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  for name in commands.COMMANDS:
    assert f'\n  {name} ' in done.stdout


@pytest.mark.parametrize(
  'given,closest',
  [('pretrane', 'pretrain'), ('lineer-probe', 'linear_probe'), ('nkn', 'knn')],
)
def test_unknown_command_offers_the_closest(given, closest, capsys):
  assert commands.main([given, '--workdir=W']) == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1
  assert f'did you mean {closest!r}?' in error
  assert all(name in error for name in commands.COMMANDS)


def test_no_command_at_all(capsys):
  assert commands.main([]) == 2
  assert 'simclr-jax COMMAND' in capsys.readouterr().err


@pytest.mark.parametrize(
  'given,module',
  [
    (['pretrain', '--a=1'], 'main'),
    (['main', '--a=1'], 'main'),
    (['linear-probe', '--a=1'], 'linear_probe'),
    (['linear_probe', '--a=1'], 'linear_probe'),
  ],
)
def test_runs_the_module_with_the_arguments(given, module, monkeypatch):
  ran = []
  monkeypatch.setattr(sys, 'argv', ['as it was'])
  monkeypatch.setattr(
    runpy, 'run_module', lambda name, **k: ran.append((name, sys.argv[1:], k))
  )
  assert commands.main(given) == 0
  assert ran == [
    (
      f'simclr_jax.{module}',
      ['--a=1'],
      {'run_name': '__main__', 'alter_sys': True},
    )
  ]


def test_the_script_is_declared():
  text = (PACKAGE.parent / 'pyproject.toml').read_text()
  assert "simclr-jax = 'simclr_jax.commands:main'" in text
