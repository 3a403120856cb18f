"""Items made ahead in a thread: all of them, in order, and no thread left."""

import threading
import time

import pytest

from simclr_jax.data import background


def threads():
  return [t for t in threading.enumerate() if t.name == 'run_ahead']


@pytest.mark.parametrize('ahead', [1, 3])
def test_everything_comes_in_order(ahead):
  assert list(background.run_ahead(iter(range(20)), ahead=ahead)) == [
    *range(20)
  ]
  assert not threads()


def test_no_further_ahead_than_asked():
  made = []

  def items():
    for i in range(20):
      made.append(i)
      yield i

  running = background.run_ahead(items(), ahead=2)
  assert next(running) == 0
  deadline = time.monotonic() + 10
  while len(made) < 4 and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.2)
  # One used, two waiting, one in the thread's hand.
  assert made == [0, 1, 2, 3]
  running.close()
  assert not threads()


def test_an_error_comes_at_its_place():
  def items():
    yield 1
    yield 2
    raise ValueError('the third')

  running = background.run_ahead(items(), ahead=5)
  assert [next(running), next(running)] == [1, 2]
  with pytest.raises(ValueError, match='the third'):
    next(running)
  assert not threads()


def test_a_forgotten_iterator_ends_its_thread():
  running = background.run_ahead(iter(range(10**9)), ahead=1)
  next(running)
  assert threads()
  del running
  assert not threads()
