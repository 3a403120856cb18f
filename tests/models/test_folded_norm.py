"""Folded batch norms against plain ones: value, gradient, whole blocks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.models import blocks, folded_norm, resnet

EPSILON = 1e-5


def make_mesh(num_devices: int) -> jax.sharding.Mesh:
  return jax.make_mesh(
    (num_devices,), ('data',), axis_types=(AxisType.Explicit,),
    devices=jax.devices()[:num_devices],
  )  # fmt: skip


def plain_norm(x, scale, bias):
  """Batch norm in so many words; also gives the statistics."""
  mean = x.mean((0, 1, 2))
  var = ((x - mean) ** 2).mean((0, 1, 2))
  return scale * (x - mean) / jnp.sqrt(var + EPSILON) + bias, (mean, var)


def make_arguments(inputs: int, outputs: int, dtype=np.float64):
  """x [16, 3, 2, K], correlated, off centre; W; gamma of both signs; beta."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(16, 3, 2, inputs)) @ rng.normal(size=(inputs, inputs))
  # Every image on its own level, so that local statistics differ.
  x += 3 + np.linspace(-2, 2, 16)[:, None, None, None]
  return tuple(
    np.asarray(a, dtype)
    for a in (
      x,
      rng.normal(size=(inputs, outputs)),
      rng.uniform(0.5, 2, outputs) * np.where(np.arange(outputs) % 3, 1, -1),
      rng.normal(size=outputs),
    )
  )


def value_and_grads(function, arguments, num_devices):
  """(y, statistics, gradients of sum(cos(.) y)) with x sharded."""

  def loss(*arguments):
    y, statistics = function(*arguments)
    weights = np.cos(np.arange(y.size)).reshape(y.shape)
    weights = jax.device_put(weights.astype(y.dtype), P('data'))
    return jnp.sum(y * weights), (y, tuple(statistics))

  with jax.set_mesh(make_mesh(num_devices)):
    x, *rest = arguments
    placed = [jax.device_put(x, P('data')), *jax.device_put(rest, P())]
    gradient = jax.grad(loss, tuple(range(len(placed))), has_aux=True)
    return jax.device_get(jax.jit(gradient)(*placed))


def assert_near(got, want, tolerance):
  got, want = jax.tree.leaves(got), jax.tree.leaves(want)
  for a, b in zip(got, want, strict=True):
    assert np.abs(a - b).max() < tolerance * np.abs(b).max()


@pytest.mark.parametrize(
  ('inputs', 'outputs', 'num_devices'), [(3, 8, 1), (3, 8, 8), (5, 5, 8)]
)
def test_project_and_normalize(inputs, outputs, num_devices):
  def folded(x, kernel, scale, bias):
    return folded_norm.project_and_normalize(x, kernel, scale, bias, EPSILON)

  def plain(x, kernel, scale, bias):
    return plain_norm(x @ kernel, scale, bias)

  with jax.enable_x64(True):
    arguments = make_arguments(inputs, outputs)
    got = value_and_grads(folded, arguments, num_devices)
    want = value_and_grads(plain, arguments, 1)
  assert_near(got, want, 1e-11)


def test_project_and_normalize_with_constant_input():
  """A channel without variance gives beta, not NaN from a root below zero."""
  x = np.full((4, 2, 2, 3), 1.7, np.float32)
  _, kernel, scale, bias = make_arguments(3, 8, np.float32)
  y, statistics = folded_norm.project_and_normalize(
    x, kernel, scale, bias, EPSILON
  )
  assert np.all(statistics.var >= 0) and np.isfinite(y).all()
  np.testing.assert_allclose(y, np.broadcast_to(bias, y.shape), atol=0.05)


@pytest.mark.parametrize('num_devices', [1, 8])
def test_pool_and_normalize(num_devices):
  def pool(x):
    return resnet.max_pool(x, 'official')

  def folded(x, scale, bias):
    return folded_norm.pool_and_normalize(
      x * folded_norm.signs(scale),
      scale,
      bias,
      epsilon=EPSILON,
      pool_fn=pool,
    )

  def plain(x, scale, bias):
    y, statistics = plain_norm(x, scale, bias)
    return pool(jax.nn.relu(y)), statistics

  with jax.enable_x64(True):
    x, _, scale, bias = make_arguments(6, 6)
    got = value_and_grads(folded, (x, scale, bias), num_devices)
    want = value_and_grads(plain, (x, scale, bias), 1)
  assert_near(got, want, 1e-11)


def test_relu_has_the_derivative_of_jax():
  x = jnp.asarray([-1.0, 0.0, 2.0])
  y, pull = jax.vjp(folded_norm.relu, x)
  want_y, want_pull = jax.vjp(jax.nn.relu, x)
  np.testing.assert_array_equal(y, want_y)
  np.testing.assert_array_equal(pull(x + 5)[0], want_pull(x + 5)[0])


@pytest.fixture(scope='module')
def small_resnet():
  """One bottleneck in each of two groups: both kinds of projection."""
  with pytest.MonkeyPatch.context() as patch:
    small = resnet.Depth((2, 1, 0, 0), bottleneck=True)
    patch.setitem(resnet.DEPTHS, 50, small)
    yield lambda dtype, **fields: models.make_model(
      config_lib.ModelConfig(
        width=0.0625, stem='imagenet', head='none',
        zero_init_residual=False, **fields,
      ),
      image_size=16,
      num_classes=0,
      param_dtype=dtype,
    )  # fmt: skip


def make_variables(model):
  """With gammas of both signs, and branches that count."""
  variables = models.init_variables(model, jax.random.key(0), image_size=16)
  rng = np.random.default_rng(1)
  return jax.tree_util.tree_map_with_path(
    lambda path, a: (
      np.asarray(rng.uniform(0.5, 1.5, a.shape) * rng.choice([1, -1], a.shape))
      if path[-1].key == 'scale'
      else np.asarray(a)
    ),
    variables,
  )


