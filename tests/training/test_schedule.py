import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax import resolve as resolve_lib
from simclr_jax.training import schedule as schedule_lib


def make_config(*, batch_size, duration, **optim):
  return config_lib.Config(
    optim=config_lib.OptimConfig(**optim),
    train=config_lib.TrainConfig(batch_size=batch_size, duration=duration),
  )


def resolve(config, num_examples):
  return resolve_lib.resolve(
    config, num_examples=num_examples, num_classes=0, num_devices=1
  )


def make_schedule(
  schedule='cosine', *, total, warmup, peak=1.0, milestones=(0.6, 0.8)
):
  config = make_config(
    batch_size=256,
    duration=f'{total} steps',
    warmup=f'{warmup} steps',
    schedule=schedule,
    step_milestones=milestones,
    base_lr=peak,
  )
  resolved = resolve(config, 10**6)
  return schedule_lib.make_schedule(config.optim, resolved), resolved


@pytest.mark.parametrize(
  'case',
  [
    'a_in_b4096_e100_linear0.3',
    'b_in_b4096_e100_sqrt0.075',
    'b2_in_b1024_e100_sqrt0.075',
    'c_cifar_b512_e200_linear1.0',
    'c2_cifar_b512_e200_linear0.3',
    'd_cifar_b256_e100_nowarmup',
    'e_steps500_b128_w2.5',
    'f_cifar_b512_e1000_w0.5',
  ],
)
def test_official_rate_at_every_step(golden, case):
  numbers = golden('schedule')
  base_lr, num, batch, epochs, warmup_epochs, total, warmup, _ = numbers[
    f'{case}_meta'
  ].tolist()
  config = make_config(
    batch_size=int(batch),
    duration='500 steps' if 'steps500' in case else f'{epochs:g} epochs',
    warmup=f'{warmup_epochs:g} epochs',
    base_lr=base_lr,
    lr_scaling='sqrt' if 'sqrt' in case else 'linear',
  )
  resolved = resolve(config, int(num))
  assert (resolved.total_steps, resolved.warmup_steps) == (total, warmup)
  expected = numbers[f'{case}_lr']
  np.testing.assert_allclose(resolved.peak_lr, expected.max(), rtol=1e-6)
  schedule = schedule_lib.make_schedule(config.optim, resolved)
  actual = jax.jit(schedule)(jnp.arange(len(expected)))
  assert actual.dtype == jnp.float32
  assert actual[0] == (0 if warmup else expected[0])
  np.testing.assert_allclose(
    actual, expected, rtol=0, atol=1e-6 * resolved.peak_lr
  )


@pytest.mark.parametrize('total', [312_785, 5_004_559])
def test_long_runs_keep_their_precision(total):
  # 1000 epochs of ImageNet with batches of 4096 and 256, in float32.
  warmup = total // 100
  schedule, _ = make_schedule(total=total, warmup=warmup, peak=4.8)
  last = np.arange(total - 5000, total + 2)
  steps = np.unique(np.concatenate([np.arange(0, total, 997), last]))
  progress = np.clip((steps - warmup) / (total - warmup), 0, 1)
  expected = np.where(
    steps < warmup, steps / warmup, (1 + np.cos(np.pi * progress)) / 2
  )
  actual = jax.jit(schedule)(jnp.asarray(steps, jnp.int32))
  np.testing.assert_allclose(actual, 4.8 * expected, rtol=0, atol=4.8e-6)
  np.testing.assert_allclose(actual[-2:], 0, atol=1e-12)


def test_ends_of_each_part():
  schedule, resolved = make_schedule(total=100, warmup=10, peak=2.0)
  assert resolved.peak_lr == 2.0
  assert schedule(0) == 0
  np.testing.assert_allclose(schedule(5), 1.0, rtol=1e-6)
  np.testing.assert_allclose(schedule(10), 2.0, rtol=1e-6)
  np.testing.assert_allclose(schedule(55), 1.0, rtol=1e-6)
  np.testing.assert_allclose(schedule(100), 0.0, atol=1e-7)
  np.testing.assert_allclose(schedule(105), 0.0, atol=1e-7)


def test_constant():
  schedule, _ = make_schedule('constant', total=100, warmup=10)
  steps = jnp.array([0, 5, 10, 99, 500])
  np.testing.assert_allclose(schedule(steps), [0, 0.5, 1, 1, 1], rtol=1e-6)
  schedule, _ = make_schedule('constant', total=100, warmup=0)
  np.testing.assert_allclose(schedule(0), 1.0)


@pytest.mark.parametrize('warmup', [0, 10])
def test_milestones_are_shares_of_the_whole_run(warmup):
  schedule, _ = make_schedule('step', total=100, warmup=warmup)
  rates = [float(schedule(step)) for step in (59, 60, 79, 80, 100)]
  np.testing.assert_allclose(rates, [1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
  if warmup:
    np.testing.assert_allclose(schedule(5), 0.5, rtol=1e-6)


def test_milestone_within_the_warmup_is_an_error():
  with pytest.raises(ValueError, match='0.05, which is step 5 of 100'):
    make_schedule('step', total=100, warmup=10, milestones=(0.05, 0.5))


def test_milestones_on_one_step_are_an_error():
  with pytest.raises(ValueError, match='two of them are the same step'):
    make_schedule('step', total=10, warmup=0, milestones=(0.5, 0.51))


def test_unknown_schedule_is_an_error():
  _, resolved = make_schedule(total=10, warmup=0)
  optim = dataclasses.replace(config_lib.OptimConfig(), schedule='linear')
  with pytest.raises(ValueError, match="'linear': must be one of 'cosine'"):
    schedule_lib.make_schedule(optim, resolved)


def test_scaling_of_the_peak():
  assert resolve_lib.scale_lr(0.3, 4096, 'linear') == pytest.approx(4.8)
  assert resolve_lib.scale_lr(0.075, 4096, 'sqrt') == pytest.approx(4.8)
  assert resolve_lib.scale_lr(0.3, 4096, 'none') == 0.3
  assert math.isclose(resolve_lib.scale_lr(1.0, 512, 'linear'), 2.0)
