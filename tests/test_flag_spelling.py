"""Dashes in the names of flags are underscores, and nothing else changes."""

from __future__ import annotations

import pytest

from simclr_jax import flag_spelling
from tests import command_server

KNOWN = ('check_recipe', 'workdir', 'no_way', 'data_dir')


@pytest.mark.parametrize(
  'given,want',
  [
    ('--check-recipe', '--check_recipe'),
    ('-check-recipe', '--check_recipe'),
    ('--nocheck-recipe', '--nocheck_recipe'),
    ('--no-check-recipe', '--nocheck_recipe'),
    ('--no-way', '--no_way'),
    ('--data-dir=/a-b', '--data_dir=/a-b'),
    ('--workdir=a-b', '--workdir=a-b'),
    # Not known: whoever reads it says so, in the words that were given.
    ('--check-recipes', '--check-recipes'),
    ('check-recipe', 'check-recipe'),
    ('--config.train.batch-size=3', '--config.train.batch-size=3'),
  ],
)
def test_spelling(given, want):
  assert flag_spelling.underscored([given], KNOWN) == [want]


def test_behind_two_dashes_nothing_is_a_flag():
  given = ['--check-recipe', '--', '--check-recipe']
  assert flag_spelling.underscored(given, KNOWN) == [
    '--check_recipe',
    *given[1:],
  ]


def test_the_commands_take_both(tmp_path):
  """Each gets as far as the workdir or the config that is wrong."""
  with command_server.Server({}) as server:
    for dashed in ('--check-recipe', '--check_recipe', '--nocheck-recipe'):
      done = server.run('report', ['--workdir=none', dashed], cwd=tmp_path)
      assert done.code == 2 and 'none' in done.err, done.err
      done = server.run(
        'main', ['--config=none.py', '--workdir=w', dashed], cwd=tmp_path
      )
      assert done.code == 2 and 'none.py does not exist' in done.err
    unknown = server.run(
      'report', ['--workdir=none', '--check-recipes'], cwd=tmp_path
    )
  assert unknown.code == 2 and '--check-recipes' in unknown.err
