"""An export appears whole and right, or not at all; the commands."""

from __future__ import annotations

import json

import numpy as np
import pytest

from simclr_jax import exporters
from simclr_jax.exporters import job, own, pictures
from simclr_jax.exporters.network import make_network
from simclr_jax.training import checkpoint
from tests import command_server, small_run


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  small_run.save_small_run(path)
  return path


@pytest.fixture(scope='module')
def loaded(workdir):
  return checkpoint.load_encoder(workdir)


@pytest.fixture(scope='module')
def network(loaded):
  """Compiled once for all tests of faults."""
  return make_network(loaded, outputs=('h',))


def plant(monkeypatch, network, change):
  """An exporter whose model differs from ours by `change`."""
  monkeypatch.setattr(job, 'make_network', lambda *_, **__: network)

  def export(network, folder, options):
    written = own.export_npz(network, folder, options)
    return written._replace(
      forward_fn=lambda images: {
        k: change(v) for k, v in written.forward_fn(images).items()
      }
    )

  monkeypatch.setitem(exporters.EXPORTERS, 'npz', export)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda h: h + 1e-3 * np.abs(h).max(), 'differs from the checkpoint'),
    (lambda h: np.where(h == h.max(), np.nan, h), 'is not finite'),
    (lambda h: h[:, :-1], r'is \[8, 31\], not \[8, 32\]'),
  ],
)
def test_a_wrong_model_leaves_nothing(
  change, message, loaded, network, tmp_path, monkeypatch
):
  plant(monkeypatch, network, change)
  with pytest.raises(job.ExportDiffers, match=message):
    job.export(loaded, 'npz', out=tmp_path / 'out')
  assert not list(tmp_path.iterdir())


def test_a_batch_that_was_fixed_shows(loaded, network, tmp_path, monkeypatch):
  """A program made for eight pictures gives the first of eight for three."""
  plant(
    monkeypatch, network, lambda h: h if len(h) == 8 else np.roll(h, 1, axis=0)
  )
  with pytest.raises(job.ExportDiffers, match='differs'):
    job.export(loaded, 'npz', out=tmp_path / 'out')


def test_an_interrupted_export_leaves_nothing(loaded, tmp_path, monkeypatch):
  def export(network, folder, options):
    (folder / 'half').write_text('half')
    raise KeyboardInterrupt

  monkeypatch.setitem(exporters.EXPORTERS, 'npz', export)
  with pytest.raises(KeyboardInterrupt):
    job.export(loaded, 'npz', out=tmp_path / 'out')
  assert not list(tmp_path.iterdir())


def test_says_what_the_files_want(loaded, tmp_path):
  exported = job.export(loaded, 'npz', out=tmp_path / 'out')
  described = json.loads((exported.folder / 'export.json').read_text())
  assert described['preprocessing']['input_range'] == [0.0, 1.0]
  assert described['preprocessing']['mean'] is None
  assert 'says nothing about weights' in described['export']['license']
  assert described['config']['model']['depth'] == 18
  text = (exported.folder / 'README.md').read_text()
  assert 'resized to 8 x 8 (bicubic, no antialias), no mean' in text
  # h alone: nothing of the heads.
  assert all('/backbone/' in n for n in np.load(exported.folder / 'model.npz'))
  with pytest.raises(ValueError, match='a new folder is wanted'):
    job.export(loaded, 'npz', out=tmp_path / 'out')


def test_no_folder_of_this_machine_is_told(loaded, tmp_path, monkeypatch):
  passport = json.loads(json.dumps(loaded.passport))
  passport['config']['data']['data_dir'] = '/home/somebody/data'
  passport['imported'] = {'source': '/home/somebody/model.ckpt'}
  changed = checkpoint.LoadedEncoder(
    loaded.variables, passport, 3, loaded.path, loaded.fingerprint
  )
  monkeypatch.setattr(job, 'compare', lambda *_: {})
  job.export(changed, 'npz', out=tmp_path / 'out')
  assert 'somebody' not in (tmp_path / 'out' / 'export.json').read_text()
  assert 'somebody' in json.dumps(passport)


@pytest.mark.parametrize(
  ('outputs', 'message'),
  [((), 'wanted are some of h, z'), (('h', 'h'), 'each once'), (('y',), 'y')],
)
def test_outputs_are_checked(loaded, outputs, message):
  with pytest.raises(ValueError, match=message):
    make_network(loaded, outputs=outputs)


def test_unknown_formats_list_the_known(loaded, tmp_path):
  with pytest.raises(ValueError, match="mean 'torchvision'.*known: npz, safe"):
    job.export(loaded, 'torchvison', out=tmp_path / 'out')


def test_pictures_are_real_and_different(loaded):
  images = pictures.real_pictures(make_network(loaded, outputs=('h',)).config)
  assert images.shape == (8, 8, 8, 3) and images.dtype == np.float32
  assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.1
  distances = np.abs(images[:, None] - images[None]).mean(axis=(2, 3, 4))
  assert distances[~np.eye(8, dtype=bool)].min() > 0.02


