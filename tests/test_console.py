"""Errors on the console: one line for users' mistakes, tracebacks for ours."""

import json
import logging as std_logging
import re
import resource
import sys

from absl import logging
import pytest

from simclr_jax import config as config_lib
from simclr_jax import console, progress_bar


def caught(function):
  try:
    function()
  except ValueError as error:
    return error
  raise AssertionError('nothing was raised')


def test_own_error_is_one_line(capsys):
  error = caught(lambda: config_lib.from_config_dict({'sed': 1}))
  assert console.fail(error, code=2) == 2
  text = capsys.readouterr().err
  assert text.startswith('error: ') and 'Traceback' not in text


def test_error_of_a_library_shows_where(capsys):
  error = caught(lambda: json.loads('{'))
  assert console.fail(error, code=2) == console.EXIT_FAILED
  assert 'Traceback' in capsys.readouterr().err


class Gone:
  """A stderr that nobody reads any more."""

  closed = False

  def write(self, text=''):
    raise BrokenPipeError(32, 'Broken pipe')

  flush = write

  def isatty(self):
    return True


@pytest.mark.parametrize('stderr', [Gone(), None])
def test_a_stderr_that_is_gone_ends_nothing(monkeypatch, stderr):
  monkeypatch.setattr(sys, 'stderr', stderr)
  console.say('wrong')
  monkeypatch.setattr(progress_bar, 'shown', lambda: stderr is not None)
  bar = progress_bar.ProgressBar('Training', 4, unit='steps')
  bar.move(2, 'loss 1')
  bar.clear()
  bar.close()


def record(pathname, level):
  return std_logging.LogRecord('absl', level, pathname, 1, 'text', (), None)


def test_library_notes_are_dropped_and_warnings_stay():
  passes = console._LibraryChatter().filter
  previous = logging.get_verbosity()
  logging.set_verbosity(logging.INFO)
  try:
    assert not passes(record('/x/orbax/checkpoint/a.py', std_logging.INFO))
    assert not passes(record('/x/faiss/loader.py', std_logging.INFO))
    assert passes(record('/x/orbax/checkpoint/a.py', std_logging.WARNING))
    assert passes(record('/x/simclr_jax/training/loop.py', std_logging.INFO))
  finally:
    logging.set_verbosity(previous)


def test_lines_have_the_time_of_day_and_no_thread():
  record = std_logging.LogRecord(
    'absl', std_logging.WARNING, 'a.py', 1, 'seen %d', (3,), None
  )
  line = console._Formatter().format(record)
  assert re.fullmatch(r'\d\d:\d\d:\d\d warning: seen 3', line)


def test_as_many_files_may_be_open_as_the_system_allows():
  before = resource.getrlimit(resource.RLIMIT_NOFILE)
  try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] - 1, before[1]))
    console._allow_open_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
