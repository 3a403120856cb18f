import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from simclr_jax import config as config_lib
from simclr_jax.training import optimizer as optimizer_lib

# Golden variables by the place they have in our parameters.
PLACES = {
  'conv_kernel': 'backbone/conv1/kernel',
  'bn_gamma': 'backbone/bn1/scale',
  'bn_beta': 'backbone/layer1_0/downsample_bn/bias',
  'zero_kernel': 'backbone/layer1_0/conv1/kernel',
  'zerograd_kernel': 'backbone/layer1_0/conv2/kernel',
  'dense_kernel': 'head/dense0/kernel',
  'dense_bias': 'head/dense0/bias',
  'sup_kernel': 'online_head/kernel',
  'sup_bias': 'online_head/bias',
}
# The golden runs take bare gradients: the official code's decay of the
# classifier is in its loss.
BARE = ('batch_norm', 'bias', 'online_head')


def nest(flat):
  tree = {}
  for name, value in flat.items():
    *scopes, leaf = PLACES[name].split('/')
    node = tree
    for scope in scopes:
      node = node.setdefault(scope, {})
    node[leaf] = value
  return tree


def unnest(tree):
  flat = {}
  for name, place in PLACES.items():
    node = tree
    for part in place.split('/'):
      node = node[part]
    flat[name] = np.asarray(node)
  return flat


def make_optim(**fields):
  return dataclasses.replace(config_lib.OptimConfig(), **fields)


def constant(rate):
  return optax.constant_schedule(rate)


def start(numbers):
  return nest({name: numbers[f'init_{name}'] for name in PLACES})


def run_steps(transform, params, grads):
  """Yields parameters and optimizer state after each step."""

  @jax.jit
  def step(params, state, grad):
    updates, state = transform.update(grad, state, params)
    return optax.apply_updates(params, updates), state

  state = transform.init(params)
  for grad in grads:
    params, state = step(params, state, grad)
    yield params, state


def golden_grads(numbers):
  return [
    nest({name: numbers[f'grad_{name}'][i] for name in PLACES})
    for i in range(10)
  ]


def run_golden(numbers, optim, schedule):
  transform = optimizer_lib.make_optimizer(optim, schedule)
  return run_steps(transform, start(numbers), golden_grads(numbers))


@pytest.mark.parametrize('name', ['lars', 'sgd', 'adam'])
def test_a_rate_of_its_own_keeps_the_online_head_out_of_the_recipe(name):
  rng = np.random.default_rng(0)
  params, grads = (
    {
      'backbone': {'conv': {'kernel': rng.normal(size=(3, 4))}},
      'online_head': {'kernel': 100 * rng.normal(size=(4, 2))},
    }
    for _ in range(2)
  )
  optim = make_optim(name=name, weight_decay=0.1, clip_grad_norm=1.0)
  after = list(
    run_steps(
      optimizer_lib.make_optimizer(optim, constant(0.3), online_lr=0.5),
      params,
      [grads, grads],
    )
  )[-1][0]
  want = params['online_head']['kernel'] - grads['online_head']['kernel']
  np.testing.assert_allclose(after['online_head']['kernel'], want, rtol=1e-6)
  # The encoder moves as without an online head: its gradient is not clipped
  # by the other's.
  alone = list(
    run_steps(
      optimizer_lib.make_optimizer(optim, constant(0.3)),
      {'backbone': params['backbone']},
      2 * [{'backbone': grads['backbone']}],
    )
  )[-1][0]
  jax.tree.map(
    np.testing.assert_array_equal, after['backbone'], alone['backbone']
  )


LARS_CASES = [
  *(
    (f'lars_wd{decay}_lr{rate}', decay, rate, False)
    for decay in ('1e-06', '0.0001', '0')
    for rate in ('0.3', '4.8')
  ),
  ('larsnesterov_wd0.0001_lr0.3', '0.0001', '0.3', True),
  ('larssched_wd0.0001', '0.0001', None, False),
]


