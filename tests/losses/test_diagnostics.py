import math
import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from simclr_jax.losses import diagnostics


def make_embeddings(num_rows, dim, *, seed=0):
  return (
    np.random.default_rng(seed).normal(size=(num_rows, dim)).astype(np.float32)
  )


def normalize(rows):
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def diagnose(rows, temperature=0.5):
  fn = jax.jit(lambda z: diagnostics.diagnose(z, z, temperature=temperature))
  return jax.device_get(fn(rows))


def oracle(rows, temperature):
  """The definitions as loops, float64."""
  units = normalize(rows.astype(np.float64))
  num_rows, dim = units.shape
  gaps, kernels, weights = [], [], []
  num_hardest = max(1, (num_rows - 2) // 100)
  for i in range(num_rows):
    negatives = []
    for j in range(num_rows):
      square = np.sum((units[i] - units[j]) ** 2)
      if j // 2 != i // 2:
        kernels.append(math.exp(-2 * square))
        negatives.append(math.exp(units[i] @ units[j] / temperature))
      elif j != i:
        gaps.append(square)
    hardest = sorted(negatives)[-num_hardest:]
    weights.append(sum(hardest) / sum(negatives))
  singular = np.linalg.svd(units - units.mean(0), compute_uv=False)
  shares = singular / singular.sum()
  shares = shares[shares > 1e-12]
  return {
    'alignment': np.mean(gaps),
    'uniformity': math.log(np.mean(kernels)),
    'effective_rank': math.exp(-np.sum(shares * np.log(shares))),
    'dead_dimensions': np.sum(units.std(0) < 0.01 / math.sqrt(dim)),
    'hardest_negative_weight': np.mean(weights),
  }


@pytest.mark.parametrize(('num_rows', 'dim'), [(20, 7), (210, 16)])
def test_equal_to_the_definitions(num_rows, dim):
  rows = make_embeddings(num_rows, dim)
  rows[:, 2] *= 5e-3  # A dimension that hardly varies.
  actual = diagnose(rows, temperature=0.2)
  expected = oracle(rows, temperature=0.2)
  assert actual.keys() == expected.keys()
  for name, value in expected.items():
    # Squaring the matrix costs the small singular values half their digits.
    rtol = 1e-4 if name == 'effective_rank' else 1e-5
    np.testing.assert_allclose(actual[name], value, rtol=rtol, err_msg=name)
  assert expected['dead_dimensions'] == 1


def test_float64_stays_float64():
  rows = make_embeddings(20, 7).astype(np.float64)
  with jax.enable_x64(True):
    actual = diagnose(jnp.asarray(rows))
  for name, value in oracle(rows, temperature=0.5).items():
    assert actual[name].dtype == np.float64, name
    np.testing.assert_allclose(actual[name], value, rtol=1e-12, err_msg=name)


def collective_sizes(text):
  """Elements of every array that a collective hands on."""
  kinds = 'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute'
  return [
    math.prod(map(int, shape.split(',')))
    for line in text.splitlines()
    for result in re.findall(rf' = (.*?) (?:{kinds})(?:-start)?\(', line)
    for shape in re.findall(r'\w+\[([\d,]+)\]', result)
  ]


@pytest.mark.parametrize('num_devices', [2, 8])
def test_same_on_any_number_of_devices_and_only_embeddings_cross(num_devices):
  rows = make_embeddings(64, 8)
  mesh = jax.make_mesh(
    (num_devices,),
    ('data',),
    axis_types=(AxisType.Explicit,),
    devices=jax.devices()[:num_devices],
  )

  def gathered(z):
    return diagnostics.diagnose(z, jax.reshard(z, P()), temperature=0.5)

  with jax.set_mesh(mesh):
    z = jax.device_put(rows, P('data'))
    compiled = jax.jit(gathered).lower(z).compile()
    shared = jax.device_get(compiled(z))
  for name, value in diagnose(rows).items():
    np.testing.assert_allclose(shared[name], value, rtol=1e-5, err_msg=name)
  crossing = collective_sizes(compiled.as_text())
  assert crossing
  assert max(crossing) <= rows.size


@pytest.mark.parametrize('num_devices', [1, 4])
def test_a_large_batch_is_judged_a_block_of_rows_at_a_time(
  monkeypatch, num_devices
):
  num_rows = 1000
  rows = make_embeddings(num_rows, 8)
  whole = diagnose(rows, temperature=0.2)
  mesh = jax.make_mesh(
    (num_devices,),
    ('data',),
    axis_types=(AxisType.Explicit,),
    devices=jax.devices()[:num_devices],
  )

  def compile_and_run():
    with jax.set_mesh(mesh):
      z = jax.device_put(rows, P('data'))
      compiled = (
        jax.jit(
          lambda z: diagnostics.diagnose(
            z, jax.reshard(z, P()), temperature=0.2
          )
        )
        .lower(z)
        .compile()
      )
      memory = compiled.memory_analysis().temp_size_in_bytes
      return jax.device_get(compiled(z)), memory, compiled.as_text()

  _, plain_memory, _ = compile_and_run()
  # Room for 25 rows, or what next divides a device's own: 25 of 1000 or 250.
  monkeypatch.setattr(diagnostics, 'BLOCK_SIMILARITIES', 30 * num_rows)
  blocks, memory, text = compile_and_run()
  assert memory < plain_memory / (20 / num_devices)
  assert f'f32[25,{num_rows}]' in text
  assert not re.search(rf'f32\[{num_rows // num_devices},{num_rows}\]', text)
  for name, value in whole.items():
    np.testing.assert_allclose(blocks[name], value, rtol=1e-5, err_msg=name)
  assert max(collective_sizes(text), default=0) <= rows.size


def test_collapsed_embeddings():
  metrics = diagnose(np.ones((12, 5), np.float32))
  np.testing.assert_allclose(metrics['alignment'], 0, atol=1e-6)
  np.testing.assert_allclose(metrics['uniformity'], 0, atol=1e-5)
  np.testing.assert_allclose(metrics['effective_rank'], 1, rtol=1e-6)
  assert metrics['dead_dimensions'] == 5
  # Ten negatives of equal weight, the hardest of which is one.
  np.testing.assert_allclose(metrics['hardest_negative_weight'], 0.1, rtol=1e-5)


@pytest.mark.parametrize('rank', [1, 3, 8])
@pytest.mark.parametrize('length', [1e-20, 1.0, 1e8])
def test_effective_rank_of_equal_directions(rank, length):
  # +e_k and -e_k for each of `rank` axes, shifted: equal singular values.
  axes = np.eye(8, dtype=np.float32)[:rank]
  rows = np.concatenate([axes, -axes])
  if length == 1.0:
    rows = rows + 3
  rows = rows * np.float32(length)
  actual = jax.jit(diagnostics.effective_rank)(rows)
  np.testing.assert_allclose(actual, rank, rtol=1e-4)


def test_effective_rank_ignores_rounding_in_wide_embeddings():
  # A line in 512 dimensions: 511 eigenvalues are rounding errors, whose
  # roots would add up to several ranks.
  line = make_embeddings(64, 1) @ make_embeddings(1, 512, seed=1)
  actual = jax.jit(diagnostics.effective_rank)(line)
  np.testing.assert_allclose(actual, 1, rtol=1e-3)


@pytest.mark.parametrize(
  ('temperature', 'weight'),
  [(0.07, 0.9932), (0.1, 0.9693), (0.5, 0.5653), (1.0, 0.4491)],
)
def test_softmax_weight_of_the_hardest_of_three_negatives(temperature, weight):
  # Known weights for similarities .75, .40, .10 among three negatives; the
  # fourth of every row is far away.
  logits = np.full((6, 6), 9.0, np.float32)
  for row in range(6):
    negatives = [column for column in range(6) if column // 2 != row // 2]
    logits[row, negatives] = [0.4, -1e4, 0.75, 0.1]
  fn = jax.jit(
    lambda z, keys: diagnostics.hardest_negative_weight(
      z, keys, temperature=temperature
    )
  )
  # With rows of the identity, z . keys are the columns of the keys.
  actual = fn(np.eye(6, dtype=np.float32), logits.T)
  np.testing.assert_allclose(actual, weight, atol=6e-5)


def test_no_gradient_flows_through():
  rows = make_embeddings(8, 3)

  def total(z):
    return sum(diagnostics.diagnose(z, z, temperature=0.5).values())

  np.testing.assert_array_equal(jax.jit(jax.grad(total))(rows), 0)


def test_misuse_is_an_error():
  with pytest.raises(ValueError, match='5 rows'):
    diagnostics.diagnose(jnp.ones((5, 3)), jnp.ones((5, 3)), temperature=1.0)
