"""The chunked form and the ring against the plain one and the paper's loops."""

import functools
import math
import re

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from simclr_jax import losses
from simclr_jax.losses import streaming

STREAMED = ('chunked', 'ring')


def interleave(first, second):
  """Golden arrays hold views apart, ours rows 2i and 2i+1."""
  return np.stack([first, second], axis=1).reshape(2 * len(first), -1)


@functools.cache
def make_mesh(num_devices):
  return jax.make_mesh(
    (num_devices,),
    ('data',),
    axis_types=(AxisType.Explicit,),
    devices=jax.devices()[:num_devices],
  )


def contrast(
  hidden,
  *,
  form,
  chunk_size=6,
  temperature=0.1,
  scale='official',
  normalize=True,
):
  """What the objective does, on a mesh or without one."""
  z = losses.l2_normalize(hidden) if normalize else hidden
  settings = {'temperature': temperature, 'scale': scale}
  if form == 'ring':
    return losses.nt_xent_ring(
      z, chunk_size=chunk_size, axis_name='data', **settings
    )
  sharded = not jax.sharding.get_abstract_mesh().empty
  keys = jax.reshard(z, P()) if sharded else z
  if form == 'plain':
    return losses.nt_xent(z, keys, **settings)
  return losses.nt_xent_chunked(z, keys, chunk_size=chunk_size, **settings)


def value_and_grad(hidden, *, num_devices=1, **settings):
  """Loss, metrics, gradient; 0 devices is without any mesh."""
  fn = jax.jit(
    jax.value_and_grad(lambda x: contrast(x, **settings), has_aux=True)
  )
  if num_devices == 0:
    (loss, metrics), grad = jax.device_get(fn(hidden))
  else:
    with jax.set_mesh(make_mesh(num_devices)):
      (loss, metrics), grad = jax.device_get(
        fn(jax.device_put(hidden, P('data')))
      )
  return loss, metrics, grad


def relative_error(actual, expected):
  actual, expected = np.asarray(actual), np.asarray(expected)
  return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))


def oracle(hidden, temperature):
  """Algorithm 1 of the paper and the official metrics as loops, float64.

  The gradient by the chain rule: of every row's softmax, then of the
  normalisation.
  """
  lengths = np.linalg.norm(hidden, axis=1, keepdims=True)
  z = hidden / lengths
  num_rows = len(z)
  total, grad_z = 0.0, np.zeros_like(z)
  correct, entropies = [], []
  for i in range(num_rows):
    exponentials = {
      j: math.exp(z[i] @ z[j] / temperature) for j in range(num_rows) if j != i
    }
    normalizer = math.fsum(exponentials.values())
    positive = i + 1 if i % 2 == 0 else i - 1
    total -= math.log(exponentials[positive] / normalizer)
    for j, exponential in exponentials.items():
      weight = exponential / normalizer - (j == positive)
      grad_z[i] += weight * z[j] / temperature / num_rows
      grad_z[j] += weight * z[i] / temperature / num_rows
    if i % 2 == 0:
      second = [exponentials[j] for j in range(1, num_rows, 2)]
      correct.append(max(second) == exponentials[positive])
      shares = [e / math.fsum(second) for e in second]
      entropies.append(-math.fsum(p * math.log(p + 1e-8) for p in shares))
  along = np.sum(grad_z * z, axis=1, keepdims=True)
  metrics = {
    'contrast_acc': np.mean(correct),
    'contrast_entropy': np.mean(entropies),
  }
  return total / num_rows, metrics, (grad_z - along * z) / lengths


