from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from simclr_jax.training import signals


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_to_stop(number):
  before = signal.getsignal(number)
  with signals.StopRequest() as stop:
    assert not stop.agreed()
    signal.raise_signal(number)
    assert stop.requested
    assert stop.agreed()
  assert signal.getsignal(number) is before


def test_everything_comes_back_after_an_error():
  before = signal.getsignal(signal.SIGTERM)
  threads = threading.active_count()
  read, write = os.pipe()
  os.set_blocking(write, False)
  mine = signal.set_wakeup_fd(write)
  try:
    with pytest.raises(KeyError), signals.StopRequest():
      raise KeyError
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(write) == write
    assert threading.active_count() == threads
  finally:
    signal.set_wakeup_fd(mine)
    os.close(read)
    os.close(write)


def test_one_press_that_comes_twice_is_one():
  with signals.StopRequest() as stop:
    # A terminal tells the process, and a launcher passes it on.
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert stop.agreed()


def test_a_handler_that_comes_late_is_no_second_signal():
  """Under load the pipe is read long before Python's handler runs."""
  with signals.StopRequest() as stop:
    handle = signal.getsignal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    time.sleep(0.3)
    handle(signal.SIGTERM, None)
    assert stop.agreed()


def run(code):
  begin = time.monotonic()
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )
  return done, time.monotonic() - begin


def test_the_second_signal_exits_at_once():
  done, _ = run(
    'import signal, time\n'
    'from simclr_jax.training import signals\n'
    'with signals.StopRequest():\n'
    '  signal.raise_signal(signal.SIGTERM)\n'
    '  time.sleep(0.2)\n'
    '  print("still here", flush=True)\n'
    '  signal.raise_signal(signal.SIGTERM)\n'
    '  time.sleep(60)\n'
    '  print("not here")\n'
  )
  assert done.returncode == 128 + signal.SIGTERM, done.stderr
  assert done.stdout == 'still here\n'
  assert 'exit without a checkpoint' in done.stderr


def test_the_second_signal_does_not_wait_for_the_main_thread():
  done, seconds = run(
    'import ctypes, os, signal, sys, threading, time\n'
    'from simclr_jax.training import signals\n'
    'def tell():\n'
    '  for _ in range(2):\n'
    '    time.sleep(0.3)\n'
    '    os.kill(os.getpid(), signal.SIGINT)\n'
    'libc = ctypes.CDLL(None)\n'
    # As inside of a compiler, which knows nothing of Python: a call that goes
    # on after the signal, so that no handler of Python's runs.
    'libc.siginterrupt(signal.SIGINT, 0)\n'
    'with signals.StopRequest() as stop:\n'
    '  libc.siginterrupt(signal.SIGINT, 0)\n'
    '  threading.Thread(target=tell, daemon=True).start()\n'
    '  read, _ = os.pipe()\n'
    '  libc.read(read, ctypes.create_string_buffer(1), 1)\n'
  )
  assert done.returncode == 128 + signal.SIGINT, done.stderr
  assert 'SIGINT: stopping after this step' in done.stderr
  assert seconds < 60
