from __future__ import annotations

import queue
import time

import pytest

from simclr_jax.training import watchdog as watchdog_lib


def test_says_where_a_step_hangs():
  told = queue.Queue()
  with watchdog_lib.Watchdog(0.3, on_stall=told.put) as watchdog:
    watchdog.beat()
    text = told.get(timeout=30)
  assert text.startswith('no step has ended for 0.3 s (--stall_timeout')


def test_only_steps_are_timed():
  told = queue.Queue()
  with watchdog_lib.Watchdog(0.3, on_stall=told.put) as watchdog:
    time.sleep(0.7)  # compiles: no beat yet
    watchdog.beat()
    with watchdog.paused():
      time.sleep(0.7)
    for _ in range(7):
      watchdog.beat()
      time.sleep(0.1)
  time.sleep(0.5)
  assert told.empty()


def test_watches_the_next_run_too():
  told = queue.Queue()
  watchdog = watchdog_lib.Watchdog(0.3, on_stall=told.put)
  with watchdog:
    watchdog.beat()
  with watchdog:
    time.sleep(0.7)  # compiles: the beats of the run before do not count
    assert told.empty()
    watchdog.beat()
    assert told.get(timeout=30).startswith('no step has ended for 0.3 s')


def test_off():
  with watchdog_lib.Watchdog() as watchdog:
    watchdog.beat()
  with pytest.raises(ValueError, match='--stall_timeout=-1'):
    watchdog_lib.Watchdog(-1)