def test_commands(workdir, tmp_path):
  """Export, import and their exit codes, as the shell sees them."""
  with command_server.Server({}) as server:

    def run(module, *arguments):
      return server.run(module, arguments, cwd=tmp_path, timeout=200)

    common = (f'--checkpoint={workdir}', '--format=npz', '--outputs=h,z,logits')
    done = run('export', *common, '--out=out')
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith('h: largest difference ')
    assert lines[3].startswith(f'-> {tmp_path}/out (')
    assert (tmp_path / 'out' / 'export.json').exists()

    failed = run('export', *common, '--out=/proc/none/out')
    assert failed.code == 1 and '/proc/none' in failed.err

    wrong = run('export', *common, '--out=out')
    assert wrong.code == 2 and 'error: --out=' in wrong.err
    assert 'Traceback' not in wrong.err

    done = run(
      'import_checkpoint', '--source=out', '--format=npz', '--out=again'
    )
    assert done.code == 0, done.err
    assert '0 missing\n' in done.out and '0 unexpected\n' in done.out
    wrong = run(
      'import_checkpoint', '--source=none', '--format=npzz', '--out=x'
    )
    assert wrong.code == 2 and "did you mean 'npz'?" in wrong.err
  again = checkpoint.load_encoder(tmp_path / 'again')
  assert again.fingerprint == checkpoint.load_encoder(workdir).fingerprint


LINK = {
  'path': '/home/somebody/runs/mine/checkpoints/3',
  'step': 3,
  'objective': 'simclr',
  'fingerprint': 'abcdef0123456789',
}
LABELLED = {
  'num_fit': 80,
  'num_holdout': 20,
  'whole': '/home/somebody/pictures/pets/train',
}
DISTILL = {
  'teacher': {**LINK, 'objective': 'finetune'},
  'labelled': {**LABELLED, 'whole': '/home/somebody/other/train'},
  'config': {'temperature': 0.5},
}
IMPORTED = {
  'format': 'torchvision',
  'source': '/home/somebody/weights/resnet50.safetensors',
  'arrays': {'loaded': 265},
  'left_out': {'asked for': 2},
  'notes': [],
  'description': {},
}


@pytest.mark.parametrize(
  ('objective', 'section', 'tags', 'heading', 'said'),
  [
    (
      'simclr',
      {},
      '[simclr, self-supervised, resnet]',
      'SimCLR',
      'SimCLR pretraining on pets/train (96 pictures, without their labels)',
    ),
    (
      'finetune',
      {'start': {'kind': 'checkpoint', **LINK}, 'labelled': LABELLED},
      '[fine-tuned, resnet]',
      'Fine-tuned classifier',
      'trained on 80 labels (20 more held out to choose the step) of pets/'
      'train: step 3 of 3, batch 32. It began with an encoder pretrained with '
      'SimCLR',
    ),
    (
      'distill',
      DISTILL,
      '[knowledge-distillation, resnet]',
      'Distilled classifier',
      'predictions of a classifier trained on labels (step 3, fingerprint'
      ' abcdef',
    ),
    (
      'imported',
      IMPORTED,
      '[imported, resnet]',
      'Imported network',
      'Imported from resnet50.safetensors (format torchvision), not trained '
      'here. 265 arrays loaded, 2 left out (asked for). The file does not say '
      'how long it was trained.',
    ),
    ('byol', {}, '[resnet]', "objective 'byol'", 'cannot describe'),
  ],
)
def test_the_card_says_how_the_weights_came_about(
  loaded, objective, section, tags, heading, said, tmp_path, monkeypatch
):
  passport = json.loads(json.dumps(loaded.passport))
  passport |= {'objective': objective, objective: section}
  passport['config']['data'] |= {
    'source': 'folder',
    'path': '/home/somebody/pictures/pets/',
    'train_split': 'train',
    'test_split': '',
  }
  passport['data']['name'] = '/home/somebody/pictures/pets/train'
  passport['lineage'] = (
    []
    if objective != 'simclr'
    else [
      {
        'from': LINK['path'],
        'checkpoint': LINK['path'],
        'step': 1,
        'changes': [
          "data.path: '/home/somebody/old' -> '/home/somebody/new'",
          'train.batch_size: 64 -> 32',
        ],
      }
    ]
  )
  passport['software']['xla_flags'] = '--xla_dump_to=/home/somebody/dump'
  if objective == 'imported':
    passport |= {'step': 0, 'derived': {}}
    passport['preprocessing'] |= {'mean': [0.5] * 3, 'std': [0.25] * 3}
  changed = checkpoint.LoadedEncoder(
    loaded.variables, passport, 3, loaded.path, loaded.fingerprint
  )
  monkeypatch.setattr(job, 'compare', lambda *_: {})
  exported = job.export(changed, 'npz', out=tmp_path / 'out')
  card = (exported.folder / 'README.md').read_text()
  described = (exported.folder / 'export.json').read_text()
  assert f'\ntags: {tags}\n' in card
  assert f'\n# ResNet-18 (0.0625x), {heading}\n' in card
  assert said in card
  assert ('self-supervised' in card) == (objective == 'simclr')
  assert ('without their labels' in card) == (objective == 'simclr')
  assert ('SimCLR' in card) == (objective in ('simclr', 'finetune'))
  assert ('(picture - [0.5' in card) == (objective == 'imported')
  assert 'somebody' not in card and 'somebody' not in described
  assert ('batch_size: 64 -> 32' in described) == (objective == 'simclr')
  if objective == 'finetune':
    assert 'mine/checkpoints/3' in described


def test_logits_of_pretraining_are_said_to_be_of_labels(
  loaded, tmp_path, monkeypatch
):
  monkeypatch.setattr(job, 'compare', lambda *_: {})
  for outputs in (('h',), ('h', 'logits')):
    out = tmp_path / outputs[-1]
    job.export(loaded, 'npz', out=out, outputs=outputs)
    said = 'trained with labels beside it' in (out / 'README.md').read_text()
    assert said == ('logits' in outputs)
