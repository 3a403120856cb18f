"""Projection head: every mode and depth against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.models import heads

RNG = np.random.default_rng(0)


def make_head(**fields) -> heads.ProjectionHead:
  fields = {'head_dim': 5, **fields}
  return heads.ProjectionHead(config_lib.ModelConfig(**fields), jnp.float32)


def random_variables(head, h):
  shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), h, train=False))
  return jax.tree.map(
    lambda s: RNG.uniform(0.1, 1, s.shape).astype(np.float32), shapes
  )


def forward(head, variables, h: np.ndarray, *, train: bool):
  """The head written out; (h, layer 1, ..., z)."""
  outputs = [h.astype(np.float64)]
  params = variables.get('params', {})
  num_layers = sum(k.startswith('dense') for k in params)
  for j in range(1, num_layers + 1):
    x = outputs[-1] @ params[f'dense{j}']['kernel']
    if head.config.head_norm == 'none':
      x = x + params[f'dense{j}']['bias']
    else:
      stats = variables['batch_stats'][f'bn{j}']
      mean, var = stats['mean'], stats['var']
      if train:
        mean, var = x.mean(0), x.var(0)
      x = (x - mean) / np.sqrt(var + 1e-5) * params[f'bn{j}']['scale']
      x = x + params[f'bn{j}'].get('bias', 0)
    outputs.append(x if j == num_layers else np.maximum(x, 0))
  return outputs


@pytest.mark.parametrize('norm', ['batch', 'none'])
@pytest.mark.parametrize('num_layers', range(5))
def test_nonlinear_head(num_layers, norm):
  h = RNG.normal(size=(6, 7)).astype(np.float32)
  head = make_head(head_layers=num_layers, head_norm=norm)
  variables = random_variables(head, h)
  params = variables.get('params', {})
  widths = [7] * num_layers + [5]
  for j in range(1, num_layers + 1):
    kernel = params[f'dense{j}']['kernel']
    assert kernel.shape == (7, widths[j] if j == num_layers else 7)
    assert ('bias' in params[f'dense{j}']) == (norm == 'none')
    if norm == 'batch':  # The last norm has a scale but no bias.
      leaves = {'scale'} if j == num_layers else {'scale', 'bias'}
      assert set(params[f'bn{j}']) == leaves
  assert len(params) == num_layers * (2 if norm == 'batch' else 1)
  for train in (False, True):
    got = head.apply(variables, h, train=train, mutable=['batch_stats'])[0]
    expected = forward(head, variables, h, train=train)
    assert len(got) == num_layers + 1
    for a, b in zip(got, expected, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('norm', ['batch', 'none'])
def test_linear_head_is_one_layer(norm):
  """Whatever head_layers says; the official mode crashes."""
  h = RNG.normal(size=(6, 7)).astype(np.float32)
  head = make_head(head='linear', head_layers=3, head_norm=norm)
  variables = random_variables(head, h)
  assert [k for k in variables['params'] if 'dense' in k] == ['dense1']
  got = head.apply(variables, h, train=False)
  assert got[-1].shape == (6, 5)
  expected = forward(head, variables, h, train=False)
  np.testing.assert_allclose(got[-1], expected[-1], rtol=1e-5)
  assert np.min(got[-1] - np.abs(got[-1])) < 0 or norm == 'none'  # no ReLU


def test_no_head_gives_h():
  h = RNG.normal(size=(6, 7)).astype(np.float32)
  head = make_head(head='none')
  assert 'params' not in head.init(jax.random.key(0), h, train=False)
  (z,) = head.apply({}, h, train=False)
  np.testing.assert_array_equal(z, h)


def test_hidden_width():
  config = config_lib.ModelConfig(head_hidden=11, head_layers=3, head_dim=5)
  assert heads.layer_widths(config, 7) == (11, 11, 5)


def test_initialisation():
  """Dense layers: normal of 0.01, not truncated; norms start at one."""
  h = jnp.zeros((2, 512))
  params = make_head(head_dim=512).init(jax.random.key(0), h, train=False)[
    'params'
  ]
  for j in (1, 2, 3):
    kernel = np.asarray(params[f'dense{j}']['kernel'])
    np.testing.assert_allclose(kernel.std(), 0.01, rtol=0.01)
    assert np.abs(kernel).max() > 0.04
    np.testing.assert_array_equal(params[f'bn{j}']['scale'], 1)


def test_online_head():
  h = RNG.normal(size=(4, 7)).astype(np.float32)
  head = heads.make_online_head(3, param_dtype=jnp.float32, name='online_head')
  variables = random_variables_of_dense(head, h)
  params = variables['params']
  expected = h @ params['kernel'] + params['bias']
  np.testing.assert_allclose(head.apply(variables, h), expected, rtol=1e-5)


def random_variables_of_dense(head, h):
  variables = head.init(jax.random.key(0), h)
  return jax.tree.map(lambda a: a + RNG.normal(size=a.shape), variables)
