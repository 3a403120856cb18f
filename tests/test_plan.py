"""Plans from end to end: traced, compiled here, compiled for a TPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from simclr_jax import config as config_lib
from simclr_jax.planning import compiling, planner, table, topology
from simclr_jax.planning import plan as plan_lib
from simclr_jax.planning import split as split_lib
from tests import small_run

ROOT = pathlib.Path(__file__).resolve().parents[1]
TIMEOUT = 300.0
SPLIT = split_lib.Split(96, 8, 'as given', None)
CONFIG = config_lib.replace(small_run.CONFIG, augment={'blur_prob': 0.0})
# A batch that fills two v5e chips by its views alone.
HUGE = config_lib.replace(
  small_run.CONFIG,
  data={'image_size': 32},
  # Nothing more to be had from these, so nothing more to be traced.
  model={'compute_dtype': 'bfloat16', 'remat': 'blocks'},
  train={'batch_size': 2**20, 'duration': '4 epochs'},
)


@pytest.fixture(scope='module')
def too_large():
  return planner.make_plan(
    HUGE,
    'v5e:1x1',
    split=split_lib.Split(2**21, 8, 'as given', None),
    effort=planner.Effort(quick=True, input_seconds=0.0),
  )


def test_traced_plan_adds_up(too_large):
  plan = too_large
  assert plan.resolved.total_steps == 9  # 4 * 2^21 // 2^20 + 1
  assert plan.memory.next_batch == 2**20 * 2 * 32 * 32 * 3 * 4
  assert plan.memory.step > plan.memory.next_batch
  least, twice, _ = plan.durations
  assert least.hours == pytest.approx(9 * plan.roofline.floor / 3600)
  assert twice.chip_hours == pytest.approx(2 * least.hours)
  assert plan.disk.checkpoints == 3
  assert plan_lib.needed_input(plan) == pytest.approx(
    2**20 / plan.roofline.floor
  )


def test_what_does_not_fit_is_said_with_what_would(too_large):
  assert too_large.memory.fits is False
  text = table.format_plan(too_large)
  assert text.splitlines()[-1].startswith('IT DOES NOT FIT: ')
  assert 'traced, not compiled' in text
  enough = [o for o in too_large.options if o.fits]
  # Views of a batch do not shrink in micro-batches; devices share them.
  assert [o.change for o in enough if 'chips' in o.change]
  assert not [o for o in enough if 'micro' in o.change]
  for option in enough:
    assert option.needed <= too_large.memory.limit
    assert option.change in text


def test_plan_is_json(too_large):
  read = json.loads(json.dumps(too_large.to_json()))
  assert read['memory']['fits'] is False
  assert read['durations'][1]['times_the_least'] == 2
  assert config_lib.from_config_dict(read['config']) == HUGE


def test_compiled_for_the_devices_here(monkeypatch):
  # The program is not run, so it need not be fast.
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  plan = planner.make_plan(
    CONFIG,
    'local',
    split=split_lib.find(CONFIG),
    effort=planner.Effort(compile_timeout=TIMEOUT, input_seconds=0.3),
  )
  # As conftest.py asks for; no peak of a CPU is published.
  assert (plan.topology.num_devices, plan.topology.platform) == (8, 'cpu')
  assert plan.roofline is None and not plan.durations
  assert plan.cost.collectives['all-reduce']['count'] > 1
  assert plan.memory.step == plan.cost.memory_bytes
  assert plan.memory.fits is True
  assert plan.input_rate.pairs_per_second > 0
  text = table.format_plan(plan)
  assert 'no peak is published' in text and 'It fits' in text
  json.dumps(plan.to_json())


def test_gpus_elsewhere_are_another_compiler(monkeypatch, too_large):
  """FLOPs and memory of XLA for CPUs, but never its memory traffic."""
  cpu = dataclasses.replace(
    too_large.cost, device_kind='cpu', flops=7e12, hbm_bytes=10**15
  )
  asked = {}

  def compile_simulated(config, *, num_devices, **share):
    asked['num_devices'] = num_devices
    return compiling.Answer(cost=cpu, out_of_memory=None, devices=None)

  monkeypatch.setattr(compiling, 'compile_simulated', compile_simulated)
  plan = planner.make_plan(
    CONFIG, 'h100:8', split=SPLIT, effort=planner.Effort(input_seconds=0.0)
  )
  assert asked == {'num_devices': 8}
  assert plan.how.startswith('an estimate: ')
  assert plan.cost.device_kind == 'NVIDIA H100'
  assert plan.cost.flops == 7e12
  assert plan.cost.hbm_bytes < 1e9
  assert plan.memory.limit == 60e9


def call(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'simclr_jax.plan', *arguments],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=TIMEOUT,
    check=False,
  )


def test_command(tmp_path):
  """Exit codes and the file; traced, so that nothing is compiled."""
  out = tmp_path / 'plans' / 'plan.json'
  run = call(
    '--config=configs/cifar10.py:cpu',
    '--config.data.data_dir=/nowhere',
    '--topology=v5e:1x1',
    '--quick',
    '--nomeasure_input',
    '--config.data.image_size=512',
    '--config.model.width=2',
    '--config.model.compute_dtype=bfloat16',
    '--config.model.remat=blocks',
    '--config.train.batch_size=2048',
    f'--out={out}',
  )
  assert run.returncode == 3, run.stderr
  assert 'published size of cifar10' in run.stdout
  result = json.loads(out.read_text())
  assert result['command'].startswith('python -m simclr_jax.plan --config=')
  assert result['resolved']['num_examples'] == 50_000


def test_says_how_to_get_the_tpu_compiler(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r'\.\[tpu-compile\].*--quick'):
    compiling.compile_tpu(
      small_run.CONFIG, topology.parse('v5e:1x1'), timeout=1.0
    )


def test_a_worker_that_is_too_slow_is_ended():
  with pytest.raises(TimeoutError, match='--compile_timeout=0.1'):
    compiling.compile_local(None, timeout=0.1)


@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='needs libtpu'
)
def test_compiled_for_a_tpu_slice():
  plan = planner.make_plan(
    small_run.CONFIG,
    'v5e:2x2',
    split=SPLIT,
    effort=planner.Effort(compile_timeout=TIMEOUT, input_seconds=0.0),
  )
  assert plan.cost.device_kind == 'TPU v5 lite'
  assert plan.roofline.bound in ('memory', 'arithmetic', 'links')
  assert plan.memory.fits is True
