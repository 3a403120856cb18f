"""Numbers of docs/planning.md are those of the files that it names."""

from __future__ import annotations

import json
import pathlib

import pytest

DOCS = pathlib.Path(__file__).resolve().parents[2] / 'docs'
PLAN = json.loads((DOCS / 'results/plan/imagenet_v1_v3_8x8.json').read_text())
PUBLISHED_HOURS = 1.5  # Of 100 epochs; the paper.


def test_the_published_run():
  text = (DOCS / 'planning.md').read_text()
  roofline, step = PLAN['roofline'], PLAN['step']
  steps = 1_281_167 * 100 // 4096 + 1
  published = PUBLISHED_HOURS * 3600 / steps
  reduces = step['collectives']['all-reduce']
  assert f'{steps:,} steps, so {1e3 * published:.0f} ms' in text
  for stated in (
    f'{step["flops"] / 1e12:.2f} TFLOP, {1e3 * roofline["arithmetic"]:.1f} ms',
    f'{step["hbm_bytes"] / 1e9:.1f} GB, {1e3 * roofline["memory"]:.1f} ms',
    f'{reduces["count"]} all-reduces, {reduces["num_bytes"] / 1e6:.0f} MB, '
    f'{1e3 * roofline["links"]:.1f} ms',
    f'{1e3 * roofline["floor"]:.1f} ms, bound by {roofline["bound"]}',
    f'{roofline["floor"] * steps / 60:.0f} min',
    f'{PLAN["memory"]["needed"] / 1e9:.1f} of '
    f'{PLAN["memory"]["limit"] / 1e9:.1f} GB',
    f'{published / roofline["floor"]:.1f} times the least time',
    f'{PLAN["input"]["needed_per_host"]:,.0f} pairs',
  ):
    assert stated in text


@pytest.mark.parametrize(
  ('name', 'file'),
  [
    ('plain', 'v5e_8x16_plain'),
    ('config (folded)', 'v5e_8x16_folded'),
    ('`model.remat=norms`', 'v5e_8x16_norms'),
    ('`model.remat=blocks`', 'v5e_8x16_blocks'),
  ],
)
def test_compiled_figures(name, file):
  (row,) = json.loads((DOCS / f'results/tpu/{file}.json').read_text())['rows']
  (line,) = [
    line
    for line in (DOCS / 'planning.md').read_text().splitlines()
    if line.startswith(f'| {name} |')
  ]
  assert f'/ {row["flops"] / 1e12:.2f} T' in line
  assert f'/ {row["temporary_bytes"] / 1e9:.2f} GB' in line
  assert f'/ {row["hbm_bytes"] / 1e9:.1f} GB' in line
