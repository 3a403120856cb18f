"""Commands are told, by the same flags, where the data of a run are now."""

from __future__ import annotations

import numpy as np
import pytest

from simclr_jax import command_parser, data, section_flags
from simclr_jax import config as config_lib
from simclr_jax.evaluation import jobs
from simclr_jax.evaluation.occurring import NoAccuracy
from simclr_jax.finetuning import config as finetune_lib
from simclr_jax.finetuning import job
from simclr_jax.reports import run_data
from simclr_jax.retrieval import inputs
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib
from tests import small_run


@pytest.fixture
def moved(tmp_path):
  """(workdir of a run, config, where its images are now)."""
  labels = np.tile([0, 1, 2, 3], 24)
  images = np.random.default_rng(0).integers(0, 256, (96, 8, 8, 3), np.uint8)
  old, new = (str(tmp_path / name) for name in ('old.npz', 'new.npz'))
  np.savez(
    new,
    train_images=images,
    train_labels=labels,
    test_images=255 - images,
    test_labels=labels,
  )
  config = section_flags.apply(
    small_run.CONFIG, {'data': {'source': 'arrays', 'path': new}}
  )
  source = data.make_source(config.data, 'train')
  config = config_lib.replace(config, data={'path': old})
  small_run.save_small_run(tmp_path / 'run', config=config, source=source)
  return tmp_path / 'run', config, new


def test_a_missing_place_is_answered_with_the_flag_of_the_command(moved):
  workdir, config, new = moved
  mesh, there = mesh_lib.make_mesh(), {'data': {'path': new}}

  def judge(**overrides):
    return jobs.open_subject(workdir, mesh=mesh, **overrides)

  def report(**overrides):
    return run_data.open_run(workdir, step=None, mesh=mesh, **overrides)

  for open_fn in (judge, report):
    with pytest.raises(ValueError, match=r'moved, .*[^.]--data\.path=PLACE'):
      open_fn()
    assert open_fn(overrides=there).config.data.path == new
  with pytest.raises(ValueError, match=r'moved, .*--config\.data\.path=PLACE'):
    job.finetune(
      finetune_lib.read_finetune({}),
      checkpoint.load_encoder(workdir),
      workdir=workdir.parent / 'tuned',
      mesh=mesh,
    )
  found = inputs.find_input('run', config, moved={'path': new})
  assert found.config.data.path == new
  with pytest.raises(ValueError, match='for --input=run'):
    inputs.find_input('digits', config, split='test', moved={'path': new})
  with pytest.raises(ValueError, match='belongs to the checkpoint'):
    inputs.find_input('run', config, moved={'image_size': 16})


def test_another_source_starts_from_its_defaults():
  config = config_lib.replace(
    config_lib.Config(), data={'name': 'cifar10', 'train_split': 'train[:9]'}
  )
  found = section_flags.apply(config, {'data': {'source': 'digits'}})
  assert (found.data.name, found.data.train_split) == ('', 'train')
  assert found.data.image_size == config.data.image_size


def test_errors_keep_their_kind_and_flags_their_dashes():
  with pytest.raises(NoAccuracy) as caught, section_flags.named('--data'):
    raise NoAccuracy('set config.data.path, as --config.data.path=x')
  assert str(caught.value) == 'set --data.path, as --config.data.path=x'


def test_commands_of_argparse_take_sections_too():
  parser = command_parser.ArgumentParser()
  parser.add_argument('--workdir')
  parser.add_section('data')
  options = parser.parse_args(
    ['--workdir=w', '--data.path', 'p', '--data.image_size=16']
  )
  assert command_parser.sections(options) == {
    'data': {'path': 'p', 'image_size': 16}
  }
