"""A bounded part of `benchmarks.fuzz`, the same inputs every time."""

from __future__ import annotations

import subprocess
import sys
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

pytest.importorskip('cv2')
pytest.importorskip('pyarrow')

from benchmarks import fuzz, fuzz_mutation, fuzz_targets

_NUMBERS = st.integers(0, 10**9)
_SETTINGS = settings(
  max_examples=120,
  derandomize=True,
  deadline=None,
  database=None,
  suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
  """TensorFlow decodes in the real runs: it takes seconds to start."""
  monkeypatch.setenv('SIMCLR_JAX_FUZZ_TENSORFLOW', '0')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))


@pytest.mark.parametrize('target', ['config', 'images', 'parquet', 'arrays'])
@pytest.mark.filterwarnings('ignore')  # Of Pillow, about odd EXIF blocks.
def test_inputs_changed_at_random_are_answered(target):
  answers = set()

  @_SETTINGS
  @given(_NUMBERS)
  def check(number):
    found = fuzz.answer(target, 0, number)
    answers.add(found.split(':')[0])
    assert not found.startswith('FAILED'), found

  check()
  assert answers == {'ok', 'refused'}


def test_what_should_not_happen_is_seen(monkeypatch):
  def broken(rng, folder):
    raise KeyError(str(folder))

  monkeypatch.setitem(fuzz_targets.TARGETS, 'config', broken)
  found = fuzz.answer('config', 0, 0)
  assert found.startswith('FAILED: KeyError at test_fuzz.py:')
  assert 'FOLDER' in found


def test_a_crash_and_a_hang_are_seen(monkeypatch):
  """By a worker that answers twice and then ends as it is told."""
  script = """
import json, sys, time
for line in ([0, None], [0, 'ok'], [1, None]):
  print(json.dumps(line), flush=True)
if sys.argv[1] == 'hang':
  time.sleep(60)
import os, signal
os.kill(os.getpid(), signal.SIGSEGV)
"""
  popen = subprocess.Popen
  options = type('Options', (), {'limit': 1.0})
  for kind, what in (('crash', 'ended with -11'), ('hang', 'no answer within')):
    monkeypatch.setattr(
      fuzz.subprocess,
      'Popen',
      lambda command, kind=kind, **more: popen(
        [sys.executable, '-c', script, kind], **more
      ),
    )
    found = list(fuzz._one_worker(options, 0, time.monotonic() + 30))
    assert found[0] == (0, 'ok')
    assert found[1][0] == 1 and what in found[1][1]


def test_inputs_depend_on_seed_and_number_alone():
  def made(seed):
    rng = np.random.default_rng([seed, 7])
    return fuzz_mutation.mutate(b'abcdef' * 9, rng, others=(b'xyz',))

  assert made(0) == made(0) != made(1)
