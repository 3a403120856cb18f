"""Which kernels may be rounded before the network sees them."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models


def read_from_the_program(model, size):
  """Parameters that the traced forward pass only ever rounds to bfloat16."""
  shapes = models.abstract_variables(model, image_size=size)
  flat = models.flat_paths(shapes)
  names = list(flat)

  def apply(*leaves):
    variables = {}
    for name, leaf in zip(names, leaves, strict=True):
      node = variables
      *parents, last = name.split('/')
      for parent in parents:
        node = node.setdefault(parent, {})
      node[last] = leaf
    images = jnp.zeros((2, size, size, 3))
    return model.apply(variables, images, train=True, mutable=['batch_stats'])

  jaxpr = jax.make_jaxpr(apply)(*flat.values()).jaxpr
  found = set()
  users = collections.defaultdict(list)
  for equation in jaxpr.eqns:
    for variable in equation.invars:
      users[id(variable)].append(equation)
  for name, variable in zip(names, jaxpr.invars, strict=True):
    uses = users[id(variable)]
    if uses and all(
      e.primitive.name == 'convert_element_type'
      and e.params['new_dtype'] == jnp.bfloat16
      for e in uses
    ):
      found.add(name.removeprefix('params/'))
  return found


@pytest.mark.parametrize(
  ('batch_norm', 'depth', 'sk_ratio'),
  [('folded', 50, 0.0625), ('plain', 18, 0.0)],
)
def test_exactly_those_that_the_program_rounds_first(
  batch_norm, depth, sk_ratio
):
  config = config_lib.ModelConfig(
    depth=depth,
    width=0.0625,
    sk_ratio=sk_ratio,
    stem='imagenet',
    batch_norm=batch_norm,
    compute_dtype='bfloat16',
  )
  model = models.make_model(config, image_size=16, num_classes=3)
  types = models.rounded_types(model, image_size=16)
  got = set(models.flat_paths(types)) - {
    name for name, dtype in models.flat_paths(types).items() if dtype is None
  }
  assert got == read_from_the_program(model, 16)
  assert len(got) > 15
  # A folded batch norm reads the kernel in front of it for its statistics.
  assert 'backbone/layer1_0/conv3/kernel' not in got


def test_nothing_in_float32():
  model = models.make_model(
    config_lib.ModelConfig(depth=18, width=0.0625),
    image_size=8,
    num_classes=0,
  )
  assert not jax.tree.leaves(models.rounded_types(model, image_size=8))


def test_repeated_blocks_are_found_too():
  """config.model.remat lifts a block into a function of its own."""
  names = []
  for remat in ('none', 'blocks'):
    config = config_lib.ModelConfig(
      depth=18, width=0.0625, remat=remat, compute_dtype='bfloat16'
    )
    model = models.make_model(config, image_size=8, num_classes=0)
    types = models.flat_paths(models.rounded_types(model, image_size=8))
    names.append({name for name, dtype in types.items() if dtype is not None})
  assert names[0] == names[1] and len(names[0]) > 15