def make_hidden(num_rows, dim, *, seed=0):
  """Pairs that belong together, but not always more than to others."""
  rng = np.random.default_rng(seed)
  images = np.repeat(rng.normal(size=(num_rows // 2, dim)), 2, axis=0)
  return images + rng.normal(size=(num_rows, dim))


# Chunks of 2, 3, 5 and all images out of 14, or of 7 on each of 2 devices: the
# last one is short in most.
@pytest.mark.parametrize('chunk_size', [4, 7, 10, 1000])
@pytest.mark.parametrize(
  ('form', 'num_devices'),
  [('chunked', 0), ('chunked', 2), ('ring', 1), ('ring', 2)],
)
def test_float64_equals_the_papers_loops(form, num_devices, chunk_size):
  temperature = {4: 0.05, 7: 0.1, 10: 0.5, 1000: 1.0}[chunk_size]
  hidden = make_hidden(28, 5)
  expected, expected_metrics, expected_grad = oracle(hidden, temperature)
  with jax.enable_x64(True):
    loss, metrics, grad = value_and_grad(
      hidden,
      form=form,
      num_devices=num_devices,
      chunk_size=chunk_size,
      temperature=temperature,
      scale='paper',
    )
  assert loss.dtype == grad.dtype == np.float64
  assert all(value.dtype == np.float64 for value in metrics.values())
  np.testing.assert_allclose(loss, expected, rtol=1e-13)
  assert relative_error(grad, expected_grad) < 1e-13
  assert 0 < expected_metrics['contrast_acc'] < 1
  for name, value in expected_metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize(
  ('form', 'num_devices', 'chunk_size', 'scale'),
  [
    ('chunked', 0, 34, 'official'),
    ('chunked', 8, 14, 'paper'),
    ('ring', 8, 4, 'official'),
    ('ring', 8, 100, 'paper'),
    ('ring', 2, 14, 'official'),
  ],
)
def test_equal_to_the_plain_form(form, num_devices, chunk_size, scale):
  # 40 images, 5 or 20 of them on a device, in chunks of 17, 7 and 2.
  hidden = make_hidden(80, 12)
  settings = {'temperature': 0.2, 'scale': scale}
  with jax.enable_x64(True):
    expected = value_and_grad(hidden, form='plain', num_devices=0, **settings)
    actual = value_and_grad(
      hidden,
      form=form,
      num_devices=num_devices,
      chunk_size=chunk_size,
      **settings,
    )
  assert actual[1].keys() == expected[1].keys()
  np.testing.assert_allclose(actual[0], expected[0], rtol=1e-14)
  for name, value in expected[1].items():
    np.testing.assert_allclose(actual[1][name], value, rtol=1e-12, err_msg=name)
  assert relative_error(actual[2], expected[2]) < 1e-13


@pytest.mark.parametrize('form', STREAMED)
def test_value_alone_is_the_same(form):
  """Without a gradient another, shorter second pass runs."""
  hidden = make_hidden(48, 6)
  with jax.enable_x64(True):
    expected = value_and_grad(hidden, form='plain', num_devices=0)
    with jax.set_mesh(make_mesh(8)):
      loss, metrics = jax.jit(lambda x: contrast(x, form=form, chunk_size=4))(
        jax.device_put(hidden, P('data'))
      )
      jaxpr = jax.make_jaxpr(lambda x: contrast(x, form=form))(
        jax.device_put(hidden, P('data'))
      )
  np.testing.assert_allclose(loss, expected[0], rtol=1e-14)
  for name, value in expected[1].items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-12, err_msg=name)
  assert str(jaxpr).count('dot_general') == 2


@pytest.mark.parametrize('form', STREAMED)
@pytest.mark.parametrize('case', ['0.07', '0.1', '0.5', '1', '0.5_nonorm'])
def test_official_numbers(golden, form, case):
  numbers = golden('nt_xent')
  # The larger batch where it is most demanding and where it is not normalised.
  large = [(256, 8, 100)] if case in ('0.07', '0.5_nonorm') else []
  for num, num_devices, chunk_size in [(32, 2, 20), *large]:
    hidden = interleave(numbers[f'n{num}_hidden1'], numbers[f'n{num}_hidden2'])
    normalize = not case.endswith('_nonorm')
    if not normalize:
      hidden = hidden * np.float32(0.1)
    loss, metrics, grad = value_and_grad(
      hidden,
      form=form,
      num_devices=num_devices,
      chunk_size=chunk_size,
      temperature=float(case.removesuffix('_nonorm')),
      normalize=normalize,
    )
    key = f'n{num}_t{case}'
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, numbers[f'{key}_loss'], rtol=1e-6)
    assert metrics['contrast_acc'] == numbers[f'{key}_acc']
    np.testing.assert_allclose(
      metrics['contrast_entropy'], numbers[f'{key}_entropy'], rtol=2e-6
    )
    expected = interleave(
      numbers[f'{key}_grad_hidden1'], numbers[f'{key}_grad_hidden2']
    )
    assert relative_error(grad, expected) < 1e-5


@pytest.mark.parametrize('form', STREAMED)
def test_official_numbers_of_a_zero_and_a_tiny_vector(golden, form):
  numbers = golden('nt_xent')
  # The official input: first views, then second views.
  hidden = interleave(*np.split(numbers['eps_hidden'], 2))
  loss, _, grad = value_and_grad(
    hidden, form=form, num_devices=4, temperature=0.5
  )
  np.testing.assert_allclose(loss, numbers['eps_loss'], rtol=1e-6)
  expected = interleave(*np.split(numbers['eps_grad'], 2))
  # Rows apart: the zero vector's gradient is 1e6 times that of the others.
  for row, expected_row in zip(grad, expected, strict=True):
    assert relative_error(row, expected_row) < 1e-5


@pytest.mark.parametrize('form', STREAMED)
def test_gradient_of_parameters_before_the_normalisation(form):
  """A jitted loss of replicated weights, times a factor, as in a step."""
  rng = np.random.default_rng(4)
  inputs, weights = rng.normal(size=(64, 9)), rng.normal(size=(9, 5))

  def loss_fn(w, x, form):
    loss, _ = contrast(jnp.tanh(x @ w), form=form, temperature=0.3)
    return 3 * loss + jnp.sum(w**2)

  with jax.enable_x64(True):
    expected = jax.jit(jax.grad(lambda w, x: loss_fn(w, x, 'plain')))(
      weights, inputs
    )
    with jax.set_mesh(make_mesh(8)):
      actual = jax.jit(jax.grad(lambda w, x: loss_fn(w, x, form)))(
        jax.device_put(weights, P()), jax.device_put(inputs, P('data'))
      )
  assert relative_error(actual, expected) < 1e-13


@pytest.mark.parametrize('form', STREAMED)
def test_bfloat16_embeddings_give_a_float32_loss(form):
  narrow = jnp.asarray(make_hidden(16, 4), jnp.bfloat16)
  settings = {'form': form, 'num_devices': 2, 'normalize': False}
  loss, metrics, grad = value_and_grad(narrow, **settings)
  wide = value_and_grad(narrow.astype(jnp.float32), **settings)
  assert loss.dtype == np.float32 and loss == wide[0]
  assert all(value.dtype == np.float32 for value in metrics.values())
  assert grad.dtype == narrow.dtype
  np.testing.assert_array_equal(grad, wide[2].astype(narrow.dtype))


@pytest.mark.parametrize('form', STREAMED)
def test_long_vectors_at_a_low_temperature_overflow_nowhere(form):
  # Logits up to 1e5, log-sums apart by as much.
  hidden = 30 * make_hidden(32, 6).astype(np.float32)
  settings = {'temperature': 0.07, 'normalize': False}
  expected = value_and_grad(hidden, form='plain', num_devices=0, **settings)
  assert np.ptp(np.sum(hidden**2, axis=1)) / 0.07 > 1e4
  actual = value_and_grad(hidden, form=form, num_devices=4, **settings)
  np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6)
  assert relative_error(actual[2], expected[2]) < 1e-5
  for name, value in expected[1].items():
    np.testing.assert_allclose(
      actual[1][name], value, rtol=1e-5, atol=1e-6, err_msg=name
    )


