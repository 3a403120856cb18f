"""The TPU benchmark's options and results; no libtpu."""

from __future__ import annotations

import json

import pytest

from benchmarks import tpu_page, tpu_variants
from simclr_jax import config as config_lib

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
