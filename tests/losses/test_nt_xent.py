import math
import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from simclr_jax import losses


def interleave(first, second):
  """Golden arrays hold views apart, ours rows 2i and 2i+1."""
  return np.stack([first, second], axis=1).reshape(2 * len(first), -1)


def make_mesh(num_devices):
  return jax.make_mesh(
    (num_devices,),
    ('data',),
    axis_types=(AxisType.Explicit,),
    devices=jax.devices()[:num_devices],
  )


def contrast(hidden, *, temperature, scale='official', normalize=True):
  """What the objective does, on a mesh or without one."""
  z = losses.l2_normalize(hidden) if normalize else hidden
  sharded = not jax.sharding.get_abstract_mesh().empty
  keys = jax.reshard(z, P()) if sharded else z
  return losses.nt_xent(z, keys, temperature=temperature, scale=scale)


def value_and_grad(hidden, **settings):
  fn = jax.value_and_grad(lambda x: contrast(x, **settings), has_aux=True)
  (loss, metrics), grad = jax.jit(fn)(hidden)
  return loss, metrics, grad


def value(hidden, **settings):
  return jax.jit(lambda x: contrast(x, **settings))(hidden)


def on_mesh(num_devices, hidden, **settings):
  with jax.set_mesh(make_mesh(num_devices)):
    return jax.device_get(
      value_and_grad(jax.device_put(hidden, P('data')), **settings)
    )


def relative_error(actual, expected):
  actual, expected = np.asarray(actual), np.asarray(expected)
  return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))


def oracle_loss(hidden, temperature):
  """Algorithm 1 of the paper as its two loops, float64, mean over 2N."""
  z = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
  total = 0.0
  for i in range(len(z)):
    positive = i + 1 if i % 2 == 0 else i - 1
    others = [
      math.exp(z[i] @ z[j] / temperature) for j in range(len(z)) if j != i
    ]
    total -= math.log(
      math.exp(z[i] @ z[positive] / temperature) / math.fsum(others)
    )
  return total / len(z)


GOLDEN_CASES = [
  (num, case)
  for num in (32, 256)
  for case in ('0.07', '0.1', '0.5', '1', '0.5_nonorm')
]


@pytest.mark.parametrize(('num', 'case'), GOLDEN_CASES)
def test_official_numbers(golden, num, case):
  numbers = golden('nt_xent')
  hidden = interleave(numbers[f'n{num}_hidden1'], numbers[f'n{num}_hidden2'])
  normalize = not case.endswith('_nonorm')
  if not normalize:
    hidden = hidden * np.float32(0.1)
  settings = {
    'temperature': float(case.removesuffix('_nonorm')),
    'normalize': normalize,
  }
  key = f'n{num}_t{case}'
  loss, metrics, grad = value_and_grad(hidden, **settings)
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, numbers[f'{key}_loss'], rtol=1e-6)
  assert metrics['contrast_acc'] == numbers[f'{key}_acc']
  np.testing.assert_allclose(
    metrics['contrast_entropy'], numbers[f'{key}_entropy'], rtol=1e-6
  )
  expected = interleave(
    numbers[f'{key}_grad_hidden1'], numbers[f'{key}_grad_hidden2']
  )
  assert relative_error(grad, expected) < 1e-5
  np.testing.assert_allclose(
    loss, 2 * numbers[f'{key}_paper_mean2n_f64'], rtol=1e-6
  )


def test_official_numbers_of_a_zero_and_a_tiny_vector(golden):
  numbers = golden('nt_xent')
  # The official input: first views, then second views.
  hidden = interleave(*np.split(numbers['eps_hidden'], 2))
  loss, _, grad = value_and_grad(hidden, temperature=0.5)
  np.testing.assert_allclose(loss, numbers['eps_loss'], rtol=1e-6)
  expected = interleave(*np.split(numbers['eps_grad'], 2))
  # Rows apart: the zero vector's gradient is 1e6 times that of the others.
  for row, expected_row in zip(grad, expected, strict=True):
    assert relative_error(row, expected_row) < 1e-5


