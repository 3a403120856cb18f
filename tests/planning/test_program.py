"""What is kept of a compiled step, what a compiler says, sizes of data."""

from __future__ import annotations

import jax
import pytest

from simclr_jax import config as config_lib
from simclr_jax.planning import cost_cache, program
from simclr_jax.planning import split as split_lib
from tests import small_run


@pytest.fixture
def cached(tmp_path, monkeypatch):
  """Switches the cache of costs on, in a folder of this test."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr(cost_cache, '_is_on', lambda: True)
  return tmp_path / 'simclr_jax' / 'plan'


def test_key_holds_program_devices_and_flags(monkeypatch):
  devices = tuple(jax.devices())
  key = cost_cache.make_key('program', devices)
  assert key == cost_cache.make_key('program', devices)
  assert key != cost_cache.make_key('another', devices)
  assert key != cost_cache.make_key('program', devices[:4])
  monkeypatch.setenv('LIBTPU_INIT_ARGS', '--xla_tpu_something=1')
  assert key != cost_cache.make_key('program', devices)


def test_damaged_entry_is_no_entry(cached):
  cost_cache.save('key', {'flops': 1})
  assert cost_cache.load('key') == {'flops': 1}
  (cached / 'key.json').write_text('{"flops": ')
  assert cost_cache.load('key') is None


# As XLA for TPU says it.
MESSAGE = (
  'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the '
  'total memory required for HLO temporaries (20.61G) exceeds available HBM '
  '(15.75G). HLO module: jit_train_step.'
)


def test_out_of_memory_is_understood():
  used, limit = program.parse_out_of_memory(MESSAGE)
  assert used == int(20.61 * 2**30) and limit == 15.75 * 2**30
  assert program.parse_out_of_memory('INTERNAL: something else') is None
  error = program.OutOfMemory(used, limit)
  assert '22.13 GB' in str(error) and '16.91 GB' in str(error)


IMAGENET = config_lib.replace(
  config_lib.Config(),
  data={'name': 'imagenet2012', 'data_dir': '/nowhere'},
)


@pytest.mark.parametrize(
  ('split', 'count'),
  [('train', 1_281_167), ('train[:10%]', 128_117), ('validation', 50_000)],
)
def test_published_sizes(split, count):
  config = config_lib.replace(
    IMAGENET, data={'train_split': split, 'test_split': ''}
  )
  found = split_lib.find(config)
  assert (found.num_examples, found.num_classes) == (count, 1000)
  assert 'published' in found.origin and found.source is None


def test_what_is_given_goes_first():
  found = split_lib.find(IMAGENET, num_examples=7, num_classes=0)
  assert (found.num_examples, found.num_classes) == (7, 0)
  assert split_lib.stand_in(found).num_examples == 7


def test_what_is_here_goes_before_what_is_published():
  found = split_lib.find(small_run.CONFIG)
  assert found.num_examples == 96 and found.source is not None


def test_nobody_knows():
  config = config_lib.replace(IMAGENET, data={'name': 'my_pictures'})
  with pytest.raises(ValueError, match='my_pictures.*--num_examples'):
    split_lib.find(config)
  folder = config_lib.replace(
    config_lib.Config(), data={'source': 'folder', 'path': '/nowhere'}
  )
  with pytest.raises(ValueError, match='--num_examples'):
    split_lib.find(folder)
