"""State dicts of torch: the same features as torch's own network gives."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import jobs
from simclr_jax.importers import job, state_dict, torch_names
from simclr_jax.training import ancestry, checkpoint
from simclr_jax.training import mesh as mesh_lib
from tests import small_run

torch = pytest.importorskip('torch', reason='needs PyTorch')
torchvision = pytest.importorskip('torchvision', reason='needs torchvision')
safetensors_torch = pytest.importorskip(
  'safetensors.torch', reason='needs safetensors'
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONFIG = config_lib.replace(
  small_run.CONFIG,
  data={
    'image_size': 16,
    'train_split': 'train[:24]',
    'test_split': 'test[:8]',
    'loader': 'opencv',
  },
  model={'head_layers': 1},
  eval={'batch_size': 8},
)


def fill(module):
  """Gives what PyTorch begins at 0 or 1 other numbers; in inference mode."""
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, value in module.state_dict().items():
      if 'running_var' in name or value.ndim == 1 and 'weight' in name:
        value.uniform_(0.5, 1.5, generator=generator)
      elif value.ndim == 1:
        value.normal_(0, 0.2, generator=generator)
  return module.eval()


def make_resnet(*, cifar_padding: int | None = None, classes: int = 0):
  """torchvision's ResNet-18 with numbers that leave nothing at its default."""
  torch.manual_seed(0)
  module = torchvision.models.resnet18(num_classes=max(classes, 1))
  if not classes:
    module.fc = torch.nn.Identity()
  if cifar_padding is not None:
    module.conv1 = torch.nn.Conv2d(
      3, 64, kernel_size=3, padding=cifar_padding, bias=False
    )
    module.maxpool = torch.nn.Identity()
  return fill(module)


def torch_features(module, images):
  shown = (images - np.float32(MEAN)) / np.float32(STD)
  with torch.no_grad():
    return module(torch.from_numpy(shown.transpose(0, 3, 1, 2).copy()))


def save(path, arrays):
  arrays = {n: a.contiguous() for n, a in arrays.items()}
  if path.suffix == '.safetensors':
    safetensors_torch.save_file(arrays, path)
  else:
    torch.save({'state_dict': arrays, 'epoch': 3}, path)
  return path


def our_features(workdir, images):
  encoder = encoder_lib.make_encoder(
    checkpoint.load_encoder(workdir),
    mesh=mesh_lib.make_mesh(jax.devices()[:1]),
  )
  return {k: np.asarray(v) for k, v in encoder.encode(images).items()}


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  return rng.uniform(size=(8, 16, 16, 3)).astype(np.float32)


def assert_close(got, want, *, rtol=1e-5):
  want = want.numpy()
  assert np.abs(got - want).max() < rtol * np.abs(want).max()


def test_torchvision(tmp_path, images):
  """Even sides: official padding would be another network."""
  module = make_resnet(classes=5)
  source = save(tmp_path / 'r18.pth', module.state_dict())
  imported = job.import_checkpoint(
    source,
    'torchvision',
    out=tmp_path / 'run',
    config=CONFIG,
    normalize='imagenet',
  )
  assert imported.match.counts()['loaded'] == 102
  assert "model.padding: 'official' -> 'torch'" in imported.decided
  assert imported.passport['preprocessing']['mean'] == list(MEAN)
  got = our_features(tmp_path / 'run', images)
  logits = torch_features(module, images)
  head = checkpoint.load_encoder(tmp_path / 'run').variables['params'][
    'online_head'
  ]
  assert_close(got['h'] @ head['kernel'] + head['bias'], logits)
  module.fc = torch.nn.Identity()
  assert_close(got['h'], torch_features(module, images))


