"""What tracing counts, against closed forms and the model's own count."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.planning import analytic
from simclr_jax.training import state_sharding
from simclr_jax.training.state import TrainState

SIZE = 32
PLAIN = config_lib.ModelConfig(
  depth=18, width=0.0625, head_layers=1, head_dim=4, batch_norm='plain'
)


def trace(**changes):
  model = config_lib.replace(
    config_lib.Config(), data={'source': 'digits'}, model=changes
  ).model
  return analytic.trace(
    model, image_size=SIZE, num_classes=0, views_dtype=jnp.float32
  )


def plain(**changes):
  return trace(
    depth=18,
    width=0.0625,
    head_layers=1,
    head_dim=4,
    batch_norm='plain',
    **changes,
  )


def test_backward_is_twice_the_forward_pass():
  """But for the first convolution, whose input wants no gradient."""
  model = models.make_model(PLAIN, image_size=SIZE, num_classes=0)
  forward = models.count_flops(model, SIZE)
  first = 2 * SIZE**2 * 4 * (3 * 3 * 3)  # 4 channels of 3 x 3 x 3, CIFAR stem.
  assert plain().flops == pytest.approx(2 * (3 * forward - first))


def test_remat_and_bfloat16_keep_less():
  everything, blocks = plain(), plain(remat='blocks')
  assert everything.kept_bytes > 2 * blocks.kept_bytes > 0
  half = plain(remat='blocks', compute_dtype='bfloat16').kept_bytes
  assert 0.4 < half / blocks.kept_bytes < 0.8
  assert blocks.flops > 1.2 * everything.flops


def test_kept_is_at_least_the_blocks():
  """Outputs of the stem and of eight blocks, whatever the policy."""
  widths = (4, 4, 4, 8, 8, 16, 16, 32, 32)
  sides = (32, 32, 32, 16, 16, 8, 8, 4, 4)
  outputs = sum(w * s**2 for w, s in zip(widths, sides, strict=True))
  got = plain(remat='blocks').kept_bytes
  assert 2 * 4 * 0.8 * outputs < got < 2 * 4 * 4 * outputs


def test_state_on_a_device():
  kernel = jax.ShapeDtypeStruct((3, 3, 64, 128), jnp.float32)
  scale = jax.ShapeDtypeStruct((128,), jnp.float32)
  state = TrainState(
    step=jax.ShapeDtypeStruct((), jnp.int32),
    params={'kernel': kernel, 'scale': scale},
    model_state={'mean': scale},
    opt_state=({'kernel': kernel, 'scale': scale},),
    extra={},
  )
  count = 3 * 3 * 64 * 128
  assert count > state_sharding.MIN_SIZE
  whole = 4 + 4 * (2 * count + 3 * 128)
  assert analytic.tree_bytes(state) == whole
  share = {'num_devices': 8}
  assert analytic.state_bytes(state, kind='replicated', **share) == whole
  # Kernels and their momentum in eight pieces, everything else whole.
  pieces = 4 + 4 * (2 * count // 8 + 3 * 128)
  assert analytic.state_bytes(state, kind='fsdp', **share) == pieces


def test_num_bytes():
  shape = jax.ShapeDtypeStruct((3, 5), jnp.bfloat16)
  assert analytic.num_bytes(shape) == 2 * math.prod((3, 5))
  assert analytic.num_bytes(object()) == 0
