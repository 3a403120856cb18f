"""After a read that failed nothing is left that could complain."""

from __future__ import annotations

import gc
import sys
import time

import pytest

from simclr_jax.training import checkpoint
from tests import small_run


def test_no_read_reports_to_a_loop_that_is_gone(tmp_path, monkeypatch):
  """Each of these readings left some four tracebacks on stderr."""
  small_run.save_small_run(tmp_path)
  arrays = (tmp_path / 'checkpoints' / '3' / 'encoder').rglob('*')
  largest = max(arrays, key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:100])
  said = []
  monkeypatch.setattr(sys, 'unraisablehook', said.append)
  for _ in range(5):
    with pytest.raises(checkpoint.DamagedCheckpoint):
      checkpoint.load_encoder(tmp_path)
  gc.collect()
  time.sleep(0.2)
  assert said == []
