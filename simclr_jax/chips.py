"""What accelerators can do at most, as their makers publish it.

One row for each chip; everything that states a utilisation or a least time
reads it from here. A JAX device is a core of TPU v2, v3 and 7x (half a chip)
and a chip otherwise; a v4 topology that is only compiled for has a device for
each core, too, where a real v4 host shows one for each chip.
"""

from __future__ import annotations

import dataclasses
import difflib

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published peaks of one chip.

  Attributes:
    name: In topologies ('v5e' of 'v5e:8x16', 'h100' of 'h100:8').
    device_kind: How `jax.Device.device_kind` begins.
    bfloat16: Dense FLOP/s.
    float32: FLOP/s at JAX's default precision: bfloat16 passes on a TPU, TF32
      on a GPU.
    bandwidth: Bytes/s between the chip and its memory; None where chips of one
      name differ.
    memory: Bytes of that memory; None as above.
    link: Bytes/s between chips, in one direction, all links together; None
      where it is not published.
    devices_per_chip: JAX devices of a chip.
    chips_per_host: Of a host of a slice (of a machine for GPUs).
    platform: 'tpu' or 'gpu'.
  """

  name: str
  device_kind: str
  bfloat16: float
  float32: float
  bandwidth: float | None
  memory: int | None
  link: float | None
  devices_per_chip: int
  chips_per_host: int
  platform: str


def _tpu(
  name: str,
  device_kind: str,
  *,
  tera_flops: float,
  bandwidth: float,
  gib: float,
  link: float | None,
  cores: int = 1,
) -> Chip:
  """A row of the TPUs; bandwidths in 1e9 bytes/s, `link` in both directions."""
  return Chip(
    name=name,
    device_kind=device_kind,
    bfloat16=tera_flops * 1e12,
    float32=tera_flops * 1e12,
    bandwidth=bandwidth * 1e9,
    memory=int(gib * _GIB),
    link=link / 2 * 1e9 if link else None,
    devices_per_chip=cores,
    # Of slices with several hosts, as in libtpu's topologies.
    chips_per_host=4,
    platform='tpu',
  )


def _gpu(
  name: str,
  device_kind: str,
  *,
  tera_flops: float,
  bandwidth: float | None,
  gigabytes: float | None,
  link: float | None,
) -> Chip:
  """A row of the GPUs; TF32 is half of bfloat16, `link` in both directions."""
  return Chip(
    name=name,
    device_kind=device_kind,
    bfloat16=tera_flops * 1e12,
    float32=tera_flops / 2 * 1e12,
    bandwidth=bandwidth * 1e9 if bandwidth else None,
    memory=int(gigabytes * 1e9) if gigabytes else None,
    link=link / 2 * 1e9 if link else None,
    devices_per_chip=1,
    chips_per_host=8,
    platform='gpu',
  )


CHIPS = (
  # docs.cloud.google.com/tpu/docs/v2 gives no figures but names the paper that
  # does: Jouppi et al. 2020, dl.acm.org/doi/10.1145/3360307, table 3 (there
  # 46 TFLOP/s, 16 GiB and 700 GB/s, links of 4 x 496 Gbit/s each way).
  _tpu(
    'v2', 'TPU v2', tera_flops=46, bandwidth=700, gib=16, link=496, cores=2
  ),
  # docs.cloud.google.com/tpu/docs/v3: 123 TFLOP/s, 32 GiB, 900 GB/s. Links from
  # the same paper: 4 x 656 Gbit/s each way.
  _tpu(
    'v3', 'TPU v3', tera_flops=123, bandwidth=900, gib=32, link=656, cores=2
  ),
  # docs.cloud.google.com/tpu/docs/v4: 275 TFLOP/s, 32 GiB, 1200 GB/s.
  _tpu('v4', 'TPU v4', tera_flops=275, bandwidth=1200, gib=32, link=None),
  # docs.cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB, 819 GB/s, ICI 400
  # GB/s in both directions.
  _tpu('v5e', 'TPU v5 lite', tera_flops=197, bandwidth=819, gib=16, link=400),
  _tpu('v5e', 'TPU v5e', tera_flops=197, bandwidth=819, gib=16, link=400),
  # docs.cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 95 GiB, 2765 GB/s, ICI 1200
  # GB/s in both directions.
  _tpu('v5p', 'TPU v5', tera_flops=459, bandwidth=2765, gib=95, link=1200),
  _tpu('v5p', 'TPU v5p', tera_flops=459, bandwidth=2765, gib=95, link=1200),
  # docs.cloud.google.com/tpu/docs/v6e: 918 TFLOP/s, 32 GB, 1638 GB/s, ICI 800
  # GB/s in both directions.
  _tpu('v6e', 'TPU v6 lite', tera_flops=918, bandwidth=1638, gib=32, link=800),
  _tpu('v6e', 'TPU v6e', tera_flops=918, bandwidth=1638, gib=32, link=800),
  # docs.cloud.google.com/tpu/docs/tpu7x: 2307 TFLOP/s, 192 GiB, 7380 GB/s, ICI
  # 1200 GB/s in both directions, two devices for each chip.
  _tpu(
    'tpu7x', 'TPU7x', tera_flops=2307, bandwidth=7380, gib=192, link=1200,
    cores=2,
  ),
  # nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/
  # nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf: 312 TFLOP/s (without
  # sparsity), 40 GB at 1555 GB/s or 80 GB at 2039 (PCIe 1935), NVLink 600 GB/s.
  _gpu(
    'a100', 'NVIDIA A100-SXM4-80GB', tera_flops=312, bandwidth=2039,
    gigabytes=80, link=600,
  ),
  _gpu(
    'a100-40gb', 'NVIDIA A100-SXM4-40GB', tera_flops=312, bandwidth=1555,
    gigabytes=40, link=600,
  ),
  _gpu(
    'a100-pcie', 'NVIDIA A100 80GB PCIe', tera_flops=312, bandwidth=1935,
    gigabytes=80, link=None,
  ),
  _gpu(
    'a100-pcie-40gb', 'NVIDIA A100-PCIE-40GB', tera_flops=312, bandwidth=1555,
    gigabytes=40, link=None,
  ),
  _gpu(
    '', 'NVIDIA A100', tera_flops=312, bandwidth=None, gigabytes=None,
    link=None,
  ),
  # nvidia.com/en-us/data-center/h100 and the data sheets of the SXM and PCIe
  # boards: bfloat16 1979, 1513 and (NVL) 1671 TFLOP/s with sparsity, dense half
  # of it; 80 GB at 3350 GB/s, 80 at 2000, 94 at 3900; NVLink 900 and 600 GB/s.
  _gpu(
    'h100', 'NVIDIA H100', tera_flops=989, bandwidth=3350, gigabytes=80,
    link=900,
  ),
  _gpu(
    'h100-pcie', 'NVIDIA H100 PCIe', tera_flops=756, bandwidth=2000,
    gigabytes=80, link=None,
  ),
  _gpu(
    'h100-nvl', 'NVIDIA H100 NVL', tera_flops=835, bandwidth=3900,
    gigabytes=94, link=600,
  ),
  # nvidia.com/en-us/data-center/h200: as the H100, 141 GB at 4800 GB/s.
  _gpu(
    'h200', 'NVIDIA H200', tera_flops=989, bandwidth=4800, gigabytes=141,
    link=900,
  ),
)  # fmt: skip
# Other chips under the same first words: no figure rather than a wrong one.
_NOT_IN_TABLE = ('TPU v4 lite', 'NVIDIA H200 NVL')


def find(device_kind: str) -> Chip | None:
  """The row of a JAX device's kind; None where there is none (CPU)."""
  if device_kind.startswith(_NOT_IN_TABLE):
    return None
  matches = [c for c in CHIPS if device_kind.startswith(c.device_kind)]
  return max(matches, key=lambda c: len(c.device_kind), default=None)


def named(name: str) -> Chip:
  """The row that a topology names.

  Raises:
    ValueError: If there is none; it lists those there are.
  """
  known = {chip.name: chip for chip in reversed(CHIPS) if chip.name}
  if name not in known:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f' (did you mean {close[0]!r}?)' if close else ''
    raise ValueError(
      f'{name!r} is no accelerator of simclr_jax/chips.py{hint}; known: '
      f'{", ".join(sorted(known))}. Without a published peak there would be no '
      'least time to state'
    )
  return known[name]
