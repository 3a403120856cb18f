"""How far a long job is: counts, rate and time left, every ten seconds."""

from __future__ import annotations

import datetime
import time

from absl import logging

from simclr_jax import progress_bar

_EVERY_S = 10.0


class Progress:
  """Logs 'Converted 12,000 of 60,000 pictures, 3,400/s, 0:00:14 left'.

  On a terminal it is a bar, which goes when everything is done.
  """

  def __init__(self, verb: str, total: int, *, unit: str = 'pictures'):
    """Starts the clock.

    Args:
      verb: Past tense, begins the sentence.
      total: Units of the whole job.
      unit: What is counted, in the plural.
    """
    self._verb, self._total, self._unit = verb, total, unit
    self._done = 0
    self._start = self._logged = time.monotonic()
    self._bar: progress_bar.ProgressBar | None = None

  def add(self, count: int) -> None:
    """Counts `count` more; logs if the last line is ten seconds old."""
    self._done += count
    if progress_bar.shown():
      self._move()
      return
    now = time.monotonic()
    if now - self._logged < _EVERY_S:
      return
    self._logged = now
    rate = self._done / (now - self._start)
    left = max(self._total - self._done, 0) / max(rate, 1e-9)
    logging.info(
      '%s %s of %s %s, %s/s, %s left',
      self._verb,
      f'{self._done:,}',
      f'{self._total:,}',
      self._unit,
      f'{rate:,.0f}' if rate >= 10 else f'{rate:.2g}',
      datetime.timedelta(seconds=round(left)),
    )

  def _move(self) -> None:
    if self._bar is None:
      self._bar = progress_bar.ProgressBar(
        self._verb, self._total, unit=self._unit
      )
    self._bar.move(self._done)
    if self._done >= self._total:
      self._bar.close()
