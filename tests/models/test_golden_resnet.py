"""The network against the official code's numbers, from name-seeded weights."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import models
from simclr_jax.importers import official_names

CASES = {
  'r18_cifar': config_lib.ModelConfig(depth=18),
  'r50': config_lib.ModelConfig(depth=50),
}
IMAGE_SIZE = {'r18_cifar': 32, 'r50': 64}


class Run(NamedTuple):
  """Everything one precision of one case gives, as NumPy arrays.

  Attributes:
    evaluated: Outputs in eval mode.
    evaluated65: The same on 65x57 images, or None.
    trained: Outputs in train mode.
    moving: {official name: moving statistics after one train-mode call}.
    grads: {official name: gradient of sum(z * grad_w) in train mode}.
    blocks: Output of each residual block in eval mode, in order.
    stem_conv: Output of the stem's convolution in eval mode.
    params: The parameters.
  """

  evaluated: models.Outputs
  evaluated65: models.Outputs | None
  trained: models.Outputs
  moving: dict[str, np.ndarray]
  grads: dict[str, np.ndarray]
  blocks: list[np.ndarray]
  stem_conv: np.ndarray
  params: dict[str, Any]


def run_case(case: str, golden: Any, golden_dir: Any, dtype: Any) -> Run:
  spec = importlib.util.spec_from_file_location(
    'official_weights', golden_dir / 'official_weights.py'
  )
  weights_lib = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(weights_lib)
  manifest = weights_lib.load_manifest(golden_dir / f'manifests/{case}.json')
  weights = weights_lib.make_weights(manifest)
  assert weights_lib.digest(weights) == manifest['sha256']

  config = CASES[case]
  names = {'image_size': IMAGE_SIZE[case], 'num_classes': 10}
  model = models.make_model(config, param_dtype=dtype, **names)
  variables = official_names.from_official(weights, config, **names)
  variables = jax.tree.map(lambda a: jnp.asarray(a, dtype), variables)
  inputs = golden('resnet_inputs')
  images = jnp.asarray(inputs[manifest['input']], dtype)
  grad_w = jnp.asarray(golden(f'resnet_{case}')['grad_w'], dtype)

  @jax.jit
  def evaluate(variables, images):
    outputs, state = model.apply(
      variables,
      images,
      train=False,
      capture_intermediates=lambda module, _: (
        module.name == 'conv1' or (module.name or '').startswith('layer')
      ),
      mutable=['intermediates'],
    )
    return outputs, state['intermediates']['backbone']

  @jax.jit
  def train(variables, images):
    def loss(params):
      outputs, state = model.apply(
        {**variables, 'params': params},
        images,
        train=True,
        mutable=['batch_stats'],
      )
      return jnp.sum(outputs.z * grad_w), (outputs, state['batch_stats'])

    return jax.grad(loss, has_aux=True)(variables['params'])

  grads, (trained, moving) = train(variables, images)
  evaluated, inner = evaluate(variables, images)
  evaluated65 = None
  if case == 'r50':
    evaluated65, _ = evaluate(variables, jnp.asarray(inputs['x65x57'], dtype))
  to_names = official_names.to_official(
    {'params': grads, 'batch_stats': moving}, config, **names
  )
  is_moving = lambda name: '/moving_' in name  # noqa: E731
  return Run(
    evaluated=jax.tree.map(np.asarray, evaluated),
    evaluated65=jax.tree.map(np.asarray, evaluated65),
    trained=jax.tree.map(np.asarray, trained),
    moving={k: v for k, v in to_names.items() if is_moving(k)},
    grads={k: v for k, v in to_names.items() if not is_moving(k)},
    blocks=[
      np.asarray(inner[name]['__call__'][0])
      for name in sorted(k for k in inner if k.startswith('layer'))
    ],
    stem_conv=np.asarray(inner['conv1']['__call__'][0]),
    params=variables['params'],
  )


@pytest.fixture(scope='module')
def r18_f32(golden, golden_dir) -> Run:
  return run_case('r18_cifar', golden, golden_dir, jnp.float32)


@pytest.fixture(scope='module')
def r18_f64(golden, golden_dir) -> Run:
  with jax.enable_x64(True):
    return run_case('r18_cifar', golden, golden_dir, jnp.float64)


@pytest.fixture(scope='module')
def r50_f32(golden, golden_dir) -> Run:
  return run_case('r50', golden, golden_dir, jnp.float32)


def relative(a: Any, b: Any) -> float:
  """max|a - b| / max|b|, the README's measure."""
  assert a.shape == b.shape
  return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


