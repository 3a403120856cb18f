"""What would make a run fit, by a prediction that is easy to follow."""

from __future__ import annotations

import pytest

from simclr_jax import config as config_lib
from simclr_jax.planning import estimate, options, topology

CONFIG = config_lib.replace(
  config_lib.Config(), data={'name': 'cifar10'}, train={'batch_size': 64}
)
H100 = topology.parse('h100:2')


def make_predict(limit):
  """100 bytes for each image of a device and part; 'norms' saves a half."""

  def predict(config, devices):
    if config.train.batch_size % devices.num_devices:
      raise ValueError('does not divide')
    images = config.train.batch_size // devices.num_devices
    step = 100 * images // config.train.micro_batches
    if config.model.remat != 'none':
      step //= 2
    if config.model.compute_dtype == 'bfloat16':
      step //= 2
    return estimate.Memory(
      step=step, next_batch=0, pixels=0, limit=limit, available=limit
    )

  return predict


def find(limit, config=CONFIG):
  found = options.find(config, H100, predict_fn=make_predict(limit))
  return {o.change: o for o in found}


def test_first_of_each_series_that_is_enough():
  # 3200 bytes are needed.
  found = find(900)
  fits = {change for change, option in found.items() if option.fits}
  assert fits == {
    '--config.model.compute_dtype=bfloat16 --config.model.remat=blocks',
    '--config.train.micro_batches=4',
    '8 chips',
    '--config.train.batch_size=16',
  }
  assert found['--config.model.remat=norms'].needed == 1600
  assert not found['--config.model.remat=norms'].fits
  # Smaller changes of a series are not listed beside the one that is enough.
  assert '--config.train.micro_batches=2' not in found
  assert '--config.train.micro_batches=8' not in found


def test_what_is_set_is_not_offered():
  config = config_lib.replace(
    CONFIG,
    model={'compute_dtype': 'bfloat16', 'remat': 'blocks'},
    loss={'implementation': 'ring'},
    train={'state_sharding': 'fsdp'},
  )
  assert not [c for c in find(500, config) if 'model' in c or 'loss' in c]
  assert not [c for c in find(500, config) if 'sharding' in c]


def test_what_cannot_run_is_not_offered():
  config = config_lib.replace(CONFIG, train={'batch_size': 6})
  assert '4 chips' not in find(1, config)


def test_nothing_is_enough():
  assert not [o for o in find(0.0).values() if o.fits]


@pytest.mark.parametrize('remat', ['none', 'norms'])
def test_remat_goes_upward(remat):
  config = config_lib.replace(CONFIG, model={'remat': remat})
  offered = [
    c for c in find(1600, config) if c.startswith('--config.model.rem')
  ]
  assert (f'--config.model.remat={remat}' in offered) is False
  assert '--config.model.remat=blocks' in offered
