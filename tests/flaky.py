"""A clock and a system for tests of reads that fail for a while."""

from __future__ import annotations

import errno
import os

from simclr_jax import retries


class Clock:
  """Time that passes only where somebody sleeps."""

  def __init__(self, monkeypatch):
    self.now = 1000.0
    monkeypatch.setattr(retries, '_clock', lambda: self.now)
    monkeypatch.setattr(retries, '_sleep', self.sleep)
    monkeypatch.setattr(retries, '_episode', retries._Episode())

  def sleep(self, seconds):
    self.now += seconds


def refuse(number=errno.EIO, path='/disk/x'):
  """Raises what the system says."""
  raise OSError(number, os.strerror(number), str(path))