@pytest.mark.parametrize(('case', 'decay', 'rate', 'nesterov'), LARS_CASES)
def test_official_lars(golden, case, decay, rate, nesterov):
  numbers = golden('lars')
  optim = make_optim(
    weight_decay=float(decay), nesterov=nesterov, decay_exclude=BARE
  )
  rates = jnp.asarray(numbers['larssched_lr_used'])
  schedule = constant(float(rate)) if rate else lambda step: rates[step]
  after = run_golden(numbers, optim, schedule)
  for i, (params, state) in enumerate(after):
    # optax keeps what is added to the parameter, hence the sign.
    momenta = {k: -v for k, v in unnest(state[-1].trace).items()}
    for kind, values in (('var', unnest(params)), ('mom', momenta)):
      for name, value in values.items():
        expected = numbers[f'{case}_{kind}_{name}'][i]
        # Values reach 30, where 1e-6 is half a float32 step.
        np.testing.assert_allclose(
          value,
          expected,
          rtol=0,
          atol=1e-6 * max(1, np.abs(expected).max()),
          err_msg=f'{kind} of {name} after step {i}',
        )


@pytest.mark.parametrize(
  ('case', 'fields'),
  [
    ('momentum_lr0.01', {'name': 'sgd', 'momentum': 0.9, 'nesterov': True}),
    ('adam_lr0.01', {'name': 'adam', 'adam_eps': 1e-7}),
  ],
)
def test_keras_optimizers(golden, case, fields):
  numbers = golden('optim_other')
  optim = make_optim(weight_decay=0.0, **fields)
  for i, (params, _) in enumerate(run_golden(numbers, optim, constant(0.01))):
    for name, value in unnest(params).items():
      np.testing.assert_allclose(
        value,
        numbers[f'{case}_var_{name}'][i],
        rtol=0,
        atol=1e-6,
        err_msg=f'{name} after step {i}',
      )


def decay_loss(numbers, optim, *, role=None):
  """wd/2 |w|^2 over the parameters that decay."""
  groups = optimizer_lib.describe_parameters(start(numbers), optim)
  names = {place: name for name, place in PLACES.items()}
  decaying = [
    names[place]
    for group in groups
    if group.decays and role in (None, group.role)
    for place in group.names
  ]
  square_sum = sum(np.sum(numbers[f'init_{n}'] ** 2.0) for n in decaying)
  return optim.weight_decay / 2 * square_sum


def test_the_decay_that_the_official_code_puts_into_the_loss(golden):
  numbers = golden('lars')
  # LARS decays by itself, all but the classifier's kernel.
  optim = make_optim(weight_decay=1e-4)
  np.testing.assert_allclose(
    decay_loss(numbers, optim, role='online_head'),
    numbers['add_weight_decay_lars_wd0.0001'],
    rtol=1e-6,
  )
  # Under the others everything but batch norm decays, biases too.
  for name, official in (('sgd', 'momentum'), ('adam', 'adam')):
    optim = make_optim(
      name=name, weight_decay=1e-4, decay_exclude=('batch_norm',)
    )
    np.testing.assert_allclose(
      decay_loss(numbers, optim),
      numbers[f'add_weight_decay_{official}_wd0.0001'],
      rtol=1e-6,
    )


def test_default_lars_decays_the_classifier_kernel_as_an_l2_loss(golden):
  numbers = golden('lars')
  decay = 0.1
  inside = make_optim(weight_decay=decay)
  bare = make_optim(weight_decay=decay, decay_exclude=BARE)
  params, grad = start(numbers), golden_grads(numbers)[0]
  with_l2 = jax.tree.map(np.copy, grad)
  with_l2['online_head']['kernel'] += decay * params['online_head']['kernel']
  rows = []
  for optim, gradient in ((inside, grad), (bare, with_l2)):
    transform = optimizer_lib.make_optimizer(optim, constant(0.3))
    ((after, _),) = run_steps(transform, params, [gradient])
    rows.append(unnest(after))
  for name in PLACES:
    np.testing.assert_allclose(rows[0][name], rows[1][name], rtol=1e-6)
  # It does not adapt, and its bias takes the bare gradient.
  for leaf in ('kernel', 'bias'):
    expected = params['online_head'][leaf] - 0.3 * with_l2['online_head'][leaf]
    np.testing.assert_allclose(rows[0][f'sup_{leaf}'], expected, rtol=1e-6)