@pytest.mark.parametrize('layout', ['names', 'children', 'generator'])
def test_lightly(tmp_path, images, layout):
  """Its three ways of naming a backbone; its head is not ours."""
  module = make_resnet(cifar_padding=1 if layout == 'generator' else None)
  children = {'conv1': 0, 'bn1': 1}
  first = 2 if layout == 'generator' else 4
  children |= {f'layer{k}': first + k - 1 for k in (1, 2, 3, 4)}
  arrays = {}
  for name, value in module.state_dict().items():
    scope, _, rest = name.partition('.')
    if layout != 'names':
      name = f'{children[scope]}.{rest}'
    if layout == 'generator':
      name = name.replace('downsample', 'shortcut')
    arrays[f'backbone.{name}'] = value
  head = torch.nn.BatchNorm1d(4).state_dict()
  arrays |= {f'projection_head.layers.1.{n}': v for n, v in head.items()}
  arrays['projection_head.layers.0.weight'] = torch.ones(4, 512)
  source = save(tmp_path / 'model.safetensors', arrays)
  arguments = {'config': CONFIG, 'normalize': 'imagenet'}
  with pytest.raises(ValueError, match='allow_missing=head'):
    job.import_checkpoint(source, 'lightly', out=tmp_path / 'run', **arguments)
  job.import_checkpoint(
    source,
    'lightly',
    out=tmp_path / 'run',
    leave_out=['projection_head'],
    allow_missing=['head'],
    **arguments,
  )
  loaded = checkpoint.load_encoder(tmp_path / 'run')
  left_out = loaded.passport['imported']['left_out']
  told = ancestry.tell(loaded.passport)
  assert told.origin.startswith('Imported from model.safetensors (format lig')
  assert f'{left_out["asked for"]} left out (asked for)' in told.origin
  assert 'no projection head: z is h' in told.origin
  assert dict(told.facts)['Input'].startswith('mean [0.485, 0.456, 0.406], std')
  flat = models.flat_paths(loaded.variables)
  names = torch_names.torch_names(
    config_lib.ModelConfig(depth=18, shortcut='shape'), num_classes=0
  )
  assert flat.keys() == names.keys()
  for path, name in names.items():
    want = module.state_dict()[name].numpy()
    np.testing.assert_array_equal(torch_names.to_torch(flat[path]), want)
  if layout == 'generator':  # Its stem is CIFAR's, padded by one.
    got = our_features(tmp_path / 'run', images)
    assert_close(got['h'], torch_features(module, images))


class LightlySimCLR(torch.nn.Module):
  """As lightly's documentation builds it, from lightly's own parts."""

  def __init__(self, heads, module, *, batch_norm: bool):
    super().__init__()
    self.backbone = torch.nn.Sequential(*list(module.children())[:-1])
    self.projection_head = heads.SimCLRProjectionHead(
      512, 12, 6, batch_norm=batch_norm
    )

  def forward(self, x):
    return self.projection_head(self.backbone(x).flatten(start_dim=1))


def test_lightlys_own_head_without_batch_norm(tmp_path, images):
  """Linear layers with ReLU between them: features and projections alike."""
  heads = pytest.importorskip('lightly.models.modules.heads')
  module = make_resnet()
  model = LightlySimCLR(heads, module, batch_norm=False).eval()
  imported = job.import_checkpoint(
    save(tmp_path / 'model.pth', model.state_dict()),
    'lightly',
    out=tmp_path / 'run',
    config=CONFIG,
    normalize='imagenet',
  )
  assert imported.match.is_full
  got = our_features(tmp_path / 'run', images)
  assert_close(got['h'], torch_features(module, images))
  assert_close(got['z'], torch_features(model, images))


def test_lightlys_own_head_with_batch_norm(tmp_path):
  """Its default; the bias of its last norm is none that ours has."""
  heads = pytest.importorskip('lightly.models.modules.heads')
  model = LightlySimCLR(heads, make_resnet(), batch_norm=True)
  source = save(tmp_path / 'model.pth', model.state_dict())
  arguments = {'config': CONFIG, 'normalize': 'imagenet'}
  with pytest.raises(ValueError) as error:
    job.import_checkpoint(source, 'lightly', out=tmp_path / 'run', **arguments)
  way = '--leave_out=projection_head.layers --allow_missing=head'
  assert way in str(error.value)
  # The way that the error names, in the words in which it names it.
  job.import_checkpoint(
    source,
    'lightly',
    out=tmp_path / 'run',
    leave_out=['projection_head.layers'],
    allow_missing=['head'],
    **arguments,
  )
  kernel = checkpoint.load_encoder(tmp_path / 'run').variables['params'][
    'backbone'
  ]['conv1']['kernel']
  want = model.backbone[0].weight.detach().numpy()
  np.testing.assert_array_equal(torch_names.to_torch(kernel), want)


