"""A run that goes on with other numbers of devices, as the same run."""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import loop, recipe
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import run as run_lib

TOTAL = 6
# The sums are the same in another order: single precision, six steps apart. Of
# each array's largest value; a wrong example or rate shows in the first digit.
TOLERANCE = 1e-4


def make_run(num_devices):
  config = config_lib.replace(
    config_lib.Config(),
    data={'source': 'digits', 'image_size': 8, 'loader': 'opencv'},
    augment={'blur_prob': 0.0},
    model={'depth': 18, 'width': 0.03125, 'head_layers': 1, 'head_dim': 8},
    optim={'name': 'sgd', 'base_lr': 0.05, 'warmup': '2 steps'},
    train={
      'batch_size': 64, 'duration': f'{TOTAL} steps', 'log_every': '1 steps',
      'diagnostics_every': '0 steps',
    },
    checkpoint={'every': '2 steps', 'keep_latest': 9},
  )  # fmt: skip
  run = run_lib.make_run(
    config, mesh=mesh_lib.make_mesh(jax.devices()[:num_devices])
  )
  # Every step, so that the run can be ended after any.
  resolved = dataclasses.replace(run.resolved, knn_every_steps=1)
  return dataclasses.replace(run, model=Small(), resolved=resolved)


class Small(nn.Module):
  """Two layers and a batch norm: a ResNet takes minutes to compile thrice."""

  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images, *, train):
    x = images.reshape(len(images), -1)
    x = nn.Dense(16, use_bias=False, name='backbone')(x)
    mean = self.variable('batch_stats', 'bn_mean', jnp.zeros, 16)
    scale = self.param('bn_scale', nn.initializers.ones, 16)
    if train:
      x_mean = jnp.mean(x, axis=0)
      mean.value = 0.9 * mean.value + 0.1 * x_mean
    else:
      x_mean = mean.value
    h = nn.tanh(scale * (x - x_mean))
    z = nn.Dense(8, use_bias=False, name='head')(h)
    return models.Outputs(h, z, None, (h, z))


class Stop(Exception):
  """The machine is taken away."""


def pretrain(run, workdir, *, until):
  """Ends as a kill would, after the checkpoint of step `until`."""

  def evaluate(run, state, stop_fn):
    if int(state.step) > until:
      raise Stop
    return {'knn_top1': 0.0}

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(metrics_lib, '_make_tensorboard', lambda workdir: None)
    patch.setattr(recipe, 'describe', lambda *args, **kwargs: '')
    patch.setattr(recipe, 'flops_per_step', lambda run: 0.0)
    try:
      return loop.pretrain(run, str(workdir), evaluate_fn=evaluate)
    except Stop:
      return None


def test_eight_then_four_then_one(tmp_path):
  straight, moved = tmp_path / 'straight', tmp_path / 'moved'
  assert pretrain(make_run(8), straight, until=TOTAL).finished
  assert pretrain(make_run(8), moved, until=2) is None
  assert pretrain(make_run(4), moved, until=4) is None
  assert checkpoint_lib.list_steps(moved) == [2, 4]
  outcome = pretrain(make_run(1), moved, until=TOTAL)
  assert outcome.finished
  devices = [
    checkpoint_lib.load_state(moved, step=k).passport['derived']['num_devices']
    for k in (2, 4, 6)
  ]
  assert devices == [8, 4, 1]

  # Bit for bit until the machine changed.
  first, second = (
    checkpoint_lib.fingerprint(checkpoint_lib.load_state_arrays(w, step=2))
    for w in (straight, moved)
  )
  assert first == second
  want = checkpoint_lib.load_state_arrays(straight, step=TOTAL)
  got = checkpoint_lib.load_state_arrays(moved, step=TOTAL)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
  ):
    np.testing.assert_allclose(
      a,
      b,
      rtol=0,
      atol=TOLERANCE * max(np.abs(b).max(), 1e-3),
      err_msg=jax.tree_util.keystr(path),
    )
  losses = [
    [
      r['loss']
      for r in metrics_lib.read_lines(w / metrics_lib.FILE_NAME)
      if 'loss' in r
    ]
    for w in (straight, moved)
  ]
  np.testing.assert_allclose(*losses, rtol=1e-4)
  assert len(losses[0]) == TOTAL
