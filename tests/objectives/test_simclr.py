"""SimCLR as an objective: pairing, labels, where gradients go."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import losses, objectives, resolve
from simclr_jax.objectives import online_head, simclr
from simclr_jax.training import mesh as mesh_lib


def test_views_of_an_image_are_neighbours():
  views = np.arange(3 * 2).reshape(3, 2, 1, 1, 1)
  np.testing.assert_array_equal(
    simclr.merge_views(views)[:, 0, 0, 0], [0, 1, 2, 3, 4, 5]
  )
  labels = simclr.label_views(jnp.array([7, 8, 9]))
  np.testing.assert_array_equal(labels, [7, 7, 8, 8, 9, 9])


def numpy_nt_xent(z, temperature):
  """The paper's algorithm 1 as a double loop, mean over 2B."""
  z = z / np.linalg.norm(z, axis=1, keepdims=True)
  total = 0.0
  for i in range(len(z)):
    similarities = z @ z[i] / temperature
    others = [similarities[k] for k in range(len(z)) if k != i]
    total += np.log(np.sum(np.exp(others))) - similarities[i ^ 1]
  return total / len(z)


@pytest.mark.parametrize('num_devices', [1, 8])
@pytest.mark.parametrize(
  ('scale', 'factor', 'implementation'),
  [
    ('paper', 1, 'auto'),
    ('official', 2, 'plain'),
    ('official', 2, 'chunked'),
    ('paper', 1, 'ring'),
  ],
)
def test_contrasts_every_pair_of_the_global_batch(
  num_devices, scale, factor, implementation
):
  rng = np.random.default_rng(1)
  views = rng.standard_normal((16, 2, 2, 2, 3)).astype(np.float32)
  weights = rng.standard_normal((12, 5)).astype(np.float32)
  labels = rng.integers(-1, 4, 16).astype(np.int32)
  config = config_lib.replace(
    config_lib.Config(),
    data={'source': 'digits'},
    loss={
      'temperature': 0.3,
      'scale': scale,
      'implementation': implementation,
    },
  )
  objective = objectives.make_objective(config)

  def forward(params, images):
    flat = images.reshape(images.shape[0], 12)
    outputs = types.SimpleNamespace(z=flat @ params, logits=None)
    return outputs, {'moved': jnp.ones(())}

  mesh = mesh_lib.make_mesh(jax.devices()[:num_devices])
  with jax.set_mesh(mesh):
    batch = mesh_lib.put_batch({'views': views, 'label': labels}, mesh)
    params = jax.device_put(weights, mesh_lib.replicated(mesh))
    result = jax.jit(
      lambda p, b: objective.loss(forward, p, {}, b, jax.random.key(0))
    )(params, batch)
  want = factor * numpy_nt_xent(
    views.reshape(32, 12).astype(np.float64) @ weights, 0.3
  )
  np.testing.assert_allclose(result.loss, want, rtol=2e-6)
  assert result.model_state == {'moved': 1}


@pytest.mark.parametrize(
  ('implementation', 'chunk_size', 'expected'),
  [
    ('auto', 0, 'plain'),
    ('plain', 0, 'plain'),
    ('chunked', 6, 'chunked 6'),
    ('chunked', 0, 'chunked 32'),
    ('ring', 6, 'ring 6 data'),
    ('ring', 0, 'ring 16 data'),
  ],
)
def test_runs_the_form_that_the_recipe_states(
  monkeypatch, implementation, chunk_size, expected
):
  called = []

  def record(name):
    def loss(z, *keys, temperature, scale, chunk_size='', axis_name=''):
      assert (temperature, scale) == (0.3, 'paper')
      assert len(keys) == (name != 'ring')
      called.append(f'{name} {chunk_size} {axis_name}'.strip())
      return jnp.sum(z), {}

    return loss

  for name, function in (
    ('plain', 'nt_xent'),
    ('chunked', 'nt_xent_chunked'),
    ('ring', 'nt_xent_ring'),
  ):
    monkeypatch.setattr(losses, function, record(name))
  mesh = mesh_lib.make_mesh(jax.devices()[:2])
  loss = config_lib.LossConfig(
    temperature=0.3,
    scale='paper',
    implementation=implementation,
    chunk_size=chunk_size,
  )
  config = dataclasses.replace(
    config_lib.Config(),
    loss=loss,
    train=config_lib.TrainConfig(batch_size=16, duration='20 steps'),
    optim=config_lib.OptimConfig(warmup='0 steps'),
  )
  resolved = resolve.resolve(
    config, num_examples=64, num_classes=0, num_devices=2, embedding_dim=4
  )
  with jax.set_mesh(mesh):
    z = jax.device_put(jnp.ones((32, 4)), mesh_lib.batch_sharding(mesh))
    jax.jit(lambda z: simclr.contrast(z, loss))(z)
  assert called == [expected]
  stated = f'{resolved.loss_implementation} {resolved.loss_chunk_size or ""}'
  assert expected.removesuffix(' data') == stated.strip()


def test_online_head_counts_labelled_rows_only():
  logits = jnp.array([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
  loss, metrics = online_head.online_head_loss(logits, jnp.array([0, 0, -1]))
  want = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))) / 2
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  assert metrics['online_top1'] == 0.5


def test_online_head_without_any_label_is_zero():
  loss, metrics = online_head.online_head_loss(
    jnp.ones((4, 3)), jnp.full(4, -1)
  )
  assert loss == 0 and metrics['online_top1'] == 0


def test_online_head_does_not_average_over_labels_it_has_no_class_for():
  loss, metrics = online_head.online_head_loss(
    jnp.ones((4, 3)), jnp.array([0, 2, 3, -1])
  )
  assert np.isnan(loss) and np.isnan(metrics['online_loss'])


def test_unknown_objective_names_the_closest():
  # Not checked; the schema would refuse it before.
  config = dataclasses.replace(config_lib.Config(), objective='simclrr')
  with pytest.raises(ValueError, match="did you mean 'simclr'"):
    objectives.make_objective(config)
