"""Every format, loaded by the program it is for, and imported again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.exporters import job, pictures, torch_network
from simclr_jax.exporters.network import Options, make_network
from simclr_jax.importers import job as import_job
from simclr_jax.importers import tf_files
from simclr_jax.training import checkpoint
from tests import small_run

ALL = ('h', 'z', 'logits')
SIZE = 34  # The stem gives 17 x 17: odd, so both paddings are the same.


def save_run(path, **model):
  size = model.pop('image_size', SIZE)
  config = config_lib.replace(
    small_run.CONFIG, data={'image_size': size}, model=model
  )
  small_run.save_small_run(path, config=config)
  return checkpoint.load_encoder(path)


@pytest.fixture(scope='module')
def narrow(tmp_path_factory):
  """What only we have: a thin network for small pictures."""
  return save_run(tmp_path_factory.mktemp('narrow'), image_size=8)


@pytest.fixture
def bits_only(monkeypatch):
  """Features are not compared where every bit is."""
  monkeypatch.setattr(job, 'compare', lambda *_: {})


@pytest.fixture
def one_network(monkeypatch, plain, shared):
  """Exports of `plain` share what is compiled."""
  monkeypatch.setattr(
    job, 'make_network', lambda loaded, outputs: shared[tuple(outputs)]
  )


@pytest.fixture(scope='module')
def shared(plain):
  network = make_network(plain, outputs=('h', 'logits'))
  return {('h', 'logits'): network}


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
  """A ResNet-18 as torchvision has it, trained with official padding."""
  return save_run(tmp_path_factory.mktemp('plain'), width=1.0, shortcut='shape')


def flat(loaded):
  return models.flat_paths(loaded.variables)


def assert_same_bits(one, two):
  assert one.keys() == two.keys()
  for path, value in one.items():
    assert value.dtype == two[path].dtype == np.float32
    np.testing.assert_array_equal(value, two[path])


@pytest.mark.parametrize('name', ['npz', 'safetensors'])
def test_weights_come_back_bit_for_bit(name, narrow, bits_only, tmp_path):
  if name == 'safetensors':
    pytest.importorskip('safetensors', reason='needs safetensors')
  job.export(narrow, name, out=tmp_path / 'out', outputs=ALL)
  again = import_job.import_checkpoint(
    tmp_path / 'out', name, out=tmp_path / 'run', config=None
  )
  # The config is that of the export; only the folder of the data is not known.
  assert not again.decided
  loaded = checkpoint.load_encoder(tmp_path / 'run')
  assert loaded.fingerprint == narrow.fingerprint
  assert loaded.step == 0 and loaded.passport['imported']['format'] == name


def test_official_files_come_back_bit_for_bit(bits_only, tmp_path):
  """Import, export, import: official TF2."""
  pytest.importorskip('tensorflow', reason='needs TensorFlow')
  first = save_run(
    tmp_path / 'run', width=1.0, image_size=8, head_layers=2, head_dim=4
  )
  job.export(first, 'official_tf2', out=tmp_path / 'one', outputs=ALL)
  config = config_lib.replace(
    small_run.CONFIG,
    model={'width': 1.0, 'head_layers': 2, 'head_dim': 4},
  )
  again = import_job.import_checkpoint(
    tmp_path / 'one' / 'ckpt',
    'official_tf2',
    out=tmp_path / 'two',
    config=config,
  )
  loaded = checkpoint.load_encoder(tmp_path / 'two')
  assert loaded.fingerprint == first.fingerprint
  assert loaded.step == 3 and again.match.is_full
  reader = tf_files.open_checkpoint(tmp_path / 'one' / 'ckpt', for_what='')
  assert 'global_step/.ATTRIBUTES/VARIABLE_VALUE' in tf_files.names_of(reader)


def test_torchvision(plain, shared, one_network, tmp_path):
  torch = pytest.importorskip('torch', reason='needs PyTorch')
  torchvision = pytest.importorskip('torchvision', reason='needs torchvision')
  exported = job.export(
    plain,
    'torchvision',
    out=tmp_path / 'out',
    outputs=('h', 'logits'),
    options=Options(pickle=True),
  )
  assert exported.description['export']['exact_for'].endswith('is 1 or 2')
  module = torchvision.models.resnet18(num_classes=8)
  arrays = torch.load(tmp_path / 'out' / 'model.pth', weights_only=True)
  module.load_state_dict(arrays, strict=True)
  network = shared['h', 'logits']
  images = pictures.real_pictures(network.config)
  with torch.no_grad():
    found = module.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
  want = network.features(images)['logits']
  assert np.abs(found.numpy() - want).max() < 1e-5 * np.abs(want).max()

  again = import_job.import_checkpoint(
    tmp_path / 'out' / 'model.safetensors',
    'torchvision',
    out=tmp_path / 'run',
    config=small_run.CONFIG,
    normalize='none',
  )
  want = {p: a for p, a in flat(plain).items() if '/head/' not in p}
  assert_same_bits(flat(checkpoint.load_encoder(tmp_path / 'run')), want)
  assert len(again.match.loaded) == len(want)


def test_timm(plain, one_network, tmp_path):
  pytest.importorskip('timm', reason='needs timm')
  exported = job.export(
    plain, 'timm', out=tmp_path / 'out', outputs=('h', 'logits')
  )
  assert exported.differences['h']['relative'] < 1e-5
  assert sorted(p.name for p in exported.folder.iterdir()) == [
    'README.md',
    'export.json',
    'model.safetensors',
  ]


def test_huggingface(plain, one_network, tmp_path):
  transformers = pytest.importorskip('transformers', reason='needs it')
  exported = job.export(
    plain,
    'huggingface',
    out=tmp_path / 'out',
    outputs=('h', 'logits'),
    options=Options(license='mit'),
  )
  assert exported.differences['h']['relative'] < 1e-5
  card = (exported.folder / 'README.md').read_text()
  assert card.startswith('---\nlibrary_name: transformers\n')
  assert '\nlicense: mit\n' in card and 'no mean and no std' in card
  config = transformers.AutoConfig.from_pretrained(exported.folder)
  assert config.num_labels == 8
  stated = json.loads(
    (exported.folder / 'preprocessor_config.json').read_text()
  )
  kind = getattr(transformers, stated['image_processor_type'])
  assert kind is not None and stated['size'] == {'shortest_edge': 39}
  assert stated['crop_size'] == {'height': 34, 'width': 34}
  assert not stated['do_normalize'] and stated['rescale_factor'] == 1 / 255


@pytest.mark.parametrize('name', ['stablehlo', 'saved_model', 'onnx'])
def test_programs(name, narrow, tmp_path):
  """Batches of eight and of three, by what runs them elsewhere."""
  needed = {'saved_model': 'tensorflow', 'onnx': 'onnxruntime'}.get(name, 'jax')
  pytest.importorskip(needed, reason=f'needs {needed}')
  if name == 'onnx':
    pytest.importorskip('torch', reason='needs PyTorch')
  exported = job.export(narrow, name, out=tmp_path / 'out', outputs=ALL)
  assert all(d['relative'] < 1e-5 for d in exported.differences.values())
  assert exported.description['export']['outputs'] == {
    'h': 32,
    'z': 4,
    'logits': 8,
  }


@pytest.mark.parametrize(
  'model',
  [
    {'depth': 50, 'sk_ratio': 0.0625, 'image_size': 36},
    {'se_ratio': 0.25, 'padding': 'torch', 'head_norm': 'none'},
  ],
)
def test_torch_network_is_ours(model, tmp_path):
  """Official padding of an even stem, SK, SE, both kinds of head."""
  torch = pytest.importorskip('torch', reason='needs PyTorch')
  network = make_network(save_run(tmp_path, **model), outputs=ALL)
  images = pictures.real_pictures(network.config)
  ours = network.features(images)
  with torch.no_grad():
    found = torch_network.make_module(network)(
      torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    )
  for name, theirs in zip(ALL, found, strict=True):
    difference = np.abs(ours[name] - theirs.numpy()).max()
    assert difference < 1e-5 * np.abs(ours[name]).max()
