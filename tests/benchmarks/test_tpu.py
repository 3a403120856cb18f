"""The TPU benchmark's reading of programs, options and results; no libtpu."""

from __future__ import annotations

import json

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from benchmarks import hlo, tpu_page, tpu_variants
from simclr_jax import config as config_lib
from simclr_jax.training import progress

# What TPU programs hold: tuple types with comments, layouts with brackets,
# copies into fast memory, S(1), asynchronous collectives, a loop.
TEXT = """HloModule jit_f, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%body (state: (s32[], bf16[4,2])) -> (s32[], bf16[4,2]) {
  %state = (s32[], bf16[4,2]{1,0:T(8,128)(2,1)}) parameter(0)
  %x = bf16[4,2]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %i = s32[] get-tuple-element(%state), index=0
  %y = bf16[4,2]{1,0:T(8,128)(2,1)} collective-permute(%x), channel_id=9
  ROOT %out = (s32[], bf16[4,2]{1,0}) tuple(%i, %y)
}

%condition (state: (s32[], bf16[4,2])) -> pred[] {
  %state = (s32[], bf16[4,2]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (p: f32[8], q: bf16[4,2]) -> f32[8] {
  %p = f32[8]{0:T(128)} parameter(0)
  %q = bf16[4,2]{1,0:T(8,128)(2,1)} parameter(1)
  %copy-start.1 = (f32[8]{0:T(128)S(1)}, f32[8]{0:T(128)}, u32[]{:S(2)}) copy-start(%p)
  %copy-done.1 = f32[8]{0:T(128)S(1)} copy-done(%copy-start.1)
  %slice-start.2 = ((f32[8]{0:T(128)}), f32[2]{0:T(128)S(1)}, s32[]{:S(2)}) slice-start(%p), slice={[0:2]}
  %slice-done.2 = f32[2]{0:T(128)S(1)} slice-done(%slice-start.2)
  %fusion.3 = f32[8]{0:T(128)} fusion(%copy-done.1), kind=kLoop, calls=%add
  %ar-start = (f32[8]{0:T(128)}, /*index=1*/f32[]{:T(128)}) all-reduce-start(%fusion.3, %fusion.3), to_apply=%add
  %ar-done = (f32[8]{0:T(128)}, f32[]{:T(128)}) all-reduce-done(%ar-start)
  %g = f32[8]{0:T(128)} get-tuple-element(%ar-done), index=0
  %ag-start = (f32[8]{0:T(128)}, f32[16]{0:T(128)}) all-gather-start(%g), dimensions={0}
  %ag-done = f32[16]{0:T(128)} all-gather-done(%ag-start)
  %zero = s32[] constant(0)
  %init = (s32[], bf16[4,2]{1,0}) tuple(%zero, %q)
  %loop = (s32[], bf16[4,2]{1,0}) while(%init), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %r = f32[8]{0:T(128)} fusion(%g, %p), kind=kLoop, calls=%add
}
"""  # noqa: E501


def test_collectives_count_once_and_by_trip():
  assert hlo.Program(TEXT).collectives() == {
    'all-reduce': hlo.Collective(count=1, num_bytes=36, largest_array=32),
    'all-gather': hlo.Collective(count=1, num_bytes=64, largest_array=64),
    'collective-permute': hlo.Collective(3, 3 * 16, 16),
  }


def test_traffic_by_memory():
  # In HBM: copy reads 32; slice reads 8; fusion.3 writes 32; the all-reduce
  # reads 64 and writes 36; the all-gather reads 32 and writes 64; each of three
  # rounds reads and writes 16; the last fusion reads 64 and writes 32.
  hbm = 32 + 8 + 32 + 64 + 36 + 32 + 64 + 3 * 32 + 96
  # In VMEM: the copy's and the slice's results (and its 4-byte context, of no
  # known memory), and what fusion.3 reads.
  traffic = hlo.Program(TEXT).memory_traffic()
  assert traffic == hlo.Traffic(hbm=hbm + 4, vmem=32 + 8 + 32)


