"""The whole model: dtypes, misuse, cost, and one result on any mesh."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models


def make_tiny(**fields) -> models.Model:
  config = config_lib.ModelConfig(
    **{'depth': 18, 'width': 0.0625, 'head_dim': 6, **fields}
  )
  return models.make_model(config, image_size=8, num_classes=3)


def make_images(num: int) -> np.ndarray:
  """Every image on its own brightness, so that local statistics differ."""
  rng = np.random.default_rng(0)
  offsets = np.linspace(0, 0.5, num)[:, None, None, None]
  return (rng.random((num, 8, 8, 3)) / 2 + offsets).astype(np.float32)


@pytest.fixture(scope='module')
def variables():
  """Of `make_tiny()`, with residual branches that count."""
  fresh = models.init_variables(
    make_tiny(zero_init_residual=False), jax.random.key(0), image_size=8
  )
  # The official 0.01 would leave z to the batch norm's epsilon.
  return jax.tree_util.tree_map_with_path(
    lambda path, a: a * 30 if 'dense' in str(path) else a, fresh
  )


def train_step(model, variables, images):
  """Outputs, gradient and new statistics of one train-mode pass."""

  def loss(params):
    outputs, state = model.apply(
      {**variables, 'params': params},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    weights = jnp.cos(jnp.arange(outputs.z.size)).reshape(outputs.z.shape)
    weights = jnp.astype(weights, outputs.z.dtype)
    sharding = jax.typeof(outputs.z).sharding
    if not sharding.mesh.empty:
      weights = jax.reshard(weights, sharding)
    return jnp.sum(outputs.z * weights), (outputs, state['batch_stats'])

  grads, (outputs, stats) = jax.grad(loss, has_aux=True)(variables['params'])
  return {'outputs': outputs, 'stats': stats, 'grads': grads}


def make_mesh(num_devices: int) -> jax.sharding.Mesh:
  return jax.make_mesh(
    (num_devices,), ('data',), axis_types=(AxisType.Explicit,),
    devices=jax.devices()[:num_devices],
  )  # fmt: skip


def test_outputs(variables):
  model = make_tiny()
  out = model.apply(variables, make_images(4), train=False)
  assert out.h.shape == (4, 32)
  assert out.z.shape == (4, 6)
  assert out.logits.shape == (4, 3)
  assert [a.shape[1] for a in out.head_layers] == [32, 32, 32, 6]
  np.testing.assert_array_equal(out.head_layers[0], out.h)
  np.testing.assert_array_equal(out.head_layers[-1], out.z)


def test_scopes(variables):
  assert set(variables['params']) == {'backbone', 'head', 'online_head'}
  for path, leaf in models.flat_paths(variables['batch_stats']).items():
    assert 'bn' in path.split('/')[-2], path
    assert leaf.dtype == jnp.float32
  for path in models.flat_paths(variables['params']):
    is_norm = 'bn' in path.split('/')[-2]
    assert is_norm == (path.rpartition('/')[0] in norm_scopes(variables)), path


def norm_scopes(variables) -> set[str]:
  stats = models.flat_paths(variables['batch_stats'])
  return {path.rpartition('/')[0] for path in stats}


def test_no_classes_no_online_head():
  model = models.make_model(make_tiny().config, image_size=8, num_classes=0)
  variables = models.abstract_variables(model, image_size=8)
  assert 'online_head' not in variables['params']
  out = jax.eval_shape(
    lambda v: model.apply(v, jnp.zeros((2, 8, 8, 3)), train=False), variables
  )
  assert out.logits is None


def test_model_without_head():
  model = make_tiny(head='none')
  variables = models.init_variables(model, jax.random.key(0), image_size=8)
  assert set(variables['params']) == {'backbone', 'online_head'}
  out = model.apply(variables, make_images(2), train=False)
  np.testing.assert_array_equal(out.z, out.h)


def test_online_head_does_not_move_the_backbone(variables):
  model, images = make_tiny(), make_images(4)

  @jax.jit
  @jax.grad
  def grad(params):
    out = model.apply({**variables, 'params': params}, images, train=False)
    return jnp.sum(out.logits**2)

  grads = grad(variables['params'])
  assert np.any(grads['online_head']['kernel'])
  for leaf in jax.tree.leaves([grads['backbone'], grads['head']]):
    assert not np.any(leaf)


@pytest.mark.parametrize(
  'images',
  [
    np.zeros((2, 2, 8, 8, 3), np.float32),
    np.zeros((8, 8, 3), np.float32),
    np.zeros((2, 8, 8, 3), np.uint8),
  ],
)
def test_refuses_wrong_images(variables, images):
  with pytest.raises(ValueError, match=r'\[N, H, W, C\] in \[0, 1\], got'):
    make_tiny().apply(variables, images, train=False)


def test_bfloat16_is_near_float32(variables):
  images = make_images(16)
  results = {}
  for dtype in ('float32', 'bfloat16'):
    model = make_tiny(compute_dtype=dtype)
    results[dtype] = jax.jit(
      lambda v, x, m=model: m.apply(v, x, train=True, mutable=['batch_stats'])
    )(variables, images)
  for leaf in jax.tree.leaves(results['bfloat16']):
    assert leaf.dtype == jnp.float32
  # 8 bits, 18 layers, batch statistics over as few as 16 numbers.
  for name, tolerance in (('h', 0.08), ('z', 0.2)):
    exact = getattr(results['float32'][0], name)
    rounded = getattr(results['bfloat16'][0], name)
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    # Above zero: the computation really ran in bfloat16.
    assert 1e-4 < error < tolerance, (name, error)


def test_bfloat16_rounds_neither_parameters_nor_features():
  """Only activations are bfloat16: h and z have more than its 8 bits."""
  model = make_tiny(compute_dtype='bfloat16')
  fresh = models.init_variables(model, jax.random.key(0), image_size=8)
  for leaf in jax.tree.leaves(fresh):
    assert leaf.dtype == jnp.float32
  # 16 pixels leave 2x2 positions to average over.
  images = np.random.default_rng(0).random((4, 16, 16, 3), np.float32)
  out = jax.jit(lambda v, x: model.apply(v, x, train=False))(fresh, images)
  for name in ('h', 'z', 'logits'):
    value = getattr(out, name)
    value = value[value != 0]  # ReLU
    rounded = value.astype(jnp.bfloat16).astype(jnp.float32)
    assert np.mean(value == rounded) < 0.5, name


@pytest.fixture(scope='module')
def on_meshes(variables):
  """{devices: result of `train_step` on the host}, and the 8-device HLO."""
  model, images = make_tiny(), make_images(16)
  results, text = {}, ''
  for num_devices in (1, 8):
    with jax.set_mesh(make_mesh(num_devices)):
      placed = (
        jax.device_put(variables, P()),
        jax.device_put(images, P('data')),
      )
      step = jax.jit(lambda v, x: train_step(model, v, x))
      compiled = step.lower(*placed).compile()
      out = compiled(*placed)
      text = compiled.as_text()
    assert out['outputs'].h.sharding.spec == P('data', None)
    assert out['outputs'].z.sharding.spec == P('data', None)
    for leaf in jax.tree.leaves([out['stats'], out['grads']]):
      assert leaf.sharding.is_fully_replicated
    results[num_devices] = jax.device_get(out)
  return results, text


def test_eight_devices_equal_one(on_meshes):
  """Different data on every device; statistics are those of all of them."""
  results, _ = on_meshes
  # Gradients sum many terms that cancel.
  for name, tolerance in (('outputs', 2e-5), ('stats', 2e-5), ('grads', 2e-3)):
    pairs = zip(
      jax.tree.leaves(results[1][name]),
      jax.tree.leaves(results[8][name]),
      strict=True,
    )
    for one, eight in pairs:
      scale = max(np.abs(one).max(), 1e-3)
      assert np.abs(one - eight).max() / scale < tolerance, name


def test_only_sums_move_between_devices(on_meshes):
  """Batch-norm means and gradients; no image, no activation."""
  _, text = on_meshes
  moved = re.findall(
    r' (all-[a-z]+|collective-[a-z]+|reduce-scatter)[a-z-]*\(', text
  )
  assert set(moved) == {'all-reduce'}


def test_global_statistics_against_numpy(on_meshes, variables):
  """The stem's statistics on 8 devices, from a convolution in NumPy."""
  images = make_images(16)
  kernel = np.asarray(variables['params']['backbone']['conv1']['kernel'])
  padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
  conv = np.einsum('nijchw,hwcd->nijd', windows, kernel.astype(np.float64))
  stats = on_meshes[0][8]['stats']['backbone']['bn1']
  mean, var = conv.mean((0, 1, 2)), conv.var((0, 1, 2))  # biased
  np.testing.assert_allclose(stats['mean'], 0.1 * mean, rtol=1e-4, atol=1e-7)
  np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * var, rtol=1e-5)


