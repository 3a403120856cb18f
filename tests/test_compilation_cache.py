"""Compiled programs between processes: kept, shared, switched off, damaged."""

import os
import pathlib
import subprocess
import sys
import time

import jax
import pytest

from simclr_jax import compilation_cache

ROOT = pathlib.Path(__file__).resolve().parents[1]

# A command in miniature; prints what JAX says about its cache.
PROGRAM = """
import sys
from absl import flags
flags.FLAGS(['program'])
from simclr_jax import console
console.start()
import jax, jax.monitoring
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: jax.numpy.sin(x) @ x.T)(jax.numpy.ones((4, 4)))
hits, misses = (
  sum(event.endswith(name) for event in events)
  for name in ('/cache_hits', '/cache_misses')
)
print('hits', hits, 'misses', misses)
"""


def start(cache_home, **environment):
  variables = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'JAX_ENABLE_COMPILATION_CACHE': 'true',
    # So that a small program is worth a file.
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'XDG_CACHE_HOME': str(cache_home),
    'PYTHONPATH': str(ROOT),
  }
  variables.pop('JAX_COMPILATION_CACHE_DIR', None)
  variables.update(environment)
  return subprocess.Popen(
    [sys.executable, '-c', PROGRAM],
    env=variables,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  """(hits, misses, stderr)."""
  out, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  _, hits, _, misses = out.split()
  return int(hits), int(misses), err


def entries(folder):
  return sorted(pathlib.Path(folder).rglob('*-cache'))


def test_a_second_process_compiles_nothing(tmp_path):
  hits, misses, _ = finish(start(tmp_path))
  assert hits == 0 and misses > 0
  (folder,) = {path.parent for path in entries(tmp_path)}
  assert folder.parent == tmp_path / 'simclr_jax' / 'xla'
  assert len(entries(tmp_path)) == misses
  hits, missed, error = finish(start(tmp_path))
  assert (hits, missed) == (misses, 0)
  # Cut off, as by a crash while it was written: said, and compiled again.
  for path in entries(tmp_path):
    path.write_bytes(path.read_bytes()[:100])
  hits, _, error = finish(start(tmp_path))
  assert hits == 0 and 'Error reading persistent compilation cache' in error


def test_two_processes_at_once(tmp_path):
  processes = [start(tmp_path) for _ in range(2)]
  results = [finish(process) for process in processes]
  assert all(hits + misses > 0 for hits, misses, _ in results)
  assert all('Error' not in error for *_, error in results)
  hits, misses, _ = finish(start(tmp_path))
  assert hits > 0 and misses == 0


def test_jax_settings_come_first(tmp_path):
  off, elsewhere = (
    start(tmp_path / 'home', JAX_ENABLE_COMPILATION_CACHE='false'),
    start(
      tmp_path / 'home', JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'elsewhere')
    ),
  )
  hits, _, _ = finish(off)
  assert hits == 0
  finish(elsewhere)
  assert not entries(tmp_path / 'home')
  assert entries(tmp_path / 'elsewhere')


@pytest.fixture
def enabled():
  """JAX's settings as at a start where nothing is set."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', True)
  yield
  jax.config.update('jax_enable_compilation_cache', before)


def test_unusable_folder_is_a_warning(tmp_path, monkeypatch, caplog, enabled):
  file = tmp_path / 'file'
  file.write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(file))
  assert compilation_cache.enable() is None
  assert jax.config.jax_compilation_cache_dir is None
  assert 'Compiled programs are not kept' in caplog.text


def test_old_entries_go(tmp_path):
  old, new = tmp_path / 'a-cache', tmp_path / 'b-cache'
  for path in (old, new):
    path.write_text('')
  long_ago = time.time() - 91 * 86_400
  os.utime(old, (long_ago, long_ago))
  compilation_cache._remove_old(tmp_path)
  assert entries(tmp_path) == [new]
