"""Which reads are tried again, for how long, and with how many words."""

from __future__ import annotations

import errno
import logging

import pytest

from simclr_jax import retries
from tests import flaky


@pytest.fixture
def clock(monkeypatch):
  return flaky.Clock(monkeypatch)


def failing(clock, until):
  def read():
    if clock.now < until:
      flaky.refuse()
    return 'pixels'

  return read


def test_what_the_system_refused_is_read_again_with_one_warning(clock, caplog):
  caplog.set_level(logging.WARNING, logger='absl')
  until = clock.now + 30
  for _ in range(3):
    assert retries.retry(failing(clock, until), what='x.png') == 'pixels'
  assert until <= clock.now < until + retries._LONGEST_PAUSE
  (record,) = caplog.records
  assert 'x.png cannot be read: OSError: [Errno 5]' in record.getMessage()


def test_in_the_end_it_is_named_and_all_end_together(clock):
  forever, begin = failing(clock, 1e9), clock.now
  with pytest.raises(retries.DataAway, match=r'x\.png .*tried again for 60 s'):
    retries.retry(forever, what='x.png')
  assert clock.now == begin + 60
  # One that begins to fail now does not hold up the end for as long again.
  with pytest.raises(retries.DataAway):
    retries.retry(forever)
  assert clock.now == begin + 60
  clock.now += 61
  assert retries.retry(failing(clock, clock.now + 30)) == 'pixels'


def test_a_request_to_stop_ends_the_wait(clock):
  told = []
  with (
    retries.listening(lambda: clock.now > 1003, told.append, at_most=1e9),
    pytest.raises(retries.DataAway, match='asked to stop') as raised,
  ):
    retries.retry(failing(clock, 1e9))
  assert clock.now < 1004 and told == [raised.value]


def test_a_run_may_shorten_it_and_gets_the_rest_back(clock):
  with retries.listening(lambda: False, lambda error: None, at_most=5):
    with pytest.raises(retries.DataAway):
      retries.retry(failing(clock, 1e9))
  assert clock.now == 1005 and retries.limit == 60


@pytest.mark.parametrize(
  'error,system,at_start',
  [
    (OSError(errno.EIO, 'x'), True, True),
    (OSError(errno.ESTALE, 'x'), True, True),
    (OSError(errno.EMFILE, 'x'), True, True),
    (TimeoutError('x'), True, True),
    (FileNotFoundError(errno.ENOENT, 'x'), True, False),
    (PermissionError(errno.EACCES, 'x'), True, False),
    (OSError('image file is truncated'), False, False),
    # A damaged file names a place before its beginning.
    (OSError(errno.EINVAL, 'x'), False, False),
    (retries.DataAway('x'), False, False),
    (ValueError('x'), False, False),
    (MemoryError(), False, False),
  ],
)
def test_what_says_something_about_the_data_is_raised(
  clock, error, system, at_start
):
  assert retries.is_system(error) == system
  assert retries.may_pass(error) == at_start

  def read():
    raise error

  with pytest.raises(retries.DataAway if at_start else type(error)):
    retries.open_data(read)


def test_what_remote_storage_refuses_passes():
  tf = pytest.importorskip('tensorflow')
  assert retries.is_system(tf.errors.UnavailableError(None, None, 'x'))
  assert not retries.is_system(tf.errors.DataLossError(None, None, 'x'))


def test_the_limit_on_open_files_is_named():
  assert 'ulimit -n' in retries.describe(OSError(errno.EMFILE, 'x'))


def test_a_failure_comes_in_its_place():
  def items():
    yield from range(3)
    flaky.refuse()

  ahead = retries.one_ahead(items())
  assert [next(ahead) for _ in range(3)] == [0, 1, 2]
  with pytest.raises(OSError):
    next(ahead)
  assert list(retries.one_ahead(iter(()))) == []
