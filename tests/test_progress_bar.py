"""A bar for whoever looks at a terminal, plain lines for a file."""

from __future__ import annotations

import os
import pathlib
import pty
import re
import subprocess
import sys
import termios

import pytest

from simclr_jax import progress_bar
from simclr_jax.processes import names

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What a long loop does: it counts, something is logged meanwhile, it fails.
_SCRIPT = """
import time
from absl import logging
logging.use_absl_handler()
logging.set_verbosity(logging.INFO)
from simclr_jax import console
from simclr_jax.data import progress
logging.get_absl_handler().addFilter(console._LibraryChatter())
progress._EVERY_S = 0.0
counted = progress.Progress('Encoded', 1000)
for i in range(9):
  counted.add(100)
  if i == 4:
    logging.info('checkpoint %d', 5)
  time.sleep(0.3)
console.say('the disk is full')
"""


def _run(stderr: int) -> None:
  subprocess.run(
    [sys.executable, '-c', _SCRIPT],
    cwd=ROOT,
    env={**os.environ, 'TERM': 'xterm', 'COLUMNS': '80'},
    stderr=stderr,
    check=True,
    timeout=120,
  )


@pytest.fixture(scope='module')
def on_terminal() -> str:
  """What the script writes to a terminal."""
  ours, theirs = pty.openpty()
  termios.tcsetwinsize(theirs, (24, 80))
  _run(theirs)
  os.close(theirs)
  pieces = []
  while True:
    try:
      pieces.append(os.read(ours, 65536))
    except OSError:  # The other end is closed.
      break
    if not pieces[-1]:
      break
  os.close(ours)
  return b''.join(pieces).decode()


def test_a_terminal_gets_a_bar_and_whole_lines(on_terminal):
  assert re.search(r'\rEncoded: [^\r]* [1-9]00/1000 \[', on_terminal)
  assert 'Encoded 500 of 1,000 pictures' not in on_terminal
  # As a terminal shows it: what stands on a line last.
  lines = [part.split('\r')[-1] for part in on_terminal.split('\r\n')]
  assert [line for line in lines if line.endswith('] checkpoint 5')]
  assert 'error: the disk is full' in lines


def test_a_file_gets_lines(tmp_path):
  log = tmp_path / 'log'
  with log.open('w') as file:
    _run(file.fileno())
  text = log.read_text()
  assert '\r' not in text and '%|' not in text
  assert text.count('Encoded ') == 9
  assert 'Encoded 500 of 1,000 pictures, ' in text
  assert text.endswith('error: the disk is full\n')


@pytest.fixture
def terminal(monkeypatch):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  monkeypatch.setenv('TERM', 'xterm')
  monkeypatch.setattr(progress_bar, '_columns', lambda: 80)


def test_only_the_first_process_has_it(terminal):
  assert progress_bar.shown()
  names.remember(['a', 'b'], own=1)
  assert not progress_bar.shown()
  names.remember([], own=0)
  assert progress_bar.shown()


def test_a_terminal_that_cannot_go_back_gets_lines(terminal, monkeypatch):
  monkeypatch.setattr(progress_bar, '_columns', lambda: 0)
  assert not progress_bar.shown()
  monkeypatch.undo()
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  monkeypatch.setattr(progress_bar, '_columns', lambda: 80)
  monkeypatch.setenv('TERM', 'dumb')
  assert not progress_bar.shown()


def test_bars_move_and_end(capfd, monkeypatch):
  monkeypatch.setattr(progress_bar, 'shown', lambda: True)
  bar = progress_bar.ProgressBar('Pretraining', 10, unit='steps', start=4)
  bar.move(7, 'loss 5.1')
  assert bar._bar.n == 7 and bar._bar.initial == 4
  assert progress_bar._bars == [bar]
  bar.close()
  bar.close()
  assert not progress_bar._bars
  bar.move(9)


def test_without_a_terminal_nothing_is_drawn(capfd):
  bar = progress_bar.ProgressBar('Pretraining', 10, unit='steps')
  bar.move(7, 'loss 5.1')
  bar.close()
  assert capfd.readouterr() == ('', '')