def test_two_devices_equal_two_official_replicas(golden):
  numbers = golden('nt_xent_2rep')
  hidden = interleave(numbers['hidden1'], numbers['hidden2'])
  temperature = float(numbers['temperature'])
  loss, metrics, grad = on_mesh(2, hidden, temperature=temperature)
  np.testing.assert_allclose(loss, numbers['global_loss'], rtol=1e-6)
  np.testing.assert_allclose(
    loss, numbers['per_replica_loss'].mean(), rtol=1e-6
  )
  for name in ('grad_hidden', 'grad_global_hidden'):
    expected = interleave(numbers[f'{name}1'], numbers[f'{name}2'])
    assert relative_error(grad, expected) < 1e-5
  chosen = numbers['logits_ab'].argmax(-1)
  correct = chosen == numbers['labels'][..., :16].argmax(-1)
  np.testing.assert_allclose(metrics['contrast_acc'], correct.mean())


@pytest.fixture(scope='module')
def alone():
  hidden = np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32)
  return hidden, jax.device_get(value_and_grad(hidden, temperature=0.1))


@pytest.mark.parametrize('num_devices', [1, 2, 4, 8])
def test_same_on_any_number_of_devices(alone, num_devices):
  hidden, alone = alone
  shared = on_mesh(num_devices, hidden, temperature=0.1)
  np.testing.assert_allclose(shared[0], alone[0], rtol=1e-6)
  for name, value in alone[1].items():
    np.testing.assert_allclose(shared[1][name], value, rtol=2e-6, atol=1e-7)
  assert relative_error(shared[2], alone[2]) < 2e-6


@pytest.mark.parametrize('temperature', [0.07, 0.5])
def test_float64_equals_the_papers_loops(temperature):
  hidden = np.random.default_rng(1).normal(size=(8, 5))
  expected_grad = np.zeros_like(hidden)
  step = 1e-6
  for index in np.ndindex(hidden.shape):
    offset = np.zeros_like(hidden)
    offset[index] = step
    expected_grad[index] = (
      oracle_loss(hidden + offset, temperature)
      - oracle_loss(hidden - offset, temperature)
    ) / (2 * step)
  with jax.enable_x64(True):
    loss, metrics, grad = value_and_grad(
      jnp.asarray(hidden), temperature=temperature, scale='paper'
    )
    official, _ = value(jnp.asarray(hidden), temperature=temperature)
    loss, metrics, grad, official = jax.device_get(
      (loss, metrics, grad, official)
    )
  assert loss.dtype == grad.dtype == np.float64
  assert all(value.dtype == np.float64 for value in metrics.values())
  np.testing.assert_allclose(loss, oracle_loss(hidden, temperature), rtol=1e-13)
  np.testing.assert_allclose(official, 2 * loss, rtol=1e-15)
  assert relative_error(grad, expected_grad) < 1e-8


def test_float64_matches_the_official_paper_mean_closely(golden):
  numbers = golden('nt_xent')
  hidden = interleave(numbers['n32_hidden1'], numbers['n32_hidden2'])
  with jax.enable_x64(True):
    loss, _ = value(
      jnp.asarray(hidden, jnp.float64), temperature=0.1, scale='paper'
    )
  np.testing.assert_allclose(
    loss, numbers['n32_t0.1_paper_mean2n_f64'], rtol=1e-12
  )


def test_cosine_means_equal_the_loops():
  hidden = np.random.default_rng(2).normal(size=(10, 4)).astype(np.float32) + 1
  units = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
  positives, negatives = [], []
  for i in range(10):
    for j in range(10):
      if i != j:
        group = positives if i // 2 == j // 2 else negatives
        group.append(units[i] @ units[j])
  for normalize in (True, False):
    _, metrics = value(hidden, temperature=0.5, normalize=normalize)
    np.testing.assert_allclose(
      metrics['positive_similarity'], np.mean(positives), rtol=1e-6
    )
    np.testing.assert_allclose(
      metrics['negative_similarity'], np.mean(negatives), rtol=1e-6
    )


def test_contrast_metrics_equal_the_loops():
  rng = np.random.default_rng(5)
  images = np.repeat(rng.normal(size=(6, 3)), 2, axis=0)
  hidden = (images + rng.normal(size=(12, 3))).astype(np.float32)
  units = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
  correct, entropies = [], []
  for i in range(6):
    exponentials = [math.exp(units[2 * i] @ units[2 * j + 1]) for j in range(6)]
    correct.append(max(exponentials) == exponentials[i])
    shares = [value / sum(exponentials) for value in exponentials]
    entropies.append(-sum(p * math.log(p) for p in shares))
  _, metrics = value(hidden, temperature=1.0)
  assert 0 < np.mean(correct) < 1
  np.testing.assert_allclose(metrics['contrast_acc'], np.mean(correct))
  np.testing.assert_allclose(
    metrics['contrast_entropy'], np.mean(entropies), rtol=1e-6
  )


