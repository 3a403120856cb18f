"""Commands of argparse look and behave like those of absl."""

from __future__ import annotations

import argparse
import sys

import pytest

from simclr_jax import command_parser, console


@pytest.fixture
def parser(monkeypatch):
  monkeypatch.setattr(
    sys.modules['__main__'], '__doc__', 'Does a thing.\n', raising=False
  )
  parser = command_parser.ArgumentParser()
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


@pytest.mark.parametrize(
  'given,fast',
  [
    ([], False),
    (['--fast'], True),
    (['--nofast'], False),
    (['--fast', '--nofast'], False),
    (['--nofast', '--fast'], True),
  ],
)
def test_a_switch_can_be_turned_off_as_the_help_says(parser, given, fast):
  assert parser.parse_args(['--workdir=W', *given]).fast is fast


def test_dashes_in_names_are_underscores():
  parser = command_parser.ArgumentParser()
  parser.add_argument('--check_recipe', action='store_true')
  parser.add_argument('--labels_per_class', type=int)
  given = parser.parse_args(['--check-recipe', '--labels-per-class=3'])
  assert given == argparse.Namespace(check_recipe=True, labels_per_class=3)
  given = parser.parse_args(['--check-recipe', '--nocheck-recipe'])
  assert given.check_recipe is False
