"""Least times, hours, memory and disk against numbers worked out by hand."""

from __future__ import annotations

import pytest

from simclr_jax import config as config_lib
from simclr_jax.planning import estimate, topology

V5E = topology.parse('v5e:8x16')
V3 = topology.parse('v3:8x8')
CONFIG = config_lib.replace(
  config_lib.Config(), data={'name': 'imagenet2012'}, train={'batch_size': 4096}
)


def test_roofline_of_a_chip():
  least = estimate.roofline(
    V5E,
    compute_dtype='bfloat16',
    flops=1.97e12,
    hbm_bytes=8.19e9,
    collectives={},
  )
  assert least.arithmetic == pytest.approx(0.01)
  assert least.memory == pytest.approx(0.01)
  assert least.links == 0
  more = estimate.roofline(
    V5E,
    compute_dtype='bfloat16',
    flops=1.97e12,
    hbm_bytes=16.38e9,
    collectives={},
  )
  assert (more.bound, more.floor) == ('memory', pytest.approx(0.02))


def test_a_device_of_a_shared_chip_has_half_of_it():
  # 123 TFLOP/s and 900 GB/s for two cores.
  least = estimate.roofline(
    V3,
    compute_dtype='bfloat16',
    flops=61.5e12,
    hbm_bytes=450e9,
    collectives=None,
  )
  assert least.arithmetic == pytest.approx(1.0)
  assert least.memory == pytest.approx(1.0)
  assert least.links is None


def test_links_bound_what_sends_much():
  # v5e: 400 GB/s in both directions, 200 in one; 127/128 twice of 100 GB.
  collectives = {'all-reduce': {'num_bytes': 100e9}}
  least = estimate.roofline(
    V5E,
    compute_dtype='bfloat16',
    flops=1.0,
    hbm_bytes=1.0,
    collectives=collectives,
  )
  assert least.bound == 'links'
  assert least.floor == pytest.approx(2 * 127 / 128 * 100 / 200)


def test_float32_on_a_gpu_is_tf32():
  least = estimate.roofline(
    topology.parse('h100:8'),
    compute_dtype='float32',
    flops=494.5e12,
    hbm_bytes=1.0,
    collectives=None,
  )
  assert least.floor == pytest.approx(1.0)


def test_no_peak_no_time():
  here = topology.local(
    'cpu', platform='cpu', num_devices=8, num_hosts=1, memory_per_device=None
  )
  assert (
    estimate.roofline(
      here,
      compute_dtype='float32',
      flops=1.0,
      hbm_bytes=1.0,
      collectives=None,
    )
    is None
  )


@pytest.mark.parametrize(
  ('kind', 'sent'),
  [
    ('all-reduce', 150.0),  # 2 * 3/4 of 100
    ('all-gather', 75.0),
    ('all-to-all', 75.0),
    ('reduce-scatter', 300.0),  # its result is a quarter of what is summed
    ('collective-permute', 100.0),
  ],
)
def test_wire_bytes_of_four_devices(kind, sent):
  got = estimate.wire_bytes({kind: {'num_bytes': 100}}, num_devices=4)
  assert got == pytest.approx(sent)


def test_hours():
  got = estimate.duration(0.5, total_steps=7200, batch_size=4096, num_chips=64)
  assert (got.hours, got.chip_hours) == (1.0, 64.0)
  assert got.images_per_second == 8192


def test_memory_adds_up_and_is_compared():
  memory = estimate.Memory(
    step=70, next_batch=20, pixels=10, limit=100, available=128
  )
  assert (memory.needed, memory.fits) == (100, True)
  tight = estimate.Memory(
    step=71, next_batch=20, pixels=10, limit=100, available=128
  )
  assert tight.fits is False
  unknown = estimate.Memory(
    step=71, next_batch=20, pixels=10, limit=None, available=None
  )
  assert unknown.fits is None


def test_usable_memory():
  assert estimate.usable_memory(V5E) == 15.75 * 2**30
  # A GPU process takes three quarters by default.
  assert estimate.usable_memory(topology.parse('h100:8')) == 60e9
  here = topology.local(
    'NVIDIA H100', platform='gpu', num_devices=1, num_hosts=1,
    memory_per_device=61,
  )  # fmt: skip
  assert estimate.usable_memory(here) == 61


def test_batch_on_a_device():
  one = 2 * 32 * 3 * 224**2  # Two views of 32 images.
  assert estimate.batch_bytes(CONFIG, num_devices=128) == 4 * one
  on_devices = config_lib.replace(
    CONFIG,
    data={'augment_on': 'hybrid'},
    model={'compute_dtype': 'bfloat16'},
  )
  assert estimate.batch_bytes(on_devices, num_devices=128) == 2 * one


def test_pixels_on_the_devices():
  config = config_lib.replace(
    CONFIG, data={'augment_on': 'device', 'image_size': 32}
  )
  share = {'num_examples': 1000, 'topology': V5E}
  assert estimate.pixel_bytes(CONFIG, **share) == 0
  assert estimate.pixel_bytes(config, **share) == 1000 * 3 * 32**2
  parts = config_lib.replace(config, data={'device_cache': 'sharded'})
  assert estimate.pixel_bytes(parts, **share) == 1000 * 3 * 32**2 / 128
  large = config_lib.replace(config, data={'canvas_size': 256})
  got = estimate.pixel_bytes(large, num_examples=1_000_000, topology=V5E)
  assert got == 1_000_000 * 3 * 256**2 / 128


def test_disk_counts_the_checkpoint_being_written():
  got = estimate.disk(
    config_lib.CheckpointConfig(keep_latest=2, keep_best=1),
    state_bytes=200,
    encoder_bytes=100,
    steps_between=720,
    step_seconds=10.0,
  )
  assert (got.checkpoints, got.at_most) == (4, 1200)
  assert got.hours_between == 2.0
