"""Official checkpoints: the golden weights in, the golden features out."""

from __future__ import annotations

import importlib.util
import json

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.data.lazy_tf import tf
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.importers import (
  job,
  official_keys,
  official_names,
  official_tf1,
  tf_files,
)
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec('tensorflow') is None, reason='needs TensorFlow'
)
CASES = {
  'r18_cifar': {'data': {'image_size': 32}, 'model': {'depth': 18}},
  'r50': {'data': {'image_size': 64}, 'model': {'depth': 50}},
}
SK = {'depth': 50, 'sk_ratio': 0.0625}


def config_of(case: str) -> config_lib.Config:
  # Only a name is needed of the data.
  sections = {k: dict(v) for k, v in CASES[case].items()}
  sections['data']['name'] = 'cifar10'
  return config_lib.replace(config_lib.Config(), **sections)


@pytest.fixture(scope='module')
def rule(golden_dir):
  """The golden rule for weights: official_weights.py."""
  spec = importlib.util.spec_from_file_location(
    'official_weights', golden_dir / 'official_weights.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope='module')
def manifests(golden_dir):
  return {
    case: json.loads((golden_dir / f'manifests/{case}.json').read_text())
    for case in CASES
  }


def tf1_arrays(manifest, rule, case):
  """The golden weights under the names of the TF1 code."""
  config = config_of(case)
  size = {'image_size': config.data.image_size, 'num_classes': 10}
  weights = rule.make_weights(manifest)
  tf2 = official_names.official_names(config.model, **size)
  tf1 = official_tf1.tf1_names(config.model, **size)
  return {tf1[path]: weights[name] for path, name in tf2.items()}


def write(kind, case, folder, rule, manifests):
  """A checkpoint as the official code leaves it; its path."""
  manifest = manifests[case]
  if kind == 'official_tf2':
    rule.write_checkpoint(
      manifest, str(folder / 'ckpt-7'), optimizer='lars-schedule'
    )
    return folder
  arrays = tf1_arrays(manifest, rule, case)
  step = {'global_step': np.array(7, np.int64)}
  slots = {f'{n}/Momentum': a for n, a in arrays.items() if 'moving' not in n}
  ema = {f'ema_model/{n}': a for n, a in list(arrays.items())[:3]}
  path = folder / 'model.ckpt-7'
  tf_files.write_named(path, {**arrays, **step, **slots, **ema})
  return path


def features(workdir, images):
  encoder = encoder_lib.make_encoder(
    checkpoint.load_encoder(workdir),
    mesh=mesh_lib.make_mesh(jax.devices()[:1]),
  )
  return {k: np.asarray(v) for k, v in encoder.encode(images).items()}


@pytest.mark.parametrize(
  ('kind', 'case'),
  [
    ('official_tf2', 'r18_cifar'),
    ('official_tf2', 'r50'),
    ('official_tf1', 'r18_cifar'),
    ('official_tf1', 'r50'),
  ],
)
def test_golden_features(kind, case, tmp_path, rule, manifests, golden):
  source = write(kind, case, tmp_path / 'official', rule, manifests)
  imported = job.import_checkpoint(
    source, kind, out=tmp_path / 'run', config=config_of(case)
  )
  assert imported.match.is_full
  assert len(imported.match.loaded) == len(manifests[case]['variables'])
  assert 'optimizer' in imported.match.left_out
  loaded = checkpoint.load_encoder(tmp_path / 'run')
  assert loaded.step == 7
  assert loaded.passport['preprocessing']['mean'] is None
  assert loaded.passport['data']['num_classes'] == 10
  images = golden('resnet_inputs')[manifests[case]['input']]
  got = features(tmp_path / 'run', images)
  reference = golden(f'resnet_{case}')
  for name in ('h', 'z'):
    want = reference[f'f64/eval_{name}']
    assert np.abs(got[name] - want).max() < 5e-6 * np.abs(want).max()


@pytest.mark.parametrize('case', CASES)
def test_keys_are_those_of_the_manifests(case, manifests):
  config = config_of(case)
  size = {'image_size': config.data.image_size, 'num_classes': 10}
  keys = official_keys.official_keys(config.model, **size)
  names = official_names.official_names(config.model, **size)
  assert {names[p]: k + official_keys.VALUE for p, k in keys.items()} == {
    v['name']: v['checkpoint_key'] for v in manifests[case]['variables']
  }


@pytest.mark.parametrize(
  'fields', [{'depth': 50}, SK, {'depth': 34, 'se_ratio': 0.25}]
)
def test_tf1_numbers_are_those_of_tf2(fields):
  """Both codes make layers in the same order, and number kinds alike."""
  model = config_lib.ModelConfig(**fields)
  size = {'image_size': 224, 'num_classes': 10}
  tf1 = official_tf1.tf1_names(model, **size)
  for path, name in official_names.official_names(model, **size).items():
    *scopes, leaf = name.split('/')
    if scopes[0] == 'resnet':
      kind = scopes[-1].replace('sync_', '')
      assert tf1[path] == f'base_model/{kind}/{leaf}'
  assert len(set(tf1.values())) == len(tf1)
  nl = 'head_contrastive/nl_1'
  assert tf1['params/head/dense2/kernel'] == f'{nl}/dense/kernel'
  assert tf1['batch_stats/head/bn2/var'] == (
    f'{nl}/batch_normalization/moving_variance'
  )
  assert tf1['params/online_head/bias'] == (
    'head_supervised/linear_layer/dense/bias'
  )


def test_keys_of_selective_kernels():
  """By the constructors of tf2/resnet.py; no manifest has SK."""
  keys = official_keys.official_keys(
    config_lib.ModelConfig(**SK), image_size=224, num_classes=0
  )
  stem = 'model/resnet_model/initial_conv_relu_max_pool'
  assert keys['params/backbone/conv3/kernel'] == f'{stem}/4/conv2d/kernel'
  assert keys['params/backbone/bn3/scale'] == f'{stem}/6/bn/gamma'
  groups = 'model/resnet_model/block_groups'
  assert keys['params/backbone/layer1_0/downsample_conv/kernel'] == (
    f'{groups}/0/layers/0/projection_layers/1/conv2d/kernel'
  )
  assert keys['params/backbone/layer2_0/downsample_bn/bias'] == (
    f'{groups}/1/layers/0/projection_layers/3/bn/beta'
  )
  block = f'{groups}/1/layers/2/conv_relu_dropblock_layers'
  assert keys['params/backbone/layer2_2/sk/squeeze_conv/kernel'] == (
    f'{block}/3/conv2d_0/kernel'
  )
  assert keys['batch_stats/backbone/layer2_2/bn3/mean'] == (
    f'{block}/6/bn/moving_mean'
  )
  assert len(set(keys.values())) == len(keys)


def small_tf1(tmp_path, *, head=True, classes=3, model=None):
  """A ResNet-18 for 32 px by TF1's names, with random numbers."""
  config = config_lib.ModelConfig(**(model or {'depth': 18, 'head_layers': 1}))
  names = official_tf1.tf1_names(config, image_size=32, num_classes=classes)
  net = models.make_model(config, image_size=32, num_classes=classes)
  shapes = models.flat_paths(models.abstract_variables(net, image_size=32))
  rng = np.random.default_rng(0)
  arrays = {
    name: rng.uniform(0.5, 1.5, shapes[path].shape).astype(np.float32)
    for path, name in names.items()
    if head or 'head_contrastive' not in name
  }
  return tmp_path / 'model.ckpt-0', arrays


SMALL = config_lib.replace(
  config_lib.Config(),
  data={'name': 'cifar10', 'image_size': 32},
  model={'depth': 18, 'head_layers': 1},
)


def refused(path, arrays, tmp_path, **arguments):
  tf_files.write_named(path, arrays)
  with pytest.raises(ValueError) as error:
    job.import_checkpoint(
      path, 'official_tf1', out=tmp_path / 'run', config=SMALL, **arguments
    )
  assert not (tmp_path / 'run').exists()
  return str(error.value)


def test_every_difference_is_named(tmp_path):
  path, arrays = small_tf1(tmp_path)
  del arrays['base_model/conv2d_3/kernel']
  arrays['base_model/conv2d/kernel'] = np.zeros((7, 7, 3, 64), np.float32)
  arrays['base_model/conv2d_99/kernel'] = np.zeros((1, 1, 3, 4), np.float32)
  arrays['base_model/batch_normalization/gamma'] = np.ones(64)
  message = refused(path, arrays, tmp_path)
  assert '1 missing: base_model/conv2d_3/kernel' in message
  assert '1 unexpected: base_model/conv2d_99/kernel' in message
  assert '2 misshapen: ' in message
  assert 'base_model/conv2d/kernel [7, 7, 3, 64], the network' in message
  assert 'base_model/batch_normalization/gamma is float64' in message


def test_one_array_too_many_is_refused(tmp_path):
  path, arrays = small_tf1(tmp_path)
  arrays['base_model/conv2d_99/kernel'] = np.zeros((1, 1, 3, 4), np.float32)
  message = refused(path, arrays, tmp_path)
  assert '0 missing\n' in message and '0 misshapen\n' in message


def test_a_head_is_missing_only_if_that_is_asked_for(tmp_path):
  path, arrays = small_tf1(tmp_path, head=False)
  message = refused(path, arrays, tmp_path)
  assert '--allow_missing=head' in message
  imported = job.import_checkpoint(
    path,
    'official_tf1',
    out=tmp_path / 'run',
    config=SMALL,
    allow_missing=['head'],
  )
  assert any(c.startswith('model.head: ') for c in imported.decided)
  loaded = checkpoint.load_encoder(tmp_path / 'run')
  assert 'head' not in loaded.variables['params']
  # z is h: nothing was initialised in the place of what the file lacks.
  images = np.random.default_rng(1).uniform(size=(8, 32, 32, 3))
  got = features(tmp_path / 'run', images.astype(np.float32))
  np.testing.assert_array_equal(got['h'], got['z'])


def test_half_a_head_is_never_allowed(tmp_path):
  path, arrays = small_tf1(tmp_path)
  del arrays['head_contrastive/nl_0/dense/kernel']
  message = refused(path, arrays, tmp_path, allow_missing=['head'])
  assert '1 missing: head_contrastive/nl_0/dense/kernel' in message


def test_leaves_out_and_chooses_by_beginnings(tmp_path):
  path, arrays = small_tf1(tmp_path)
  ema = {f'ema_model/{n}': 2 * a for n, a in arrays.items()}
  tf_files.write_named(path, {**arrays, **ema})
  imported = job.import_checkpoint(
    path,
    'official_tf1',
    out=tmp_path / 'run',
    config=SMALL,
    prefix='ema_model/',
    leave_out=['head_supervised'],
  )
  assert imported.match.left_out['asked for'] == (
    'head_supervised/linear_layer/dense/bias',
    'head_supervised/linear_layer/dense/kernel',
  )
  variables = checkpoint.load_encoder(tmp_path / 'run').variables
  assert 'online_head' not in variables['params']
  np.testing.assert_array_equal(
    variables['params']['backbone']['conv1']['kernel'],
    2 * arrays['base_model/conv2d/kernel'],
  )


def test_selective_kernels_and_two_layers(tmp_path):
  """v2's files: every array of an SK network is read back unchanged."""
  model = {'depth': 50, 'sk_ratio': 0.0625, 'head_layers': 2}
  path, arrays = small_tf1(tmp_path, model=model, classes=0)
  tf_files.write_named(path, arrays)
  config = config_lib.replace(SMALL, model=model)
  imported = job.import_checkpoint(
    path, 'official_tf1', out=tmp_path / 'run', config=config
  )
  assert imported.match.is_full
  names = official_tf1.tf1_names(config.model, image_size=32, num_classes=0)
  # Each of the 16 blocks has its kernels; 18 and 34 layers have none.
  assert sum(ours.endswith('sk/squeeze_conv/kernel') for ours in names) == 16
  variables = checkpoint.load_encoder(tmp_path / 'run').variables
  flat = models.flat_paths(variables)
  assert flat.keys() == names.keys() and len(flat) == len(arrays)
  for ours, name in names.items():
    np.testing.assert_array_equal(flat[ours], arrays[name], err_msg=ours)


def test_the_other_kind_of_file_is_named(tmp_path):
  path, arrays = small_tf1(tmp_path)
  tf_files.write_named(path, arrays)
  with pytest.raises(ValueError, match='--format=official_tf1'):
    job.import_checkpoint(
      path, 'official_tf2', out=tmp_path / 'run', config=SMALL
    )
  with pytest.raises(ValueError, match='no TensorFlow checkpoint'):
    job.import_checkpoint(
      tmp_path / 'none', 'official_tf1', out=tmp_path / 'run', config=SMALL
    )
  with pytest.raises(ValueError, match='near random'):
    job.import_checkpoint(
      path,
      'official_tf1',
      out=tmp_path / 'run',
      config=SMALL,
      normalize='imagenet',
    )


def test_saved_models_are_read_by_their_objects(tmp_path):
  """As the official code releases them; keys are the graph's affair."""
  path, arrays = small_tf1(tmp_path, classes=0)
  del path
  keys = official_keys.official_keys(SMALL.model, image_size=32, num_classes=0)
  names = official_tf1.tf1_names(SMALL.model, image_size=32, num_classes=0)
  root = tf.Module()
  for ours, key in keys.items():
    *attributes, last = key.split('/')
    node = root
    for attribute in attributes:
      if getattr(node, attribute, None) is None:
        setattr(node, attribute, tf.Module())
      node = getattr(node, attribute)
    setattr(node, last, tf.Variable(arrays[names[ours]]))
  tf.saved_model.save(root, str(tmp_path / 'saved'))
  job.import_checkpoint(
    tmp_path / 'saved', 'official_tf2', out=tmp_path / 'run', config=SMALL
  )
  variables = checkpoint.load_encoder(tmp_path / 'run').variables
  flat = models.flat_paths(variables)
  for ours, name in names.items():
    np.testing.assert_array_equal(flat[ours], arrays[name])
