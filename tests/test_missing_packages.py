"""A command run by a Python that has none of the packages."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_a_python_without_the_packages_is_told_how_to_install_them():
  # -S: without site-packages.
  done = subprocess.run(
    [sys.executable, '-S', '-m', 'simclr_jax.main', '--help'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2 and not done.stdout
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: ') and 'jax' in line
  assert "'make install'" in line and '.venv/bin/python' in line
