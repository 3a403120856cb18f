"""A run that cannot succeed is refused, and nothing else is."""

from __future__ import annotations

import dataclasses
import logging
import re

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import memory, processes
from simclr_jax.planning import preflight, program
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import run as run_lib
from tests import small_run

GB = 10**9
CONFIG = config_lib.replace(
  small_run.CONFIG,
  data={'source': 'procedural', 'image_size': 224, 'test_split': ''},
  model={'depth': 50, 'width': 1.0},
  train={'batch_size': 256, 'duration': '100 steps'},
  optim={'warmup': '1 steps'},
)


@pytest.fixture(scope='module')
def run():
  """ResNet-50, 224 px, 256 images on one CPU: 47.7 GB."""
  return run_lib.make_run(
    CONFIG,
    mesh=mesh_lib.make_mesh(jax.devices()[:1]),
    source=program.absent_source(num_examples=5000, num_classes=0),
  )


@pytest.fixture
def usable(monkeypatch):
  """A function that sets what this process may use."""

  def set_to(num_bytes):
    found = memory.Usable(int(num_bytes), 'what there is')
    monkeypatch.setattr(memory, 'usable', lambda: found)

  return set_to


def settings(message):
  return re.findall(r'^  (--\S.*)$', message, re.MULTILINE)


def look(run, **parts):
  preflight.Preflight(network='model', **parts).look(run)


def test_refused_with_flags_that_fit(run, usable):
  usable(24 * GB)
  with pytest.raises(memory.DoesNotFit) as refused:
    look(run)
  message = str(refused.value)
  assert re.search(r'about 4[5-9]\.\d GB .*there are 24\.0 GB', message)
  found = settings(message)
  assert found == [
    '--config.train.micro_batches=4',
    '--config.train.batch_size=64',
    '--config.data.image_size=96 --config.model.depth=18',
  ]
  for flags in found:
    sections: dict[str, dict[str, int]] = {}
    for section, field, value in re.findall(r'(\w+)\.(\w+)=(\d+)', flags):
      sections.setdefault(section, {})[field] = int(value)
    look(preflight._changed(run, config_lib.replace(run.config, **sections)))


def test_warned_in_one_line_between(run, usable, caplog):
  usable(40 * GB)
  with caplog.at_level(logging.WARNING, 'absl'):
    look(run)
  (line,) = [r.getMessage() for r in caplog.records if 'memory' in r.msg]
  assert '\n' not in line and '--config.train.micro_batches=2' in line


@pytest.mark.parametrize('there', [49 * GB, None])
def test_silent_where_it_fits_or_nobody_knows(run, there, monkeypatch, caplog):
  found = there and memory.Usable(there, 'x')
  monkeypatch.setattr(memory, 'usable', lambda: found)
  with caplog.at_level(logging.WARNING, 'absl'):
    look(run)
  assert not [r for r in caplog.records if 'memory' in r.msg]


def test_a_flag_turns_it_off(run, usable):
  usable(GB)
  look(run, check_memory=False)


def test_the_smoke_recipe_is_never_refused(usable):
  """It is for machines of under 4 GB."""
  usable(GB)
  config = config_lib.replace(
    CONFIG, data={'image_size': 16}, model={'depth': 18, 'width': 0.125}
  )
  source = program.absent_source(num_examples=1440, num_classes=10)
  # All eight devices share the memory.
  look(run_lib.make_run(config, source=source))


def test_processes_of_a_machine_add_up(run, monkeypatch, usable):
  mine = preflight._Verdict(30, 50, how='', where='a')
  other = dataclasses.asdict(dataclasses.replace(mine, usable=40, where='b'))

  def worst_of(name):
    monkeypatch.setattr(
      processes, 'gather', lambda row: [row, [name, other], ['c', None]]
    )
    return preflight._worst(mine, 'here')

  assert worst_of('here') == preflight._Verdict(60, 40, '', 'b', 2)
  assert worst_of('there') == preflight._Verdict(30, 40, '', 'b', 1)


