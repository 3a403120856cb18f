"""Who is still there, without JAX: threads of this process play processes."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time

import pytest

from simclr_jax.processes import addresses, line, peers

NAMES = ['process 0', 'process 1', 'process 2']
TOKEN = 'secret'


@pytest.fixture(autouse=True)
def _short_goodbyes(monkeypatch):
  """These spokes do not end when they are told to."""
  for module in (line, peers):
    monkeypatch.setattr(module, 'GOODBYE_SECONDS', 0.5)


class Group:
  """A hub and two spokes; `lost[k]` holds what process k was told."""

  def __init__(self, timeout):
    self.lost = [queue.Queue() for _ in NAMES]
    self.codes = {}
    self.hub = peers.Hub(token=TOKEN, timeout=timeout, on_lost=self.hear_in(0))
    self.hub.accept(NAMES)
    self.spokes = {k: self.join(k, timeout) for k in (1, 2)}

  def hear_in(self, process):
    def on_lost(why, code):
      self.codes[process] = code
      self.lost[process].put(why)

    return on_lost

  def join(self, process, timeout, token=TOKEN):
    return peers.Spoke(
      [('127.0.0.1', self.hub.port)],
      process=process,
      token=token,
      name=NAMES[0],
      timeout=timeout,
      on_lost=self.hear_in(process),
    )

  def told(self, process):
    return self.lost[process].get(timeout=30)

  def close(self):
    watched = [spoke._hub for spoke in self.spokes.values()]
    for end in (*watched, *self.hub._spokes.values()):
      end.left.set()
      end.line.hang_up()
    self.hub._listener.close()


@pytest.fixture
def make_group():
  groups = []

  def make(timeout):
    groups.append(Group(timeout))
    return groups[-1]

  yield make
  for group in groups:
    group.close()


def cut(spoke):
  """As the operating system does with the sockets of a killed process."""
  connection = spoke._hub.line._connection
  spoke._hub.left.set()
  connection.shutdown(socket.SHUT_RDWR)


def test_a_process_that_dies_is_named_to_all_others(make_group):
  group = make_group(timeout=60)
  cut(group.spokes[1])
  for process in (0, 2):
    assert group.told(process).startswith('process 1 ended without a word')
  assert group.lost[1].empty() and group.codes == {0: None, 2: None}


def test_a_process_that_is_silent_is_lost(make_group):
  group = make_group(timeout=0.5)
  group.spokes[2]._hub.line.send = lambda **message: True
  for process in (0, 1):
    assert 'process 2 has given no sign of life for 0.5 s' in group.told(
      process
    )


def test_what_failed_is_passed_on(make_group):
  group = make_group(timeout=60)
  group.spokes[1].fail('the disk is on fire', code=1)
  for process in (0, 2):
    assert group.told(process) == 'process 1 failed: the disk is on fire'
  assert group.codes == {0: 1, 2: 1}


def test_what_failed_in_the_first_process_is_passed_on(make_group):
  group = make_group(timeout=60)
  group.hub.fail('no loss', code=2)
  for process in (1, 2):
    assert group.told(process) == 'process 0 failed: no loss'
  assert group.lost[0].empty() and group.codes == {1: 2, 2: 2}


def test_who_says_goodbye_is_not_lost(make_group):
  group = make_group(timeout=0.5)
  group.spokes[1].leave()
  group.hub.leave()
  group.spokes[2].leave()
  time.sleep(1.2)
  assert all(lost.empty() for lost in group.lost)


def test_the_first_waits_until_its_goodbye_is_read():
  """Ending before, with something unread, it would reset the connections."""
  hub = peers.Hub(token=TOKEN, timeout=60, on_lost=lambda why, code: None)
  hub.accept(NAMES)
  with socket.create_connection(('127.0.0.1', hub.port)) as slow:
    hello = {'process': 1, 'token': TOKEN}
    slow.sendall(json.dumps(hello).encode() + b'\n')
    assert b'welcome' in slow.recv(1000)
    leaving = threading.Thread(target=hub.leave)
    leaving.start()
    slow.sendall(b'{"alive": true}\n')
    leaving.join(0.3)
    assert leaving.is_alive()
    received = b''
    while b'left' not in received:
      received += slow.recv(1000)
  leaving.join(10)
  assert not leaving.is_alive()


def test_strangers_are_hung_up_on(make_group):
  group = make_group(timeout=60)
  with pytest.raises(OSError, match='no process of this run answers'):
    group.join(1, 60, token='guessed')
  with socket.create_connection(('127.0.0.1', group.hub.port)) as stranger:
    stranger.sendall(b'GET / HTTP/1.1\r\n\r\n')
    assert stranger.recv(100) == b''
  assert all(lost.empty() for lost in group.lost)


def test_nobody_listens():
  with socket.socket() as closed:
    closed.bind(('127.0.0.1', 0))
    with pytest.raises(OSError, match='127.0.0.1:'):
      peers.Spoke(
        [('127.0.0.1', closed.getsockname()[1])],
        process=1,
        token=TOKEN,
        name=NAMES[0],
        timeout=60,
        on_lost=lambda why, code: None,
      )


def test_own_addresses_reach_this_host():
  found = addresses.own_addresses()
  assert socket.gethostname() in found and found[-1] == '127.0.0.1'
