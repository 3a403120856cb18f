from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from simclr_jax.training import failures


def test_record_of_a_gradient_that_is_no_number(tmp_path):
  with pytest.raises(failures.NonFiniteLoss) as caught:
    failures.record_non_finite(
      tmp_path,
      step=12,
      metrics={'loss': 0.5, 'grad_norm': float('nan')},
      example_ids=['cat/1.jpg', 'dog/2.jpg'],
      last_good_step=10,
    )
  path = tmp_path / 'failure-step-12.json'
  good = str(tmp_path / 'checkpoints' / '10')
  assert json.loads(path.read_text()) == {
    'step': 12,
    'loss': 0.5,
    'metrics': {'loss': 0.5, 'grad_norm': 'NaN'},
    'last_good_checkpoint': good,
    'example_ids': ['cat/1.jpg', 'dog/2.jpg'],
  }
  message = 'loss is 0.5 and the gradient norm nan at step 12'
  for part in (message, good, str(path)):
    assert part in str(caught.value)


def test_record_without_a_checkpoint(tmp_path):
  with pytest.raises(failures.NonFiniteLoss, match='none was saved yet'):
    failures.record_non_finite(
      tmp_path,
      step=2,
      metrics={'loss': float('inf'), 'grad_norm': 1.0},
      example_ids=[],
      last_good_step=0,
    )
  record = json.loads((tmp_path / 'failure-step-2.json').read_text())
  assert record['last_good_checkpoint'] is None


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_to_stop(number):
  before = signal.getsignal(number)
  with failures.StopRequest() as stop:
    assert not stop.agreed(1)
    signal.raise_signal(number)
    assert stop.requested
    assert stop.agreed(2)
  assert signal.getsignal(number) is before


def test_handlers_come_back_after_an_error():
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(KeyError), failures.StopRequest():
    raise KeyError
  assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_signal_exits_at_once():
  code = (
    'import signal\n'
    'from simclr_jax.training import failures\n'
    'with failures.StopRequest():\n'
    '  signal.raise_signal(signal.SIGTERM)\n'
    '  print("still here", flush=True)\n'
    '  try:\n'
    '    signal.raise_signal(signal.SIGTERM)\n'
    '  finally:\n'
    '    print("not here")\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )
  assert done.returncode == 128 + signal.SIGTERM, done.stderr
  assert done.stdout == 'still here\n'
  assert 'exit without a checkpoint' in done.stderr