@pytest.mark.parametrize('form', STREAMED)
def test_of_equal_keys_the_first_is_the_nearest(form):
  """As argmax has it: a collapsed encoder is right once, not always."""
  # Exact in float32, in whatever order they are summed.
  hidden = np.ones((24, 4), np.float32)
  hidden[10:12] = [1, -1, 1, -1]
  plain = value_and_grad(hidden, form='plain', num_devices=0)[1]
  metrics = value_and_grad(hidden, form=form, num_devices=2, chunk_size=4)[1]
  assert metrics['contrast_acc'] == plain['contrast_acc'] == np.float32(2 / 12)
  # Orthogonal rows of +-1, two images on each of 4 devices; image 2, first on
  # the second device, has a twin on the first one.
  signs = np.array([[1, 1], [1, -1]], np.float32)
  for _ in range(3):
    signs = np.kron(signs, [[1, 1], [1, -1]])
  hidden = np.repeat(signs[:8], 2, axis=0).astype(np.float32)
  hidden[4:6] = hidden[0]
  metrics = value_and_grad(hidden, form=form, num_devices=4, chunk_size=2)[1]
  assert metrics['contrast_acc'] == np.float32(7 / 8)


@pytest.mark.parametrize('num_images', [1, 2, 5, 9, 12, 31])
@pytest.mark.parametrize('chunk_size', [2, 3, 8, 13, 100])
def test_chunks_hold_every_image_once(num_images, chunk_size):
  pairs = np.arange(1, 2 * num_images + 1).reshape(num_images, 2)
  chunks = np.asarray(streaming.split_pairs(jnp.asarray(pairs), chunk_size))
  images = np.asarray(
    streaming.number_images(
      chunks[..., None], num_images=num_images, first=7 * num_images
    )
  )
  assert chunks.shape[1] * chunks.shape[2] <= max(2, chunk_size)
  assert (images >= 0).any(1).all(), 'a chunk without any key'
  assert (images >= 0).sum() == num_images
  for views, numbers in zip(chunks, images, strict=True):
    for column, number in zip(views.T, numbers, strict=True):
      expected = pairs[number - 7 * num_images] if number >= 0 else [0, 0]
      np.testing.assert_array_equal(column, expected)


