"""Weights of torch were trained on images that were shrunk in another way."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.data import pipeline
from simclr_jax.data.source import Example, Source
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.importers import job, state_dict, torch_names
from simclr_jax.importers.format import Contents
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib
from tests import small_run

CONFIG = config_lib.replace(
  small_run.CONFIG,
  data={'image_size': 56},
  model={'stem': 'imagenet', 'padding': 'torch', 'shortcut': 'shape'}
  | {'head': 'none'},
)


@pytest.fixture
def imported(tmp_path, monkeypatch):
  """What an import of a network by torchvision's names gives."""
  names = torch_names.torch_names(CONFIG.model, num_classes=0)
  variables = small_run.make_variables(CONFIG, num_classes=0, seed=0)
  arrays = {
    names[path]: torch_names.to_torch(array)
    for path, array in models.flat_paths(variables).items()
  }
  monkeypatch.setattr(state_dict, 'read', lambda source: Contents(arrays))
  return job.import_checkpoint(
    tmp_path / 'weights.pth',
    'torchvision',
    out=tmp_path / 'run',
    config=CONFIG,
    normalize='imagenet',
  )


def test_the_passport_says_so_and_who_loads_them_is_warned(
  imported, tmp_path, caplog
):
  with caplog.at_level('WARNING'):
    encoder_lib.make_encoder(
      checkpoint.load_encoder(tmp_path / 'run'), mesh=mesh_lib.make_mesh()
    )
  assert (
    'with antialias' in caplog.text and 'short side of 64 px' in caplog.text
  )
  # An export of ours keeps it, and who imports that is told, too.
  folder = tmp_path / 'export'
  folder.mkdir()
  (folder / 'export.json').write_text(json.dumps(imported.passport))
  flat = models.flat_paths(checkpoint.load_encoder(tmp_path / 'run').variables)
  np.savez(folder / 'model.npz', **flat)
  again = job.import_checkpoint(folder, 'npz', out=tmp_path / 'b', config=None)
  assert encoder_lib.resize_warning(again.passport)


def test_weights_that_saw_images_as_we_prepare_them_need_no_word(tmp_path):
  small_run.save_small_run(tmp_path)
  passport = checkpoint.load_encoder(tmp_path).passport
  assert not encoder_lib.resize_warning(passport)


def test_images_shrunk_before_are_prepared_as_by_torch():
  """The way out that the warning names: the image is only cropped here."""
  rng = np.random.default_rng(0)
  large = rng.integers(0, 256, (320, 400, 3), np.uint8)
  shrunk = Image.fromarray(large).resize((80, 64), Image.Resampling.BICUBIC)
  pixels = np.asarray(shrunk)
  source = Source(
    name='one',
    num_examples=1,
    num_classes=0,
    encoded=False,
    read=lambda i: Example(pixels, -1),
    example_id=str,
    fingerprint='one',
  )
  (batch,) = pipeline.eval_batches(
    source, data=CONFIG.data, eval_config=CONFIG.eval
  )
  wanted = pixels[4:60, 12:68] / 255  # Resize to 64, centre crop of 56.
  np.testing.assert_allclose(batch['image'][0], wanted, atol=1e-6)
