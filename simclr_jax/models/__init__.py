"""Views -> h -> z: the backbone, the heads and the model that names both."""

from simclr_jax.models.cost import count_flops, count_parameters
from simclr_jax.models.model import (
  Model,
  Outputs,
  abstract_variables,
  embedding_dim,
  flat_paths,
  init_variables,
  make_model,
)
from simclr_jax.models.resnet import num_features
from simclr_jax.models.rounding import rounded_types

__all__ = [
  'Model',
  'Outputs',
  'abstract_variables',
  'count_flops',
  'count_parameters',
  'embedding_dim',
  'flat_paths',
  'init_variables',
  'make_model',
  'num_features',
  'rounded_types',
]
