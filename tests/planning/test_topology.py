"""Names of devices."""

from __future__ import annotations

import pytest

from simclr_jax.planning import topology


@pytest.mark.parametrize(
  ('text', 'devices', 'chips', 'hosts', 'memory'),
  [
    ('v5e:8x16', 128, 128, 32, 16 * 2**30),
    ('v5e:1x1', 1, 1, 1, 16 * 2**30),
    ('v3:8x8', 128, 64, 16, 16 * 2**30),
    # libtpu compiles for its two cores.
    ('v4:2x2x1', 8, 4, 1, 16 * 2**30),
    ('v5p:4x4x4', 64, 64, 16, 95 * 2**30),
    ('tpu7x:2x2x1', 8, 4, 1, 96 * 2**30),
    ('h200:8', 8, 8, 1, 141 * 10**9),
    ('a100-40gb:12', 12, 12, 2, 40 * 10**9),
  ],
)
def test_parse(text, devices, chips, hosts, memory):
  got = topology.parse(text)
  assert (got.num_devices, got.num_chips, got.num_hosts) == (
    devices, chips, hosts,
  )  # fmt: skip
  assert got.memory_per_device == memory


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('v5e', 'neither .local. nor of the form'),
    ('v5e:', 'nor of the form'),
    ('v5e:8x', 'nor of the form'),
    ('v5e:0x4', 'no chips'),
    ('h100:2x4', "no grid; write 'h100:8'"),
    ('h1000:8', "mean 'h100'"),
    ('rm -rf:8', 'nor of the form'),
  ],
)
def test_refused(text, message):
  with pytest.raises(ValueError, match=message):
    topology.parse(text)


def test_twice_as_many():
  more = topology.scaled(topology.parse('v3:8x8'), 2)
  assert (more.num_devices, more.num_chips, more.num_hosts) == (256, 128, 32)
  two = topology.scaled(topology.parse('h200:1'), 16)
  assert (two.num_devices, two.num_hosts) == (16, 2)


def test_devices_here_without_a_published_peak():
  here = topology.local(
    'cpu', platform='cpu', num_devices=8, num_hosts=1, memory_per_device=7
  )
  assert here.chip is None and here.memory_per_device == 7
  assert here.label == '8 x cpu on 1 host'