def small_params():
  rng = np.random.default_rng(0)
  return nest(
    {
      name: rng.normal(size=(3, 2)[: 1 + name.endswith('kernel')]).astype(
        np.float32
      )
      for name in PLACES
    }
  )


def oracle_steps(name, params, grads, *, rate, decay, decayed, settings):
  """Float64 NumPy of SGD and Adam(W) as Keras writes them."""
  w = {key: value.astype(np.float64) for key, value in params.items()}
  m = {key: np.zeros_like(value) for key, value in w.items()}
  v = {key: np.zeros_like(value) for key, value in w.items()}
  for t, grad in enumerate(grads, start=1):
    for key in w:
      g = grad[key].astype(np.float64)
      wd = decay if key in decayed else 0.0
      if name != 'adamw':
        g = g + wd * w[key]
      if name == 'sgd':
        m[key] = 0.9 * m[key] - rate * g
        w[key] = w[key] + m[key]
        continue
      m[key] = 0.9 * m[key] + 0.1 * g
      v[key] = 0.999 * v[key] + 0.001 * g * g
      alpha = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
      shrink = rate * wd * w[key] if name == 'adamw' else 0.0
      w[key] -= alpha * m[key] / (np.sqrt(v[key]) + settings['eps']) + shrink
  return w


@pytest.mark.parametrize('gradient_size', [1.0, 1e-7])
@pytest.mark.parametrize('name', ['sgd', 'adam', 'adamw'])
def test_decay_and_epsilon_against_numpy(name, gradient_size):
  params = small_params()
  rng = np.random.default_rng(1)
  grads = [
    jax.tree.map(
      lambda w: (gradient_size * rng.normal(size=w.shape)).astype(np.float32),
      params,
    )
    for _ in range(4)
  ]
  # Coupled decay would drown a tiny gradient; adamw's does not.
  decay = 0.01 if name == 'adamw' or gradient_size == 1.0 else 0.0
  optim = make_optim(
    name=name, weight_decay=decay, decay_exclude=('batch_norm', 'bias')
  )
  transform = optimizer_lib.make_optimizer(optim, constant(0.1))
  *_, (after, _) = run_steps(transform, params, grads)
  expected = oracle_steps(
    name,
    unnest(params),
    [unnest(grad) for grad in grads],
    rate=0.1,
    decay=decay,
    decayed=[key for key in PLACES if key.endswith('kernel')],
    settings={'eps': 1e-7},
  )
  start_values = unnest(params)
  for key, value in unnest(after).items():
    moved = np.abs(expected[key] - start_values[key]).max()
    np.testing.assert_allclose(
      value, expected[key], rtol=0, atol=max(2e-4 * moved, 3e-7), err_msg=key
    )


def test_clipping_comes_before_decay_and_ratio():
  params = small_params()
  grad = jax.tree.map(lambda w: 100 * np.ones_like(w), params)
  norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grad)))
  optim = make_optim(
    name='sgd', momentum=0.0, weight_decay=0.5, clip_grad_norm=2.0
  )
  transform = optimizer_lib.make_optimizer(optim, constant(1.0))
  ((after, _),) = run_steps(transform, params, [grad])
  before, after = unnest(params), unnest(after)
  for key in PLACES:
    decayed = 0.5 * before[key] if key.endswith('kernel') else 0
    expected = before[key] - 100 * 2 / norm - decayed
    np.testing.assert_allclose(after[key], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['lars', 'sgd', 'adam', 'adamw'])
