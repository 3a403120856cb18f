"""Every warning: raised by what it is about, and by nothing else."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import types

import pytest

from simclr_jax import config as config_lib
from simclr_jax import resolve
from simclr_jax.exporters import torch_form
from simclr_jax.planning import advice, topology

# A published recipe (v1), in bfloat16, views made on the devices.
GOOD = config_lib.replace(
  config_lib.Config(),
  data={'name': 'imagenet2012', 'test_split': 'validation'},
  model={'compute_dtype': 'bfloat16', 'head_layers': 2},
  train={'batch_size': 4096, 'duration': '1000 epochs'},
  checkpoint={'every': '10 epochs'},
)
CIFAR = config_lib.replace(
  GOOD,
  data={'name': 'cifar10', 'image_size': 32},
  augment={'jitter_strength': 0.5, 'blur_prob': 0.0},
  model={'depth': 18},
  loss={'temperature': 0.5},
  optim={'base_lr': 1.0},
  train={'batch_size': 512},
  checkpoint={'every': '1 epochs'},
)


OWN = config_lib.replace(
  GOOD,
  data={'source': 'folder', 'path': '/images', 'name': ''},
  model={'padding': 'torch'},
)


def make_facts(config, **changes):
  facts = advice.Facts(
    resolved=resolve.resolve(
      config, num_examples=1_281_167, num_classes=1000, num_devices=32
    ),
    topology=topology.parse('v5e:4x8'),
    step_seconds=0.05,
    bound='memory',
    input_rate=200_000.0,
    num_test=50_000,
  )
  return dataclasses.replace(facts, **changes)


def find(config, **facts):
  return {w.rule: w for w in advice.find(config, make_facts(config, **facts))}


@pytest.mark.parametrize('config', [GOOD, CIFAR], ids=['imagenet', 'cifar'])
def test_published_recipes_are_left_alone(config):
  assert not find(config)


SGD = {'name': 'sgd', 'base_lr': 0.03}
CASES = {
  'large_batch_without_lars': (
    GOOD, {'optim': SGD, 'loss': {'scale': 'paper'}}, 'optim.name',
  ),
  'learning_rate': (GOOD, {'optim': {'base_lr': 1.0}}, 'optim.base_lr'),
  'adam_rate': (
    CIFAR, {'optim': {'name': 'adam', 'base_lr': 0.1}}, 'optim.base_lr',
  ),
  'unscaled_learning_rate': (
    GOOD, {'optim': {'base_lr': 4.8, 'lr_scaling': 'none'}}, 'optim.lr_scaling',
  ),
  'loss_scale': (GOOD, {'loss': {'scale': 'paper'}}, 'loss.scale'),
  'temperature': (GOOD, {'loss': {'temperature': 0.5}}, 'loss.temperature'),
  'unnormalized': (GOOD, {'loss': {'normalize': False}}, 'loss.normalize'),
  'few_negatives': (CIFAR, {'train': {'batch_size': 128}}, 'train.batch_size'),
  'warmup': (GOOD, {'optim': {'warmup': '0 steps'}}, 'optim.warmup'),
  'no_colour': (
    GOOD, {'augment': {'jitter_prob': 0.0}}, 'augment.jitter_prob',
  ),
  'no_crops': (
    GOOD, {'augment': {'crop_sampler': 'none'}}, 'augment.crop_sampler',
  ),
  'blur': (GOOD, {'augment': {'blur_prob': 0.0}}, 'augment.blur_prob'),
  'colour_strength': (
    CIFAR, {'augment': {'jitter_strength': 1.0}}, 'augment.jitter_strength',
  ),
  'head': (GOOD, {'model': {'head': 'linear'}}, 'model.head'),
  'stem': (CIFAR, {'model': {'stem': 'imagenet'}}, 'data.image_size'),
  'export': (OWN, {'model': {'padding': 'official'}}, 'model.padding'),
  'float32': (
    GOOD, {'model': {'compute_dtype': 'float32'}}, 'model.compute_dtype',
  ),
  'online_head': (
    GOOD, {'monitor': {'online_head': False}}, 'monitor.online_head',
  ),
  'knn_cost': (
    GOOD, {'monitor': {'knn_every': '20 steps'}}, 'monitor.knn_every',
  ),
  'checkpoint_period': (
    GOOD, {'checkpoint': {'every': '1000 epochs'}}, 'checkpoint.every',
  ),
}  # fmt: skip
BY_FACTS = {
  'slow_input': ({'input_rate': 100.0}, 'data.augment_on'),
  'starved_chips': ({'step_seconds': 1e-3}, 'train.batch_size'),
  'links': ({'bound': 'links'}, 'train.batch_size'),
}


@pytest.mark.parametrize('rule', CASES)
def test_config_at_fault(rule):
  base, change, field = CASES[rule]
  found = find(config_lib.replace(base, **change))
  assert list(found) == [rule]
  assert found[rule].field.startswith(f'config.{field} = ')


@pytest.mark.parametrize('rule', BY_FACTS)
def test_circumstances_at_fault(rule):
  facts, field = BY_FACTS[rule]
  found = find(GOOD, **facts)
  assert rule in found and found[rule].field.startswith(f'config.{field} = ')


def test_every_rule_has_a_case():
  assert set(CASES) | set(BY_FACTS) == set(advice.rules())


@pytest.mark.parametrize(
  ('base', 'change', 'rule'),
  [
    (CIFAR, {'optim': {**SGD, 'base_lr': 1.0}}, 'learning_rate'),
    (CIFAR, {'optim': {'name': 'adamw', 'base_lr': 0.1}}, 'adam_rate'),
    (CIFAR, {'optim': SGD}, 'loss_scale'),
    (CIFAR, {'augment': {'blur_prob': 0.5}}, 'blur'),
    (GOOD, {'optim': {'warmup': '300 epochs'}}, 'warmup'),
    (OWN, {'model': {'depth': 18}}, 'export'),
    (GOOD, {'augment': {'crop_area': (0.6, 1.0)}}, 'no_crops'),
    (GOOD, {'train': {'matmul_precision': 'highest'}}, 'float32'),
    (GOOD, {'checkpoint': {'every': '10 steps'}}, 'checkpoint_period'),
  ],
)
def test_other_sides(base, change, rule):
  assert rule in find(config_lib.replace(base, **change))


@pytest.mark.parametrize('size', [224, 225, 226, 227])
@pytest.mark.parametrize('padding', ['official', 'torch'])
def test_what_is_said_of_an_export_is_what_it_does(size, padding):
  config = config_lib.replace(
    OWN, data={'image_size': size}, model={'padding': padding}
  )
  network = types.SimpleNamespace(config=config, outputs=('h',), side=size)
  refused = list(torch_form._reasons(network, depths=(50,), any_width=False))
  assert ('export' in find(config)) == bool(refused)


def test_a_classifier_is_asked_only_what_holds_for_it():
  bad = {'optim': {'base_lr': 9.0, 'warmup': '900 epochs'}}
  config = config_lib.replace(GOOD, **bad, loss={'temperature': 0.9})
  found = advice.find(config, make_facts(config), contrastive=False)
  assert [w.rule for w in found] == ['warmup']


def test_a_cpu_wants_no_bfloat16():
  here = topology.local(
    'cpu', platform='cpu', num_devices=32, num_hosts=1, memory_per_device=None
  )
  config = config_lib.replace(GOOD, model={'compute_dtype': 'float32'})
  assert not find(config, topology=here, step_seconds=None)


def test_recipes_of_this_repository():
  """What their own headers say, and no more."""
  folder = pathlib.Path(__file__).resolve().parents[2] / 'configs'
  sys.path.insert(0, str(folder))
  try:
    import imagenet
  finally:
    sys.path.remove(str(folder))
  for preset in imagenet.PRESETS.values():
    assert set(find(preset)) <= {'float32', 'checkpoint_period'}
