"""Collectives and memory traffic, read from the text of programs."""

from __future__ import annotations

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from simclr_jax.planning import hlo

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
