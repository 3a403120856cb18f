"""What a run says about itself before the first step."""

from __future__ import annotations

import dataclasses
import math

import jax
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import recipe, state_sharding
from simclr_jax.training import run as run_lib

CONFIG = config_lib.replace(
  config_lib.Config(),
  data={'source': 'digits', 'image_size': 8},
  augment={'blur_prob': 0.0},
  model={'depth': 18, 'width': 0.0625, 'head_layers': 1, 'head_dim': 8},
  optim={'base_lr': 0.3, 'lr_scaling': 'linear', 'warmup': '2 epochs'},
  loss={'scale': 'official'},
  train={'batch_size': 64, 'duration': '5 epochs'},
)


@pytest.fixture(scope='module')
def run():
  mesh = mesh_lib.make_mesh(jax.devices()[:4])
  return run_lib.make_run(CONFIG, mesh=mesh)


@pytest.fixture(scope='module')
def rows(run):
  """{name: value} of the block, with the lines of groups under 'groups'."""
  text = recipe.describe(run, run.abstract_state(), start_step=40)
  head, *lines = text.splitlines()
  assert head == 'simclr:'
  cut = next(k for k, line in enumerate(lines) if not line.startswith(' '))
  table = dict(line.strip().split('  ', 1) for line in lines[:cut])
  return {
    **{name: value.strip() for name, value in table.items()},
    'optimizer': lines[cut],
    'groups': lines[cut + 1 :],
  }


def test_data_with_its_size(run, rows):
  size = run.source.num_examples
  assert size > 1000
  assert rows['data'] == (
    f'{run.source.name}: {size:,} images, 10 classes, 0 unreadable skipped'
  )


@pytest.mark.parametrize(
  ('where', 'text'),
  [
    ('host', 'made on the host by the tf loader'),
    ('hybrid', 'cropped to uint8 by the tf loader, made on the devices'),
    ('device', 'made on the devices from pixels kept there'),
  ],
)
def test_who_makes_the_views(run, where, text):
  config = config_lib.replace(CONFIG, data={'augment_on': where})
  changed = dataclasses.replace(run, config=config)
  made = recipe.describe(changed, run.abstract_state(), start_step=0)
  size = config.data.image_size
  assert f'2 of {size} px, {text}\n' in made


def test_mesh_and_batch_per_device(rows):
  assert rows['mesh'] == "4 x cpu on 1 host(s), axes {'data': 4}"
  assert rows['batch'] == '64 images (16 per device, 64 per host)'


def test_micro_batches_are_named(run, rows):
  assert 'micro-batches' not in rows
  config = config_lib.replace(CONFIG, train={'micro_batches': 4})
  parts = run_lib.make_run(config, mesh=run.mesh, source=run.source)
  text = recipe.describe(parts, parts.abstract_state(), start_step=0)
  assert '4 of 16 images (4 per device), one loss over all (exact;' in text


def test_what_of_the_state_a_device_holds(run, rows, monkeypatch):
  state = run.abstract_state()
  leaves = jax.tree.leaves((state.params, state.opt_state))
  whole = 4 * sum(math.prod(x.shape) for x in leaves if x.ndim) / 2**20
  assert rows['state'].startswith(f'replicated: {whole:,.1f} of {whole:,.1f} ')
  monkeypatch.setattr(state_sharding, 'MIN_SIZE', 1)
  config = config_lib.replace(CONFIG, train={'state_sharding': 'fsdp'})
  pieces = run_lib.make_run(config, mesh=run.mesh, source=run.source)
  text = recipe.describe(pieces, pieces.abstract_state(), start_step=0)
  assert f'fsdp: {whole / 4:,.1f} of {whole:,.1f} MiB' in text


def test_negatives_and_the_loss_of_chance(rows):
  # 2 * 64 views without the anchor and its positive.
  assert ', 126 negatives per anchor; ' in rows['loss']
  assert rows['loss'].endswith(f'give {2 * math.log(127):.3f}')


def test_form_of_the_loss_and_its_memory(run, rows):
  assert rows['loss memory'].startswith('plain (chosen by auto), about ')
  named = {'implementation': 'ring', 'chunk_size': 6}
  config = config_lib.replace(CONFIG, loss=named)
  ring = run_lib.make_run(config, mesh=run.mesh, source=run.source)
  text = recipe.describe(ring, ring.abstract_state(), start_step=0)
  # 32 rows on each of 4 devices: 3 x 32 x 6 logits and 6 x 32 x 8 numbers.
  assert (
    'ring, 6 keys at a time (by config), about '
    f'{4 * (3 * 32 * 6 + 6 * 32 * 8) / 2**20:.3g} MiB per device' in text
  )


def test_steps_and_peak_rate(run, rows):
  # The official rule: floor(examples * epochs / batch) + 1.
  total = run.source.num_examples * 5 // 64 + 1
  assert rows['steps'].startswith(f'{total:,} (')
  assert f'{run.resolved.warmup_steps:,} of warm-up' in rows['steps']
  # Linear: base_lr * batch / 256.
  assert ', peak 0.075 (0.3, linear scaling)' in rows['learning rate']


def test_parameters(run, rows):
  params = run.abstract_state().params
  total = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
  assert rows['parameters'].startswith(f'{total:,} (')
  for name, tree in params.items():
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
    assert f'{name} {count:,}' in rows['parameters']


def test_what_decays_and_what_adapts(run, rows):
  """Every parameter is in one group, and the exclusions show."""
  assert rows['optimizer'] == 'lars, weight decay 1e-06:'
  leaves = jax.tree.leaves(run.abstract_state().params)
  words = [line.split(' parameters:')[0].split() for line in rows['groups']]
  counts = [int(w[-1].replace(',', '')) for w in words]
  assert sum(counts) == sum(math.prod(x.shape) for x in leaves)
  assert sum(int(w[-3]) for w in words) == len(leaves)
  (kernels,) = [g for g in rows['groups'] if 'conv#/kernel' in g]
  assert ' decays ' in kernels and ' adapts ' in kernels
  norms = [g for g in rows['groups'] if 'bn#/scale' in g]
  assert all('no decay' in g and 'no trust ratio' in g for g in norms)
  assert norms


def test_where_it_starts(run, rows):
  assert rows['start'] == 'checkpoint of step 40'
  fresh = recipe.describe(run, run.abstract_state(), start_step=0)
  assert 'step 0, fresh initialisation' in fresh


def test_the_model_is_traced_once(run, monkeypatch):
  traces = []
  original = jax.make_jaxpr
  monkeypatch.setattr(
    jax, 'make_jaxpr', lambda *a: traces.append(a) or original(*a)
  )
  models.count_flops.cache_clear()
  recipe.describe(run, run.abstract_state(), start_step=0)
  # 64 images, 2 views, forward and backward.
  forward = models.count_flops(run.model, 8)
  assert recipe.flops_per_step(run) == 3 * 64 * 2 * forward
  assert len(traces) == 1