def test_text_without_a_program_is_refused():
  with pytest.raises(ValueError, match='ENTRY'):
    hlo.Program('HloModule nothing\n')


def test_reads_a_program_of_this_jax():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Explicit,))
  with jax.set_mesh(mesh):
    x = jax.device_put(np.ones((16, 4), np.float32), P('data'))
    gather = jax.jit(lambda x: (jax.reshard(x, P()), x.sum()))
    program = hlo.Program(gather.lower(x).compile().as_text())
  collectives = program.collectives()
  assert collectives['all-gather'] == hlo.Collective(1, 256, 256)
  assert collectives['all-reduce'].count == 1
  assert program.memory_traffic().hbm >= 32 + 256


CONFIG = config_lib.replace(config_lib.Config(), data={'source': 'digits'})


def values():
  return config_lib.to_config_dict(CONFIG)


def test_variants():
  rows = tpu_variants.variants(
    values(),
    ['config.model.remat=blocks config.train.batch_size=512'],
    plain=True,
  )
  plain, config, changed = rows.values()
  assert (plain.model.batch_norm, plain.model.remat) == ('plain', 'none')
  assert config == CONFIG
  assert (changed.model.remat, changed.train.batch_size) == ('blocks', 512)


@pytest.mark.parametrize(
  ('option', 'message'),
  [
    ('config.model.remat', 'not of the form'),
    ('model.remat=none', 'not of the form'),
    ('config.modle.remat=none', "no section 'modle'"),
    ('config.model.remt=none', 'remt'),
    ('config.model.remat=all', 'must be one of'),
    ('config.train.batch_size=many', 'batch_size'),
  ],
)
def test_wrong_options_are_refused(option, message):
  with pytest.raises(ValueError, match=message):
    tpu_variants.apply_option(values(), option)


def make_row(**fields):
  return {
    'variant': 'plain', 'topology': 'v5e:8x16', 'images_per_chip': 32,
    'argument_bytes': 3e9, 'output_bytes': 2e9, 'aliased_bytes': 2e9,
    'temporary_bytes': 1e9, 'flops': 1e12, 'bytes_accessed': 30e9,
    'hbm_bytes': 10e9, 'arithmetic_ms': 5.0, 'memory_ms': 12.0,
    'bound': 'memory', 'moves_images': False,
    'collectives': {'all-reduce': {'count': 7, 'num_bytes': 2_000_000}},
    **fields,
  }  # fmt: skip


def test_page_compares_with_the_plain_network(tmp_path):
  for name, row in (
    ('a', make_row(variant='config', hbm_bytes=7e9)), ('b', make_row())
  ):  # fmt: skip
    (tmp_path / f'{name}.json').write_text(
      json.dumps({'command': name, 'software': {'jax': '1'}, 'rows': [row]})
    )
  lines = tpu_page.make_page(tmp_path).splitlines()
  plain, config = [line for line in lines if line.startswith('| v5e')]
  assert '`plain` | 32 | 4.00 |' in plain and '| 7 | 2 |' in plain
  assert '`config`' in config and config.endswith('-30 % |')


def test_recorded_page_is_generated():
  """docs/results/tpu/README.md is what its files say."""
  page = tpu_page.HISTORY / 'README.md'
  assert page.read_text() == tpu_page.make_page(tpu_page.HISTORY)


@pytest.mark.parametrize(
  ('kind', 'flops', 'bandwidth'),
  [
    ('TPU v5 lite', 197e12, 819e9),
    ('TPU v5', 459e12, 2765e9),
    ('TPU v6 lite', 918e12, 1640e9),
    ('NVIDIA H200', 989e12, 4800e9),
    ('NVIDIA A100-SXM4-40GB', 312e12, None),
  ],
)
def test_published_peaks(kind, flops, bandwidth):
  peak = progress.published_peak(kind)
  assert (peak.bfloat16, peak.bandwidth) == (flops, bandwidth)


def test_unknown_devices_have_no_peak():
  assert progress.published_peak('cpu') is None
  assert progress.published_peak('TPU v4 lite') is None