@pytest.mark.parametrize(
  'fields',
  [
    {'depth': 50, 'sk_ratio': 0.0625, 'stem': 'imagenet'},
    {'depth': 50, 'se_ratio': 0.25, 'padding': 'torch', 'stem': 'imagenet'},
    {'depth': 18, 'head_norm': 'none', 'compute_dtype': 'bfloat16'},
    {'depth': 18, 'head': 'none', 'shortcut': 'shape'},
  ],
)
def test_every_variant_traces_on_a_mesh(fields):
  """Forward and backward, under explicit sharding; nothing is compiled."""
  model = make_tiny(**fields)
  with jax.set_mesh(make_mesh(8)):
    variables = models.abstract_variables(model, image_size=8)
    images = jax.ShapeDtypeStruct(
      (16, 8, 8, 3), jnp.float32,
      sharding=jax.NamedSharding(jax.sharding.get_mesh(), P('data')),
    )  # fmt: skip
    out = jax.eval_shape(
      lambda v, x: train_step(model, v, x), variables, images
    )
  assert out['outputs'].z.sharding.spec == P('data', None)


def test_init_is_replicated_and_the_same_on_any_mesh():
  model = make_tiny()
  alone = models.init_variables(model, jax.random.key(1), image_size=8)
  with jax.set_mesh(make_mesh(8)):
    spread = models.init_variables(model, jax.random.key(1), image_size=8)
  for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(spread), strict=True):
    assert b.sharding.is_fully_replicated
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_init_draws_what_the_layers_declare():
  """`init_variables` draws by itself; `model.init` says from which law."""
  config = config_lib.ModelConfig(
    depth=18, width=0.25, se_ratio=0.25, head_hidden=64
  )
  model = models.make_model(config, image_size=32, num_classes=3)
  ours = models.init_variables(model, jax.random.key(0), image_size=32)
  shapes = models.abstract_variables(model, image_size=32)
  assert jax.tree.map(lambda a: (a.shape, a.dtype), ours) == jax.tree.map(
    lambda a: (a.shape, a.dtype), shapes
  )
  seen = set()
  for path, leaf in models.flat_paths(ours).items():
    leaf = np.asarray(leaf)
    if not path.endswith('/kernel'):
      last_norm = '/layer' in path and path.endswith('/bn2/scale')
      one = path.endswith(('/scale', '/var')) and not last_norm
      np.testing.assert_array_equal(leaf, float(one), err_msg=path)
      continue
    seen.add(leaf.flat[0])
    is_conv = leaf.ndim == 4
    std = np.sqrt(1 / np.prod(leaf.shape[:-1])) if is_conv else 0.01
    # Five standard errors of a sample's standard deviation.
    np.testing.assert_allclose(
      leaf.std(), std, rtol=5 / np.sqrt(2 * leaf.size), err_msg=path
    )
    bound = 2 * std / 0.8796 if is_conv else np.inf
    assert np.abs(leaf).max() <= bound * 1.001, path
    if leaf.size > 5_000:
      assert np.abs(leaf).max() > 2.2 * std, path
  assert len(seen) == sum('/kernel' in p for p in models.flat_paths(ours))


def test_eval_mode_needs_no_mutable_and_moves_nothing(variables):
  model, images = make_tiny(), make_images(4)
  _, state = model.apply(
    variables, images, train=False, mutable=['batch_stats']
  )
  for a, b in zip(
    jax.tree.leaves(state['batch_stats']),
    jax.tree.leaves(variables['batch_stats']),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  ('depth', 'shortcut', 'giga_macs'),
  # torchvision's GFLOPS column (multiply-adds, at 224, with classifier).
  [(18, 'shape', 1.81), (50, 'group', 4.09), (152, 'group', 11.51)],
)
def test_count_flops(depth, shortcut, giga_macs):
  config = config_lib.ModelConfig(depth=depth, shortcut=shortcut, head='none')
  model = models.make_model(config, image_size=224, num_classes=1000)
  flops = models.count_flops(model, 224)
  assert isinstance(flops, int)
  np.testing.assert_allclose(flops / 2e9, giga_macs, atol=0.006)


def test_count_flops_counts_the_heads():
  with_head = models.count_flops(make_tiny(head_layers=2), 8)
  without = models.count_flops(make_tiny(head='none'), 8)
  assert with_head - without == 2 * (32 * 32 + 32 * 6)
