"""A step of fine-tuning is the same on one device and on four."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.data.source import Example, Source
from simclr_jax.finetuning import config as finetune_lib
from simclr_jax.finetuning import objective
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import run as run_lib
from tests.tiny_model import TinyModel

BATCH, SIZE, CLASSES = 16, 8, 3
CONFIG = config_lib.replace(
  config_lib.Config(),
  data={'source': 'digits', 'image_size': SIZE},
  augment={'blur_prob': 0.0},
  optim={
    'name': 'sgd',
    'base_lr': 0.5,
    'lr_scaling': 'none',
    'warmup': '0 steps',
  },
  train={
    'batch_size': BATCH,
    'duration': '5 steps',
    'diagnostics_every': '0 steps',
  },
)
# All labels on the first of four devices but one, none on the third.
LABELS = np.array([0, 1, 2, 0, *[-1] * 8, -1, -1, 2, 1], np.int32)
STAGES = {
  'finetune': objective.make_finetune(
    finetune_lib.FinetuneConfig(
      augment=finetune_lib.AugmentChanges(mixup_alpha=0.4),
      label_smoothing=0.1,
    ),
    input_fn=lambda images: images,
  ),
  'distill': objective.make_distill(
    finetune_lib.DistillConfig(temperature=0.5, labelled_weight=0.25),
    input_fn=lambda images: images,
  ),
}


def take_step(name, num_devices):
  """(parameters, metrics) in float64, where only another sum can hide."""
  source = Source(
    name='generated',
    num_examples=BATCH,
    num_classes=CLASSES,
    encoded=False,
    read=lambda i: Example(np.zeros((SIZE, SIZE, 3), np.uint8), 0),
    example_id=str,
    fingerprint='',
  )
  rng = np.random.default_rng(0)
  batch = {
    'views': rng.random((BATCH, 1, SIZE, SIZE, 3)),
    'label': LABELS,
    objective.TEACHER_LOGITS: rng.normal(size=(BATCH, CLASSES)),
  }
  with jax.enable_x64(True):
    run = dataclasses.replace(
      run_lib.make_run(
        CONFIG,
        mesh=mesh_lib.make_mesh(jax.devices()[:num_devices]),
        source=source,
      ),
      model=TinyModel('norm', num_classes=CLASSES, detach_classifier=False),
      objective=STAGES[name],
    )
    with jax.set_mesh(run.mesh):
      before = jax.device_get(run.init_state().params)
      state, output = run.train_step()(
        run.init_state(), mesh_lib.put_batch(batch, run.mesh)
      )
      return before, jax.device_get(state.params), jax.device_get(output)


@pytest.mark.parametrize('name', STAGES)
def test_the_same_step_on_one_and_on_four_devices(name):
  before, want, of_one = take_step(name, 1)
  _, got, of_four = take_step(name, 4)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-4, before, want)
  assert moved['conv1']['kernel'] and moved['online_head']['kernel']
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), want, got
  )
  assert of_one.metrics.keys() == of_four.metrics.keys()
  for key in of_one.metrics:
    np.testing.assert_allclose(
      of_four.metrics[key],
      of_one.metrics[key],
      rtol=1e-7,
      atol=1e-10,
      err_msg=key,
    )
