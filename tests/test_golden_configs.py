"""Recipes move only where somebody meant them to."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest

from simclr_jax import config as config_lib
from simclr_jax import config_checks
from simclr_jax.finetuning import config as finetune_lib

TESTS = pathlib.Path(__file__).resolve().parent


def _load_writer():
  path = TESTS / 'write_golden_configs.py'
  spec = importlib.util.spec_from_file_location('write_golden_configs', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


writer = _load_writer()
TEXTS = writer.texts()
CONFIG_FILES = sorted((TESTS.parent / 'configs').glob('*.py'))


def test_every_golden_file_has_its_preset():
  assert {p.name for p in writer.GOLDEN.glob('*.txt')} == set(TEXTS), (
    'run `make golden-configs` and commit the difference'
  )


@pytest.mark.parametrize('name', TEXTS)
def test_preset_is_as_recorded(name):
  assert (writer.GOLDEN / name).read_text() == TEXTS[name], (
    'run `make golden-configs` and commit the difference'
  )


@pytest.mark.parametrize('path', CONFIG_FILES, ids=lambda p: p.stem)
def test_presets_are_possible_and_unknown_ones_are_named(path):
  module = writer.load_config_file(path)
  # The default is one of the presets, not a recipe without a name.
  assert module.get_config() in map(module.get_config, module.PRESETS)
  for preset in module.PRESETS:
    values = module.get_config(preset)
    if values.data.source in config_checks.PATH_SOURCES:
      # The one thing that only the user knows; without it, the error says so.
      with pytest.raises(ValueError, match='config.data.path'):
        config_lib.from_config_dict(values)
      values.data.path = '/pictures'
    assert config_lib.from_config_dict(values)
    assert preset in module.__doc__, 'the header describes every preset'
  with pytest.raises(ValueError) as error:
    module.get_config(next(iter(module.PRESETS)) + 'x')
  assert 'did you mean' in str(error.value)
  for preset in module.PRESETS:
    assert preset in str(error.value)


READERS = {
  'finetune': finetune_lib.read_finetune,
  'distill': finetune_lib.read_distill,
}
STAGE_FILES = sorted((TESTS.parent / 'configs').glob('*/*.py'))


@pytest.mark.parametrize('path', STAGE_FILES, ids=lambda p: p.stem)
def test_presets_of_stages_are_possible(path):
  module = writer.load_config_file(path)
  assert module.get_config() in map(module.get_config, module.PRESETS)
  for preset in module.PRESETS:
    assert READERS[path.parent.name](module.get_config(preset))
    assert preset in module.__doc__, 'the header describes every preset'
  with pytest.raises(ValueError, match='did you mean'):
    module.get_config(next(iter(module.PRESETS)) + 'x')


def test_flattened_text_shows_a_moved_number():
  before = writer.flatten(config_lib.to_config_dict(config_lib.Config()))
  config = config_lib.replace(
    config_lib.Config(data=config_lib.DataConfig(name='')),
    data={'name': 'x'},
    optim={'base_lr': 0.31},
  )
  after = writer.flatten(config_lib.to_config_dict(config))
  assert set(after) - set(before) == {
    "config.data.name = 'x'",
    'config.optim.base_lr = 0.31',
  }


# FACTS of the sources, as in the headers: the numbers that make the recipe.
@pytest.mark.parametrize(
  'name,lines',
  [
    (
      'cifar10.official',
      ['optim.base_lr = 1.0', 'loss.temperature = 0.5', 'model.depth = 18'],
    ),
    (
      'imagenet.v1',
      ['optim.base_lr = 0.3', 'optim.weight_decay = 1e-06'],
    ),
    (
      'imagenet.readme',
      ["optim.lr_scaling = 'sqrt'", 'optim.base_lr = 0.075'],
    ),
    ('imagenet.v2', ["optim.warmup = '40 epochs'", 'optim.base_lr = 0.1']),
    (
      'finetune.imagenet.v2_1',
      [
        'optim.base_lr = 0.005',
        "optim.lr_scaling = 'sqrt'",
        "optim.name = 'lars'",
        'optim.weight_decay = 0.0',
        "optim.warmup = '0 epochs'",
        'train.batch_size = 1024',
        "train.duration = '60 epochs'",
        'head_layer = 1',
        "classifier_init = 'zeros'",
        "data.name = 'imagenet2012_subset/1pct'",
      ],
    ),
    (
      'finetune.imagenet.v2_10',
      ["train.duration = '30 epochs'", 'head_layer = 1'],
    ),
    ('finetune.imagenet.v2_100', ['head_layer = 0']),
    (
      'finetune.imagenet.v1_1',
      [
        'optim.base_lr = 0.05',
        "optim.lr_scaling = 'linear'",
        'optim.nesterov = True',
        "optim.name = 'sgd'",
        'train.batch_size = 4096',
        "train.duration = '60 epochs'",
      ],
    ),
    (
      'cifar10.dkobak_100',
      ['optim.base_lr = 0.06', 'optim.decay_exclude = ()'],
    ),
  ],
)
def test_published_numbers(name, lines):
  text = TEXTS[f'{name}.txt'].splitlines()
  assert {f'config.{line}' for line in lines} <= set(text)
