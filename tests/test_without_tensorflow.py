"""Pretraining, probe and kNN where nothing of TensorFlow is installed."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip('cloudpickle')
pytest.importorskip('cv2')
pytest.importorskip('pyarrow')

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_runs_end_to_end_without_tensorflow(tmp_path):
  run = subprocess.run(
    [sys.executable, '-m', 'tests.without_tensorflow', tmp_path, '--hide'],
    cwd=ROOT,
    env={
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': '',
      'XDG_CACHE_HOME': str(tmp_path / 'cache'),
    },
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert run.returncode == 0, run.stderr[-3000:]
  result = json.loads(run.stdout.splitlines()[-1])
  assert result['imported'] == []
  assert result['steps'] == [1, 2, 3]
  assert result['sources'] == [
    'digits',
    'procedural',
    'folder',
    'arrays',
    'parquet',
  ]
  assert "data.loader='opencv'" in result['refused']
  # Brightness tells the two classes apart, and even a random network sees it.
  assert result['probe'] > 0.8 and result['knn'] > 0.8
