"""What --help shows, and that exit codes are those of the documentation."""

from __future__ import annotations

import argparse
import ast
import pathlib
import re
import sys

from absl import flags
import pytest

from simclr_jax import command_help, console
from tests import command_server

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def parser(monkeypatch):
  monkeypatch.setattr(
    sys.modules['__main__'], '__doc__', 'Does a thing.\n', raising=False
  )
  parser = command_help.ArgumentParser()
  parser.add_argument('--workdir', required=True, help='A folder.')
  parser.add_argument('--count', type=int, default=5, help='How many.')
  parser.add_argument('--kind', choices=['a', 'b'], help='Which.')
  parser.add_argument('--fast', action='store_true', help='No rest.')
  return parser


def test_argparse_has_the_same_look(parser, capsys):
  with pytest.raises(SystemExit) as stop:
    parser.parse_args(['--help'])
  assert stop.value.code == 0
  assert capsys.readouterr().out == (
    'Does a thing.\n\nExit codes: 0 done, 1 failed, 2 wrong input.\n\nFlags:\n'
    '  --workdir=...  (required)\n      A folder.\n'
    '  --count=N  (default 5)\n      How many.\n'
    '  --kind=a|b\n      Which.\n'
    '  --[no]fast\n      No rest.\n\n'
    '--help shows this, --helpfull the flags of all libraries too.\n'
  )


def test_argparse_errors_are_one_line(parser, capsys):
  for arguments in (
    [],
    ['--workdir=W', '--coun=3'],
    ['--workdir=W', '--kind=c'],
  ):
    with pytest.raises(SystemExit) as stop:
      parser.parse_args(arguments)
    assert stop.value.code == console.EXIT_WRONG_INPUT
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
  assert parser.parse_args(['--workdir=W']) == argparse.Namespace(
    workdir='W', count=5, kind=None, fast=False
  )


def test_help_behind_two_dashes_is_an_argument():
  command_help.answer(['command', '--', '--help'])


def test_every_flag_of_every_command_is_there(command_listing):
  main = {f['name']: f for f in command_listing['pretrain']['flags']}
  assert main['config']['required'] and main['workdir']['required']
  assert main['distributed']['choices'] == ['auto', 'on', 'off']
  assert main['distributed']['help'].startswith("'auto': join")
  assert main['init_timeout']['default'] == '300.0'
  groups = {name: flag['group'] for name, flag in main.items()}
  assert groups['workdir'] == command_help.OWN_GROUP
  assert groups['coordinator'].startswith('Several processes')
  knn = {f['name'] for f in command_listing['knn']['flags']}
  assert {'knn.ks', 'data.path', 'eval.batch_size', 'step'} <= knn
  for name, found in command_listing.items():
    kinds = {flag['kind'] for flag in found['flags']}
    assert kinds <= {'string', 'int', 'float', 'bool', 'list', 'enum', 'config'}
    assert found['flags'] and all(f['help'] for f in found['flags']), name
    # Not those of the libraries.
    assert not {'logtostderr', 'pdb', 'alsologtostderr'} & {
      flag['name'] for flag in found['flags']
    }


def test_help_is_short_and_says_exit_codes(command_listing):
  for name, found in command_listing.items():
    known = [command_help.Flag(**flag) for flag in found['flags']]
    text = command_help.text(found['doc'], known)
    assert 'exit code' in ' '.join(text.lower().split()), name
    assert max(map(len, text.splitlines())) <= 88, name
    assert text.count('\n') < 120, name
    shown = [flag for flag in known if '.' not in flag.name]
    for flag in shown:
      assert re.search(rf'--(\[no\])?{flag.name}\b', text), (name, flag.name)


def test_help_as_the_shell_sees_it(tmp_path):
  with command_server.Server({}) as server:
    for flag in ('--help', '-h', '--helpshort'):
      done = server.run('knn', [flag], cwd=tmp_path)
      assert done.code == 0 and not done.err
      assert done.out.startswith('kNN: how well')
    full = server.run('knn', ['--helpfull'], cwd=tmp_path)
  assert full.code == 0 and '--[no]pdb' in full.out
  assert len(full.out) > 2 * len(done.out)


def test_choices_of_absl_flags():
  values = flags.FlagValues()
  flags.DEFINE_enum('a', 'x', ['x', 'y'], 'Which.', flag_values=values)
  flags.DEFINE_list('b', ['p', 'q'], 'Some.', flag_values=values)
  assert command_help._from_absl(values['a'], 'G') == command_help.Flag(
    'a', 'G', 'enum', 'x', ('x', 'y'), False, 'Which.'
  )
  assert command_help._from_absl(values['b'], 'G') == command_help.Flag(
    'b', 'G', 'list', 'p,q', (), False, 'Some.'
  )


def _declared_exit_codes() -> dict[str, int]:
  """EXIT_* constants of the whole package."""
  found = {}
  for path in (ROOT / 'simclr_jax').rglob('*.py'):
    for node in ast.parse(path.read_text()).body:
      if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
        for target in node.targets:
          name = target.id if isinstance(target, ast.Name) else ''
          if name.startswith('EXIT_'):
            found[name] = node.value.value
  return found


def test_exit_codes_are_documented():
  text = (ROOT / 'docs/commands.md').read_text()
  rows = re.findall(r'^\| (\d+) \| `(EXIT_\w+)` \|', text, re.MULTILINE)
  documented = {name: int(code) for code, name in rows}
  assert documented == _declared_exit_codes()
  for name in ('FAILED', 'WRONG_INPUT', 'PEER_LOST', 'STOPPED'):
    assert documented[f'EXIT_{name}'] == getattr(console, f'EXIT_{name}')


def test_launchers_page_has_the_same_exit_codes():
  text = (ROOT / 'docs/running.md').read_text()
  codes = {int(c) for c in re.findall(r'^\| (\d+) \|', text, re.MULTILINE)}
  # A plan does not run on a cluster.
  assert codes == {0, *_declared_exit_codes().values()} - {3}
