"""Official variable names: golden manifests, round trips, strict errors."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.importers import official_names

CASES = {
  'r18_cifar': (config_lib.ModelConfig(depth=18), 32),
  'r50': (config_lib.ModelConfig(depth=50), 64),
  'steps_r18_mild': (config_lib.ModelConfig(depth=18, head_layers=2), 32),
}
SMALL = config_lib.ModelConfig(depth=18, head_layers=1)
MODEL = {'image_size': 32, 'num_classes': 10}


def names_of(image_size: int = 224, **fields) -> dict[str, str]:
  config = config_lib.ModelConfig(**fields)
  return official_names.official_names(
    config, image_size=image_size, num_classes=10
  )


@pytest.fixture(scope='module')
def arrays():
  """Official arrays of SMALL, every one different."""
  model = models.make_model(SMALL, **MODEL)
  shapes = models.abstract_variables(model, image_size=32)
  variables = jax.tree_util.tree_map_with_path(
    lambda path, s: np.full(s.shape, hash(str(path)) % 1000, np.float32),
    shapes,
  )
  return official_names.to_official(variables, SMALL, **MODEL)


@pytest.mark.parametrize('case', CASES)
def test_manifests(case, golden_dir):
  """Names and shapes of all variables, none missing, none too many."""
  manifest = json.loads((golden_dir / f'manifests/{case}.json').read_text())
  config, image_size = CASES[case]
  model = models.make_model(config, image_size=image_size, num_classes=10)
  shapes = models.abstract_variables(model, image_size=image_size)
  got = official_names.official_names(
    config, image_size=image_size, num_classes=10
  )
  flat = models.flat_paths(shapes)
  assert {got[path]: list(leaf.shape) for path, leaf in flat.items()} == {
    v['name']: v['shape'] for v in manifest['variables']
  }


def test_selective_kernel_names():
  """As tf-keras 2.21 names the official layers; no manifest has SK."""
  names = names_of(depth=50, sk_ratio=0.0625)
  assert len(names) == 387
  kernel = lambda scope: names[f'params/backbone/{scope}/kernel']  # noqa: E731
  block = 'resnet/block_group1/bottleneck_block'
  assert kernel('conv3') == 'resnet/conv2d_fixed_padding_2/conv2d_2/kernel'
  assert kernel('layer1_0/downsample_conv') == (
    f'{block}/conv2d_fixed_padding_3/conv2d_3/kernel'
  )
  assert kernel('layer1_0/sk/conv') == (
    f'{block}/sk__conv2d/conv2d_fixed_padding_5/conv2d_5/kernel'
  )
  assert kernel('layer1_0/sk/squeeze_conv') == (
    f'{block}/sk__conv2d/conv2d_6/kernel'
  )
  assert kernel('layer1_0/sk/expand_conv') == (
    f'{block}/sk__conv2d/conv2d_7/kernel'
  )
  assert kernel('layer1_0/conv3') == (
    f'{block}/conv2d_fixed_padding_6/conv2d_8/kernel'
  )
  assert kernel('layer1_1/sk/conv') == (
    f'{block}_1/sk__conv2d_1/conv2d_fixed_padding_8/conv2d_10/kernel'
  )


def test_squeeze_excite_names():
  """As tf-keras 2.21 names the official layers; no manifest has SE."""
  names = names_of(depth=50, se_ratio=0.25)
  assert len(names) == 345
  block = 'resnet/block_group1/bottleneck_block'
  scope = 'params/backbone/layer1_0/se'
  assert names[f'{scope}/reduce/kernel'] == f'{block}/se__layer/conv2d_5/kernel'
  assert names[f'{scope}/expand/bias'] == f'{block}/se__layer/conv2d_6/bias'


@pytest.mark.parametrize('depth', [34, 101, 152, 200])
def test_names_are_distinct(depth):
  names = names_of(depth=depth, width=2.0)
  assert len(set(names.values())) == len(names)


def test_round_trip(arrays):
  variables = official_names.from_official(arrays, SMALL, **MODEL)
  model = models.make_model(SMALL, **MODEL)
  shapes = models.abstract_variables(model, image_size=32)
  assert jax.tree.structure(variables) == jax.tree.structure(shapes)
  back = official_names.to_official(variables, SMALL, **MODEL)
  assert back.keys() == arrays.keys()
  for name, value in back.items():
    np.testing.assert_array_equal(value, arrays[name])
  suffixed = {f'{k}:0': v for k, v in arrays.items()}
  again = official_names.from_official(suffixed, SMALL, **MODEL)
  assert jax.tree.all(jax.tree.map(np.array_equal, again, variables))


def test_lists_every_mismatch(arrays):
  broken = dict(arrays)
  kernel = 'resnet/conv2d_fixed_padding/conv2d/kernel'
  gamma = 'resnet/batch_norm_relu/sync_batch_normalization/gamma'
  broken[kernel] = np.zeros((7, 7, 3, 64), np.float32)
  del broken[gamma]
  broken['global_step'] = np.zeros((), np.int64)
  with pytest.raises(ValueError) as error:
    official_names.from_official(broken, SMALL, **MODEL)
  message = str(error.value)
  assert '3 official variables do not match' in message
  assert f'missing: {gamma}' in message
  assert 'unexpected: global_step' in message
  assert f'shape: {kernel} is [7, 7, 3, 64]' in message


def test_to_official_is_strict(arrays):
  variables = official_names.from_official(arrays, SMALL, **MODEL)
  del variables['params']['online_head']
  with pytest.raises(ValueError, match='missing: params/online_head/bias'):
    official_names.to_official(variables, SMALL, **MODEL)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('width', 0.25),
    ('padding', 'torch'),
    ('shortcut', 'shape'),
    ('bn_epsilon', 1e-3),
    ('head', 'linear'),
    ('head_norm', 'none'),
    ('head_hidden', 512),
  ],
)
def test_refuses_what_the_official_code_lacks(field, value):
  with pytest.raises(ValueError, match=rf'config\.model\.{field} = '):
    names_of(depth=50, **{field: value})


@pytest.mark.parametrize(
  ('stem', 'image_size'), [('cifar', 33), ('imagenet', 32)]
)
def test_refuses_the_stem_of_another_size(stem, image_size):
  """The official code goes by the size alone: same names, other function."""
  with pytest.raises(ValueError, match=r'config\.model\.stem = '):
    names_of(image_size, depth=18, stem=stem)
  other = 224 if stem == 'imagenet' else 32
  assert names_of(other, depth=18, stem=stem) == names_of(other, depth=18)