def test_timm(tmp_path, images):
  """The network that timm builds, its classifier, and no variant of it."""
  timm = pytest.importorskip('timm')
  torch.manual_seed(0)
  module = timm.create_model('resnet18', num_classes=5)
  fill(module)
  imported = job.import_checkpoint(
    save(tmp_path / 'timm.safetensors', module.state_dict()),
    'timm',
    out=tmp_path / 'run',
    config=CONFIG,
    normalize='imagenet',
  )
  assert imported.match.counts()['loaded'] == 102
  got = our_features(tmp_path / 'run', images)
  head = checkpoint.load_encoder(tmp_path / 'run').variables['params'][
    'online_head'
  ]
  logits = torch_features(module, images)
  assert_close(got['h'] @ head['kernel'] + head['bias'], logits)
  module.reset_classifier(0)
  assert_close(got['h'], torch_features(module, images))
  variant = timm.create_model('resnet18d', num_classes=5)
  with pytest.raises(ValueError, match=r'one network with a conv1\.weight'):
    job.import_checkpoint(
      save(tmp_path / 'variant.safetensors', variant.state_dict()),
      'timm',
      out=tmp_path / 'other',
      config=CONFIG,
      normalize='imagenet',
    )


@pytest.fixture(scope='module')
def solo_learn(tmp_path_factory):
  """(workdir of an import, torch backbone, torch projector)."""
  folder = tmp_path_factory.mktemp('solo_learn')
  module = make_resnet(cifar_padding=2)
  projector = torch.nn.Sequential(
    torch.nn.Linear(512, 12), torch.nn.ReLU(), torch.nn.Linear(12, 6)
  )
  classifier = torch.nn.Linear(512, 5)
  arrays = {f'backbone.{n}': v for n, v in module.state_dict().items()}
  arrays |= {f'projector.{n}': v for n, v in projector.state_dict().items()}
  arrays |= {f'classifier.{n}': v for n, v in classifier.state_dict().items()}
  job.import_checkpoint(
    save(folder / 'last.ckpt', arrays),
    'solo_learn',
    out=folder / 'run',
    config=CONFIG,
    normalize=f'{",".join(map(str, MEAN))}/{",".join(map(str, STD))}',
  )
  return folder / 'run', module, projector


def test_solo_learn_pads_by_two(solo_learn, images):
  workdir, module, projector = solo_learn
  got = our_features(workdir, images)
  h = torch_features(module, images)
  assert_close(got['h'], h)
  with torch.no_grad():
    assert_close(got['z'], projector(h))
  # The stem with another padding is another network: this can fail.
  other = make_resnet(cifar_padding=1)
  assert np.abs(got['h'] - torch_features(other, images).numpy()).max() > 1e-2


def test_commands_take_an_imported_checkpoint(solo_learn, tmp_path):
  workdir, _, _ = solo_learn
  mesh = mesh_lib.make_mesh(jax.devices()[:1])
  subject = jobs.open_subject(workdir, mesh=mesh)
  knn = jobs.run_knn(subject, out=tmp_path / 'knn.json')
  assert 0 <= knn['result']['headline']['top1'] <= 1
  # Features are of normalised, padded pictures, and cached as such.
  train, _ = subject.features()
  plain = encoder_lib.Encoder(
    kind='checkpoint',
    apply_fn=subject.encoder.apply_fn,
    variables=subject.encoder.variables,
    config=subject.encoder.config,
    mesh=subject.mesh,
  )
  assert plain.function_hash() != subject.encoder.function_hash()
  assert train.h.shape == (24, 512)


