"""The table of published peaks."""

from __future__ import annotations

import pytest

from simclr_jax import chips


@pytest.mark.parametrize(
  ('kind', 'name', 'flops', 'bandwidth'),
  [
    ('TPU v3', 'v3', 123e12, 900e9),
    ('TPU v5 lite', 'v5e', 197e12, 819e9),
    ('TPU v5', 'v5p', 459e12, 2765e9),
    ('TPU v5p', 'v5p', 459e12, 2765e9),
    ('TPU v6 lite', 'v6e', 918e12, 1638e9),
    ('TPU7x', 'tpu7x', 2307e12, 7380e9),
    ('NVIDIA H200', 'h200', 989e12, 4800e9),
    ('NVIDIA H100 80GB HBM3', 'h100', 989e12, 3350e9),
    ('NVIDIA H100 PCIe', 'h100-pcie', 756e12, 2000e9),
    ('NVIDIA A100-SXM4-40GB', 'a100-40gb', 312e12, 1555e9),
    ('NVIDIA A100-SXM4-80GB', 'a100', 312e12, 2039e9),
    # A size that is not known: no bandwidth rather than a wrong one.
    ('NVIDIA A100-SXM-64GB', '', 312e12, None),
  ],
)
def test_found_by_device_kind(kind, name, flops, bandwidth):
  chip = chips.find(kind)
  assert (chip.name, chip.bfloat16) == (name, flops)
  assert chip.bandwidth == bandwidth


@pytest.mark.parametrize('kind', ['cpu', 'TPU v4 lite', 'NVIDIA H200 NVL'])
def test_unknown_devices_have_no_row(kind):
  assert chips.find(kind) is None


def test_named_says_what_there_is():
  assert chips.named('h200').memory == 141_000_000_000
  assert chips.named('v3').memory == 32 * 2**30
  with pytest.raises(ValueError, match="mean 'v5p'.*known: a100"):
    chips.named('v5')


def test_names_and_kinds_lead_to_the_same_chip():
  """Two spellings of one chip must not drift apart."""
  for chip in chips.CHIPS:
    if chip.name:
      named = chips.named(chip.name)
      peaks = (named.bfloat16, named.bandwidth, named.memory, named.link)
      assert peaks == (chip.bfloat16, chip.bandwidth, chip.memory, chip.link)