KINDS = 'all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute'


def compile_on(num_devices, form, *, num_rows, dim, chunk_size):
  mesh = make_mesh(num_devices)
  with jax.set_mesh(mesh):
    z = jax.ShapeDtypeStruct(
      (num_rows, dim), np.float32, sharding=NamedSharding(mesh, P('data'))
    )
    fn = jax.value_and_grad(
      lambda x: contrast(x, form=form, chunk_size=chunk_size), has_aux=True
    )
    return jax.jit(fn).lower(z).compile()


def collectives(compiled):
  """(kind, elements) of every array that crosses devices."""
  found = []
  for line in compiled.as_text().splitlines():
    match = re.search(rf' = (.*?) ({KINDS})(?:-start)?\(', line)
    if match:
      for dims in re.findall(r'\w+\[([\d,]*)\]', match.group(1)):
        sizes = map(int, dims.split(',')) if dims else ()
        found.append((match.group(2), math.prod(sizes)))
  return found


def test_the_chunked_form_gathers_the_embeddings_once():
  num_rows, dim = 128, 8
  compiled = compile_on(8, 'chunked', num_rows=num_rows, dim=dim, chunk_size=32)
  found = collectives(compiled)
  large = [(kind, size) for kind, size in found if size > num_rows]
  assert large == [('all-gather', num_rows * dim)]
  # The log-sums, and the loss and metrics.
  assert ('all-gather', num_rows) in found
  assert {size for kind, size in found if kind == 'all-reduce'} == {1}


def test_the_ring_gathers_nothing():
  num_rows, dim = 128, 8
  compiled = compile_on(8, 'ring', num_rows=num_rows, dim=dim, chunk_size=8)
  found = collectives(compiled)
  assert {kind for kind, _ in found} == {'collective-permute', 'all-reduce'}
  # A block of keys in both passes, its log-sums in the second.
  assert sorted(
    size for kind, size in found if kind == 'collective-permute'
  ) == [num_rows // 8, num_rows * dim // 8, num_rows * dim // 8]
  # Scalars and the sum of all embeddings, for the mean cosine.
  assert max(size for kind, size in found if kind == 'all-reduce') <= dim


@pytest.mark.parametrize('num_devices', [1, 8])
def test_memory_is_that_of_a_chunk(num_devices):
  settings = {'num_rows': 1024, 'dim': 8}
  memory = {
    form: compile_on(num_devices, form, chunk_size=32, **settings)
    .memory_analysis()
    .temp_size_in_bytes
    for form in ('plain', *STREAMED)
  }
  assert memory['plain'] > 2 * 4 * 1024**2 / num_devices
  assert memory['chunked'] < memory['plain'] / 10
  assert memory['ring'] < memory['plain'] / 10


@pytest.mark.parametrize('form', ['plain', *STREAMED])
def test_more_pairs_of_rows_than_32_bits_count(form):
  """N = 65,536 has 4e9 negatives: a number of them that must not be int32."""
  mesh = make_mesh(8)
  with jax.set_mesh(mesh):
    z = jax.ShapeDtypeStruct(
      (65536, 4), np.float32, sharding=NamedSharding(mesh, P('data'))
    )
    loss, metrics = jax.eval_shape(
      lambda z: contrast(z, form=form, chunk_size=1024), z
    )
    judged = jax.eval_shape(
      lambda z: losses.diagnose(z, jax.reshard(z, P()), temperature=0.1), z
    )
  assert {x.shape for x in (loss, *metrics.values(), *judged.values())} == {()}


@pytest.mark.parametrize('form', STREAMED)
def test_misuse_is_an_error(form):
  with jax.set_mesh(make_mesh(4)):
    for shape, settings, message in (
      ((8, 3), {'chunk_size': 1}, 'chunk_size = 1: must be at least 2'),
      ((7, 3), {}, '7 rows: NT-Xent takes exactly two views'),
      ((8, 3), {'temperature': 0.0}, 'temperature = 0.0: must be above'),
      ((8, 3), {'scale': 'mean'}, "scale = 'mean': must be 'official'"),
    ):
      with pytest.raises(ValueError, match=message):
        contrast(jnp.ones(shape), form=form, **settings)


def test_a_ring_needs_its_axis_and_whole_pairs():
  with pytest.raises(ValueError, match="axis_name = 'data'.*there is none"):
    contrast(jnp.ones((8, 3)), form='ring')
  with jax.set_mesh(make_mesh(8)):
    with pytest.raises(ValueError, match='6 images, which do not divide over'):
      contrast(jnp.ones((12, 3)), form='ring')