def check(run: Run, ref: Any, *, tolerance: dict[str, float]) -> None:
  for name in ('h', 'z', 'logits'):
    value = getattr(run.evaluated, name)
    assert relative(value, ref[f'f64/eval_{name}']) < tolerance['eval'], name
    value = getattr(run.trained, name)
    kind = 'train_z' if name == 'z' else 'train_h'
    assert relative(value, ref[f'f64/train_{name}']) < tolerance[kind], name
  prefix = 'f64/train_moving/'
  moving = {k.removeprefix(prefix) for k in ref.files if k.startswith(prefix)}
  assert moving == set(run.moving)
  for name in moving:
    error = relative(run.moving[name], ref[prefix + name])
    assert error < tolerance['moving'], name
  # The supervised head gets no gradient from z and is not in the list.
  names = ref['grad_names']
  others = {k: v for k, v in run.grads.items() if k not in set(names)}
  assert all(k.startswith('head_supervised') for k in others)
  assert not any(np.any(v) for v in others.values())
  norms = np.array(
    [np.linalg.norm(run.grads[k].astype(np.float64)) for k in names]
  )
  errors = np.abs(norms / ref['f64/grad_norms'] - 1)
  assert errors.max() < tolerance['grad_worst'], names[errors.argmax()]
  assert np.median(errors) < tolerance['grad_median']
  stem = run.grads['resnet/conv2d_fixed_padding/conv2d/kernel']
  assert relative(stem, ref['f64/grad_stem']) < tolerance['grad_stem']
  prefix = 'f64/grad/'
  for key in (k for k in ref.files if k.startswith(prefix)):
    error = relative(run.grads[key.removeprefix(prefix)], ref[key])
    assert error < tolerance['grad_stem'], key


def test_r18_float32(r18_f32, golden):
  check(
    r18_f32,
    golden('resnet_r18_cifar'),
    tolerance={
      'eval': 5e-6, 'train_h': 2e-5, 'train_z': 1e-4, 'moving': 2e-5,
      'grad_worst': 1e-2, 'grad_median': 1e-3, 'grad_stem': 2e-2,
    },
  )  # fmt: skip


def test_r18_float64(r18_f64, golden):
  check(
    r18_f64,
    golden('resnet_r18_cifar'),
    # The official 1 - decay is float32(0.1), hence the moving statistics' 1e-8.
    tolerance={
      'eval': 1e-11, 'train_h': 1e-10, 'train_z': 1e-10, 'moving': 1e-8,
      'grad_worst': 1e-10, 'grad_median': 1e-10, 'grad_stem': 1e-10,
    },
  )  # fmt: skip


def test_r50_float32(r50_f32, golden):
  check(
    r50_f32,
    golden('resnet_r50'),
    tolerance={
      'eval': 5e-6, 'train_h': 1e-4, 'train_z': 5e-4, 'moving': 2e-5,
      'grad_worst': 1e-2, 'grad_median': 1e-3, 'grad_stem': 2e-2,
    },
  )  # fmt: skip


def test_r50_odd_sizes(r50_f32, golden):
  ref = golden('resnet_r50')
  for name in ('h', 'z', 'logits'):
    value = getattr(r50_f32.evaluated65, name)
    assert relative(value, ref[f'f64/eval65_{name}']) < 5e-6, name


def test_r18_inner_activations(r18_f64, golden):
  """Stem and every block: says where a fault begins."""
  ref = golden('resnet_r18_cifar')
  stem = r18_f64.stem_conv
  assert stem.shape == tuple(ref['eval_initial_conv_shape'])
  chmean = ref['f64/eval_initial_conv_chmean']
  assert relative(stem.mean((0, 1, 2)), chmean) < 1e-11
  moments = np.array([[a.mean(), a.std()] for a in r18_f64.blocks])
  assert relative(moments, ref['f64/eval_blocks_meanstd']) < 1e-11
  last = r18_f64.blocks[-1][0]
  assert relative(last, ref['f64/eval_block_group4_img0']) < 1e-11


@pytest.mark.parametrize('case', CASES)
def test_parameter_counts(case, golden):
  model = models.make_model(
    CASES[case], image_size=IMAGE_SIZE[case], num_classes=10
  )
  shapes = models.abstract_variables(model, image_size=IMAGE_SIZE[case])
  assert [
    models.count_parameters(shapes['params']),
    models.count_parameters(shapes['batch_stats']),
    models.count_parameters(shapes['params']['backbone']),
  ] == list(golden(f'resnet_{case}')['n_params'])