def test_half_precision_is_widened_and_double_refused(tmp_path):
  arrays = make_resnet().state_dict()
  half = {
    n: v.to(torch.bfloat16) if v.is_floating_point() else v
    for n, v in arrays.items()
  }
  arguments = {'config': CONFIG, 'normalize': 'none'}
  imported = job.import_checkpoint(
    save(tmp_path / 'half.safetensors', half),
    'timm',
    out=tmp_path / 'run',
    **arguments,
  )
  assert 'bfloat16 widened to float32: exact' in imported.notes
  kernel = checkpoint.load_encoder(tmp_path / 'run').variables['params'][
    'backbone'
  ]['conv1']['kernel']
  want = half['conv1.weight'].to(torch.float32).numpy()
  np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), want)
  arrays['bn1.weight'] = arrays['bn1.weight'].double()
  with pytest.raises(ValueError, match=r'bn1\.weight is float64, float32'):
    job.import_checkpoint(
      save(tmp_path / 'double.pth', arrays),
      'timm',
      out=tmp_path / 'other',
      **arguments,
    )


def test_what_a_file_does_not_say_has_to_be_said(tmp_path):
  arrays = make_resnet().state_dict()
  source = save(tmp_path / 'm.safetensors', arrays)
  with pytest.raises(ValueError, match='--normalize is wanted'):
    job.import_checkpoint(
      source, 'torchvision', out=tmp_path / 'run', config=CONFIG
    )
  for wrong in ('imgnet', '1,2/3,4', '1,2,3/0,1,1'):
    with pytest.raises(ValueError, match='three means and three'):
      job.import_checkpoint(
        source,
        'torchvision',
        out=tmp_path / 'run',
        config=CONFIG,
        normalize=wrong,
      )
  assert not (tmp_path / 'run').exists()


def test_two_networks_in_a_file_want_a_choice(tmp_path):
  arrays = make_resnet().state_dict()
  both = {f'encoder_q.{n}': v for n, v in arrays.items()}
  both |= {f'encoder_k.{n}': v + 1 for n, v in arrays.items()}
  source = save(tmp_path / 'moco.pth', both)
  arguments = {'config': CONFIG, 'normalize': 'imagenet'}
  with pytest.raises(ValueError, match=r"'encoder_k\.', 'encoder_q\.'"):
    job.import_checkpoint(
      source, 'torchvision', out=tmp_path / 'run', **arguments
    )
  imported = job.import_checkpoint(
    source,
    'torchvision',
    out=tmp_path / 'run',
    prefix='encoder_q',
    leave_out=['encoder_k.'],
    **arguments,
  )
  assert len(imported.match.loaded) == 100


def test_a_pickle_that_runs_code_is_not_loaded(tmp_path):
  class Bomb:
    def __reduce__(self):
      return (pytest.fail, ('a pickle ran code',))

  torch.save({'state_dict': Bomb()}, tmp_path / 'bomb.pth')
  with pytest.raises(ValueError, match='is never loaded here'):
    state_dict.read(tmp_path / 'bomb.pth')
  (tmp_path / 'cut.safetensors').write_bytes(b'\x10' + b'\0' * 7 + b'{"a":')
  with pytest.raises(ValueError, match=r'no readable \.safetensors'):
    state_dict.read(tmp_path / 'cut.safetensors')


@pytest.mark.parametrize('depth', [18, 50])
def test_names_and_shapes_are_torchvisions(depth):
  """Of the whole network, without computing anything."""
  config = config_lib.ModelConfig(
    depth=depth, shortcut='shape', padding='torch', head='none'
  )
  with torch.device('meta'):
    module = getattr(torchvision.models, f'resnet{depth}')(num_classes=7)
  want = {
    name: tuple(value.shape)
    for name, value in module.state_dict().items()
    if 'num_batches' not in name
  }
  net = models.make_model(config, image_size=64, num_classes=7)
  shapes = models.flat_paths(models.abstract_variables(net, image_size=64))
  names = torch_names.torch_names(config, num_classes=7)
  got = {
    names[path]: torch_names.to_torch(np.broadcast_to(0, leaf.shape)).shape
    for path, leaf in shapes.items()
  }
  assert got == want
  assert torch_names.find_depth(dict.fromkeys(want, np.zeros(()))) == depth
