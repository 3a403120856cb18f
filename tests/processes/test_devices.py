"""JAX_PLATFORMS names what is not there: one line, before anything is read."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.command_server import ROOT


@pytest.mark.parametrize(
  'platform,arguments',
  [
    ('nonsense', ['duplicates', '--embeddings=none']),
    ('cuda', ['main', '--config=configs/smoke.py', '--workdir={}']),
  ],
)
def test_a_platform_that_is_not_there(platform, arguments, tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'simclr_jax', *arguments[:1]]
    + [a.format(tmp_path / 'run') for a in arguments[1:]],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': platform},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith(
    f'error: JAX_PLATFORMS={platform}, but here are only cpu'
  )
  assert done.stderr.count('\n') == 1 and 'unset' in done.stderr
  assert not (tmp_path / 'run').exists()