def test_state_is_float32_arrays_that_orbax_keeps(name, tmp_path):
  optim = make_optim(name=name, clip_grad_norm=1.0)
  transform = optimizer_lib.make_optimizer(optim, constant(0.1))
  params = small_params()
  grad = jax.tree.map(np.ones_like, params)
  *_, (_, state) = run_steps(transform, params, [grad] * 3)
  leaves = jax.tree.leaves(state)
  assert leaves
  assert all(isinstance(leaf, jax.Array) for leaf in leaves)
  assert {leaf.dtype.name for leaf in leaves} == {'float32', 'int32'}
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'state', state)
    checkpointer.wait_until_finished()
    fresh = transform.init(jax.tree.map(np.zeros_like, params))
    restored = checkpointer.restore(tmp_path / 'state', fresh)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  for ours, theirs in zip(leaves, jax.tree.leaves(restored), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_roles():
  roles = optimizer_lib.param_roles(small_params())
  assert roles == nest(
    {
      'conv_kernel': 'kernel',
      'bn_gamma': 'batch_norm',
      'bn_beta': 'batch_norm',
      'zero_kernel': 'kernel',
      'zerograd_kernel': 'kernel',
      'dense_kernel': 'kernel',
      'dense_bias': 'bias',
      'sup_kernel': 'online_head',
      'sup_bias': 'online_head',
    }
  )
  # Only a part of a name that starts with bn counts.
  assert optimizer_lib.param_roles({'subnet': {'bias': 0}}) == {
    'subnet': {'bias': 'bias'}
  }


def test_groups_of_the_default_recipe():
  groups = optimizer_lib.describe_parameters(small_params(), make_optim())
  table = [group[:5] for group in groups]
  assert table == [
    ('kernel', True, True, 4, 24),
    ('batch_norm', False, False, 2, 6),
    ('online_head', True, False, 1, 6),
    ('bias', False, False, 1, 3),
    ('online_head', False, False, 1, 3),
  ]
  assert groups[2].names == ('online_head/kernel',)
  lines = optimizer_lib.format_groups(groups)
  assert len(lines) == 5
  assert 'backbone/layer#_#/conv#/kernel' in lines[0]
  assert 'decays' in lines[0] and 'no decay' not in lines[0]


def test_groups_tell_what_the_optimizer_does():
  # Every parameter whose update differs with decay must be said to decay.
  params = small_params()
  grad = jax.tree.map(np.ones_like, params)
  for name in ('lars', 'sgd', 'adam', 'adamw'):
    for exclude in ((), ('batch_norm',), ('bias',), ('online_head',)):
      optim = make_optim(
        name=name, weight_decay=0.1, decay_exclude=exclude, adapt_exclude=BARE
      )
      groups = optimizer_lib.describe_parameters(params, optim)
      said = {n for group in groups if group.decays for n in group.names}
      without = dataclasses.replace(optim, weight_decay=0.0)
      updates = []
      for each in (optim, without):
        transform = optimizer_lib.make_optimizer(each, constant(1.0))
        # Twice the start, as Adam's first step is only the gradient's sign.
        state = transform.init(params)
        _, state = transform.update(grad, state, params)
        moved = jax.tree.map(lambda w: 3 * w, params)
        update, _ = transform.update(grad, state, moved)
        updates.append(unnest(update))
      decayed = {
        PLACES[key]
        for key in PLACES
        if not np.array_equal(updates[0][key], updates[1][key])
      }
      assert decayed == said, (name, exclude)


def test_without_decay_nothing_is_said_to_decay():
  groups = optimizer_lib.describe_parameters(
    small_params(), make_optim(name='sgd', weight_decay=0.0)
  )
  assert not any(group.decays or group.adapts for group in groups)


@pytest.mark.parametrize(
  ('params', 'message'),
  [
    ({'params': {'head': {'kernel': 0}}}, "lies in the collection 'params'"),
    ({'head': {'norm': {'scale': 0}}}, "'head/norm/scale' is a normalisation"),
  ],
)
def test_misleading_parameters_are_an_error(params, message):
  with pytest.raises(ValueError, match=message):
    optimizer_lib.param_roles(params)


def test_unknown_names_are_an_error():
  with pytest.raises(ValueError, match="'lamb': must be one of 'lars'"):
    optimizer_lib.make_optimizer(make_optim(name='lamb'), constant(0.1))
  with pytest.raises(ValueError, match=r"adapt_exclude holds \['bn'\]"):
    optimizer_lib.make_optimizer(
      make_optim(adapt_exclude=('bn',)), constant(0.1)
    )