@pytest.mark.parametrize('scale', ['paper', 'official'])
def test_equal_embeddings_cost_chance(scale):
  loss, metrics = value(jnp.ones((12, 3)), temperature=0.1, scale=scale)
  expected = {'paper': 1, 'official': 2}[scale] * math.log(11)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  np.testing.assert_allclose(losses.chance_loss(6, scale), expected)
  np.testing.assert_allclose(
    metrics['contrast_entropy'], math.log(6), rtol=1e-6
  )


def test_gradient_weights_of_the_papers_table():
  # Table 2's example: positive .8, negatives .75, .4, .1, temperature .5. The
  # fourth negative is far away. Keys have an own axis each, so the gradient
  # of row 0 along axis j is its softmax weight on key j.
  cosines = np.array([0, 0.8, 0.75, 0.4, 0.1, -1e3])
  keys = np.eye(6, dtype=np.float32)
  keys[:, 0] = cosines
  queries = np.zeros((6, 6), np.float32)
  queries[0, 0] = 1
  queries[1] = keys[1]

  def loss_fn(z):
    return losses.nt_xent(z, keys, temperature=0.5, scale='paper')[0]

  weights = jax.jit(jax.grad(loss_fn))(queries)[0] * 6 * 0.5
  np.testing.assert_allclose(weights[2:5], [0.348, 0.173, 0.095], atol=6e-4)
  np.testing.assert_allclose(weights[2] / weights[4], 3.67, atol=6e-3)


def collective_sizes(compiled):
  """Elements of every array that crosses devices, of each collective."""
  kinds = 'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute'
  sizes = []
  for line in compiled.as_text().splitlines():
    match = re.search(rf' = (.*?) (?:{kinds})(?:-start)?\(', line)
    if match:
      shapes = re.findall(r'\w+\[([\d,]*)\]', match.group(1))
      sizes += [math.prod(map(int, s.split(','))) if s else 1 for s in shapes]
  return sizes


def test_only_embeddings_cross_devices():
  num_rows, dim = 64, 8

  def gather_logits(z):
    keys = jax.reshard(z, P())
    return jax.reshard(z @ keys.T, P()).sum()

  with jax.set_mesh(make_mesh(8)):
    z = jax.device_put(np.ones((num_rows, dim), np.float32), P('data'))
    gathering = jax.jit(gather_logits).lower(z).compile()
    step = jax.jit(
      jax.value_and_grad(lambda x: contrast(x, temperature=0.5), has_aux=True)
    )
    compiled = step.lower(z).compile()
  # The reader of the program sees what it should not miss.
  assert max(collective_sizes(gathering)) >= num_rows * num_rows
  sizes = collective_sizes(compiled)
  assert sizes
  assert max(sizes) <= num_rows * dim
  # One gather forward, one reduction of its gradient; the rest are scalars.
  assert sum(size > num_rows for size in sizes) <= 3


def test_bfloat16_embeddings_give_a_float32_loss():
  hidden = np.random.default_rng(3).normal(size=(8, 4))
  z = jnp.asarray(hidden, jnp.bfloat16)
  loss, metrics = value(z, temperature=0.1, normalize=False)
  wide, _ = value(z.astype(jnp.float32), temperature=0.1, normalize=False)
  assert loss.dtype == jnp.float32
  assert loss == wide
  assert all(value.dtype == jnp.float32 for value in metrics.values())


@pytest.mark.parametrize(
  ('shape', 'keys_shape', 'settings', 'message'),
  [
    ((7, 3), (7, 3), {}, '7 rows: NT-Xent takes exactly two views'),
    ((2, 3), (2, 3), {}, 'at least 2 images'),
    ((8, 3), (16, 3), {}, r'z has shape \(8, 3\) and keys \(16, 3\)'),
    ((4, 2, 3), (4, 2, 3), {}, r'both must be \[N, d\]'),
    ((8, 3), (8, 3), {'temperature': 0.0}, 'temperature = 0.0: must be above'),
    ((8, 3), (8, 3), {'scale': 'mean'}, "scale = 'mean': must be 'official'"),
  ],
)
def test_misuse_is_an_error(shape, keys_shape, settings, message):
  settings = {'temperature': 0.5, 'scale': 'paper'} | settings
  with pytest.raises(ValueError, match=message):
    losses.nt_xent(jnp.ones(shape), jnp.ones(keys_shape), **settings)


def test_chance_loss_needs_two_images():
  with pytest.raises(ValueError, match='at least 2'):
    losses.chance_loss(1, 'paper')