class Compiler:
  """A step that an accelerator's compiler makes, or refuses."""

  def __init__(self, temporary, error=None):
    self.temporary, self.error = temporary, error

  def lower(self, state, batch):
    return self

  def compile(self):
    if self.error:
      raise jax.errors.JaxRuntimeError(self.error)
    return self

  def memory_analysis(self):
    return Stats(self.temporary)


@dataclasses.dataclass
class Stats:
  """As XLA gives them."""

  temp_size_in_bytes: int
  argument_size_in_bytes: int = GB
  output_size_in_bytes: int = GB
  alias_size_in_bytes: int = GB


@pytest.fixture
def accelerator(monkeypatch):
  """16 GB of it, whatever the host has."""
  monkeypatch.setattr(preflight, '_platform', lambda run: 'gpu')
  found = memory.Usable(16 * GB, 'of a GPU')
  monkeypatch.setattr(preflight, '_of_a_device', lambda run: found)


def compile_with(run, compiler, **parts):
  preflight.Preflight(network='model', **parts).compile(
    run, compiler, state=None, batch={}
  )


def test_the_compiled_step_decides_on_accelerators(run, accelerator, usable):
  usable(0)
  look(run)  # A trace of 47.7 GB refuses nothing.
  compile_with(run, Compiler(14 * GB))
  with pytest.raises(memory.DoesNotFit, match=r'about 1[67]\.\d GB \(compiled'):
    compile_with(run, Compiler(15.5 * GB))
  compile_with(run, Compiler(99 * GB), check_memory=False)


@pytest.mark.parametrize(
  'said',
  [
    'RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes',
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
    'for HLO temporaries (30.00G) exceeds available HBM (15.75G)',
  ],
)
def test_a_compiler_that_runs_out(run, accelerator, said):
  with pytest.raises(memory.DoesNotFit) as refused:
    compile_with(run, Compiler(0, said))
  assert settings(str(refused.value))


def test_other_errors_of_a_compiler_stay(run, accelerator):
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
    compile_with(run, Compiler(0, 'INTERNAL: a bug'))


@pytest.mark.parametrize('kind', [jax.errors.JaxRuntimeError, MemoryError])
def test_memory_that_runs_out_later_says_what_fits(run, usable, kind):
  usable(24 * GB)
  checks = preflight.Preflight(network='model', check_memory=False)
  with pytest.raises(memory.OutOfMemory) as failed:
    with checks.explaining(run):
      raise kind('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')
  assert not isinstance(failed.value, memory.DoesNotFit)  # Not agreed on.
  message = str(failed.value)
  assert 'allocating 9 bytes' in message and len(settings(message)) == 3
  with pytest.raises(KeyError), checks.explaining(run):
    raise KeyError('x')


def test_finetuning_is_offered_no_other_network(run, usable):
  usable(24 * GB)
  with pytest.raises(memory.DoesNotFit) as refused:
    preflight.Preflight().look(run)
  assert 'model' not in str(refused.value)


def test_the_step_is_compiled_once(monkeypatch, caplog):
  """The first call finds what was compiled ahead, donation included."""
  monkeypatch.setattr(preflight, '_platform', lambda run: 'gpu')
  run = run_lib.make_run(small_run.CONFIG)
  with jax.set_mesh(run.mesh):
    state, step = run.init_state(), run.train_step()
    batch = mesh_lib.put_batch(
      {
        'views': np.zeros((32, 2, 8, 8, 3), np.float32),
        'label': np.zeros(32, np.int32),
      },
      run.mesh,
    )
    old = state.params
    with caplog.at_level(logging.WARNING, 'jax'), jax.log_compiles():
      preflight.Preflight().compile(run, step, state=state, batch=batch)
      state, _ = step(state, batch)
      step(state, batch)
  said = [record.getMessage() for record in caplog.records]
  made = [line for line in said if 'XLA compilation of jit(train_step)' in line]
  assert len(made) == 1, made
  assert all(x.is_deleted() for x in jax.tree.leaves(old))