def train_pass(model, variables):
  """(gradients, new statistics, h) of one training-mode pass."""
  images = np.random.default_rng(2).random((8, 16, 16, 3))
  images = images.astype(model.param_dtype)

  def loss(params):
    out, state = model.apply(
      {**variables, 'params': params}, images, train=True,
      mutable=['batch_stats'],
    )  # fmt: skip
    weights = jnp.cos(jnp.arange(out.h.size, dtype=out.h.dtype))
    return jnp.vdot(out.h, weights.reshape(out.h.shape)), (
      state['batch_stats'],
      out.h,
    )

  gradient = jax.grad(loss, has_aux=True)
  return jax.make_jaxpr(gradient), jax.jit(gradient), variables['params']


def test_folded_network_is_the_plain_one(small_resnet):
  with jax.enable_x64(True):
    variables = make_variables(small_resnet(np.float64, batch_norm='plain'))
    results = {}
    for fields in (
      {'batch_norm': 'plain'},
      {'batch_norm': 'folded'},
      {'batch_norm': 'folded', 'remat': 'norms'},
      {'batch_norm': 'plain', 'remat': 'blocks'},
    ):
      model = small_resnet(np.float64, **fields)
      _, gradient, params = train_pass(model, variables)
      results[tuple(fields.values())] = jax.device_get(gradient(params))
  want = results.pop(('plain',))
  for got in results.values():
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert_near(got, want, 1e-10)


def test_variables_do_not_depend_on_folding_or_remat(small_resnet):
  shapes = [
    models.abstract_variables(small_resnet(np.float32, **fields), image_size=16)
    for fields in ({'batch_norm': 'plain'}, {'remat': 'blocks'}, {})
  ]
  assert shapes[0] == shapes[1] == shapes[2]


def count(jaxpr, name: str) -> int:
  """Equations of one primitive, also in nested programs."""
  total = 0
  for equation in jaxpr.eqns:
    total += equation.primitive.name == name
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      total += count(inner, name) if hasattr(inner, 'eqns') else 0
  return total


def test_remat_repeats_what_it_says(small_resnet):
  convolutions, maxima = {}, {}
  for remat in ('none', 'norms', 'blocks'):
    model = small_resnet(np.float32, batch_norm='plain', remat=remat)
    shapes = models.abstract_variables(model, image_size=16)
    ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    trace, _, params = train_pass(model, ones)
    jaxpr = trace(params).jaxpr
    convolutions[remat] = count(jaxpr, 'conv_general_dilated')
    maxima[remat] = count(jaxpr, 'rsqrt')
  assert convolutions['none'] == convolutions['norms'] < convolutions['blocks']
  assert maxima['none'] < maxima['norms']


def test_bfloat16_rounds_no_more_than_plain():
  """Distance from float32 of y and of each gradient."""
  rng = np.random.default_rng(0)
  inputs, outputs = 64, 256
  x = np.maximum(rng.normal(size=(16, 8, 8, inputs)) + 0.3, 0)
  dy = rng.normal(size=(16, 8, 8, outputs)) + rng.normal(size=outputs)
  rest = (
    rng.normal(size=(inputs, outputs)) / 8,
    rng.uniform(0.5, 1.5, outputs),
    rng.normal(size=outputs) / 10,
  )
  x, dy = (jnp.asarray(a, jnp.bfloat16) for a in (x, dy))
  rest = tuple(np.asarray(a, np.float32) for a in rest)

  def plain(x, kernel, scale, bias):
    y = (x @ kernel.astype(x.dtype)).astype(jnp.float32)
    return plain_norm(y, scale, bias)[0].astype(x.dtype)

  def folded(x, *rest):
    return folded_norm.project_and_normalize(x, *rest, EPSILON)[0]

  def errors(function):
    @jax.jit
    def run(x, dy):
      y, pull = jax.vjp(function, x, *rest)
      return y, *pull(dy)

    exact, rounded = (
      run(x.astype(jnp.float32), dy.astype(jnp.float32)),
      run(x, dy),
    )
    return np.array(
      [
        np.linalg.norm(np.asarray(a, np.float32) - b) / np.linalg.norm(b)
        for a, b in zip(rounded, exact, strict=True)
      ]
    )

  of_y, of_x, of_kernel, of_scale, of_bias = errors(folded) / np.maximum(
    errors(plain), 1e-6
  )
  # dx is a sum of two rounded products; the sums over positions are float32.
  assert of_y < 1.3 and of_x < 1.6 and of_bias <= 1
  assert max(of_kernel, of_scale) < 0.1


@pytest.mark.parametrize(
  ('inputs', 'filters', 'stride', 'folds'),
  [(4, 16, 1, True), (4, 4, 1, True), (16, 4, 1, False), (4, 16, 2, False)],
)
def test_folds_where_it_pays(inputs, filters, stride, folds):
  layers = blocks.Layers(config_lib.ModelConfig(), jnp.float32, jnp.float32)

  class Alone(blocks.nn.Module):
    @blocks.nn.compact
    def __call__(self, x, *, train):
      return layers.project_norm(
        x, filters, names=('conv', 'bn'), train=train, stride=stride
      )

  x = np.ones((2, 4, 4, inputs), np.float32)
  variables = Alone().init(jax.random.key(0), x, train=False)
  for train in (False, True):
    text = str(
      jax.make_jaxpr(
        lambda v, t=train: Alone().apply(v, x, train=t, mutable=['batch_stats'])
      )(variables)
    )
    assert ('custom_vjp' in text) == (folds and train)
