"""Which form of the loss a run takes, and whether the estimate is right."""

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import loss_choice, losses, models

LossConfig = config_lib.LossConfig


# N, d, devices: CIFAR-10 and the paper's batch on one device and on many; a
# batch whose logits are beyond any device; one whose keys alone are large.
@pytest.mark.parametrize(
  ('num_rows', 'dim', 'num_devices', 'implementation', 'chunk_size'),
  [
    (1024, 128, 1, 'plain', 0),
    (8192, 128, 32, 'plain', 0),
    (8192, 128, 1, 'chunked', 512),
    (65536, 128, 1, 'chunked', 256),
    (65536, 128, 8, 'chunked', 2048),
    (2**20, 128, 1, 'chunked', 128),
    (2**20, 128, 64, 'ring', 1024),
    (65536, 2048, 8, 'ring', 2048),
  ],
)
def test_auto(num_rows, dim, num_devices, implementation, chunk_size):
  choice = loss_choice.choose(
    LossConfig(), num_rows=num_rows, dim=dim, num_devices=num_devices
  )
  assert choice[:2] == (implementation, chunk_size)


def test_the_border_is_the_stated_one():
  sizes = {'dim': 128, 'num_devices': 1}
  below = loss_choice.choose(LossConfig(), num_rows=4096, **sizes)
  assert below.implementation == 'plain'
  assert below.bytes_per_device <= loss_choice.COMFORTABLE_BYTES
  above = loss_choice.choose(LossConfig(), num_rows=4864, **sizes)
  assert above.implementation == 'chunked'
  plain = loss_choice.estimate_bytes('plain', num_rows=4864, **sizes)
  assert plain > loss_choice.COMFORTABLE_BYTES


@pytest.mark.parametrize('name', ['plain', 'chunked', 'ring'])
def test_what_is_named_is_taken(name):
  for num_rows in (64, 2**20):
    choice = loss_choice.choose(
      LossConfig(implementation=name), num_rows=num_rows, dim=8, num_devices=4
    )
    assert choice.implementation == name


def test_a_chunk_is_never_larger_than_what_there_is():
  for name, largest in (('chunked', 64), ('ring', 16)):
    for chunk_size, expected in ((0, largest), (1000, largest), (6, 6)):
      choice = loss_choice.choose(
        LossConfig(implementation=name, chunk_size=chunk_size),
        num_rows=64,
        dim=8,
        num_devices=4,
      )
      assert choice.chunk_size == expected


@pytest.mark.parametrize('num_devices', [1, 8])
@pytest.mark.parametrize('name', ['plain', 'chunked', 'ring'])
def test_estimate_is_that_of_the_compiled_loss(name, num_devices):
  num_rows, dim = 2048, 64
  mesh = jax.make_mesh(
    (num_devices,),
    ('data',),
    axis_types=(AxisType.Explicit,),
    devices=jax.devices()[:num_devices],
  )
  choice = loss_choice.choose(
    LossConfig(implementation=name),
    num_rows=num_rows,
    dim=dim,
    num_devices=num_devices,
  )

  def loss_fn(z):
    settings = {'temperature': 0.1, 'scale': 'paper'}
    chunks = {'chunk_size': choice.chunk_size}
    if name == 'ring':
      return losses.nt_xent_ring(z, axis_name='data', **chunks, **settings)
    keys = jax.reshard(z, P())
    if name == 'plain':
      return losses.nt_xent(z, keys, **settings)
    return losses.nt_xent_chunked(z, keys, **chunks, **settings)

  with jax.set_mesh(mesh):
    z = jax.ShapeDtypeStruct(
      (num_rows, dim), np.float32, sharding=NamedSharding(mesh, P('data'))
    )
    step = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    memory = step.lower(z).compile().memory_analysis().temp_size_in_bytes
  assert memory / 2 < choice.bytes_per_device < 2 * memory


@pytest.mark.parametrize(
  'fields',
  [
    {'head': 'nonlinear', 'head_dim': 24},
    {'head': 'linear', 'head_dim': 24},
    {'head': 'none', 'depth': 18, 'width': 0.5},
    {'head_layers': 0, 'depth': 50},
  ],
)
def test_the_width_that_is_resolved_is_that_of_z(fields):
  config = config_lib.ModelConfig(**fields)
  model = models.make_model(config, image_size=8, num_classes=0)
  variables = models.abstract_variables(model, image_size=8)
  images = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
  outputs = jax.eval_shape(
    lambda v, x: model.apply(v, x, train=False), variables, images
  )
  assert models.embedding_dim(config) == outputs.z.shape[-1]
