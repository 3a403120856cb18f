from __future__ import annotations

import math
import re

import pytest

from simclr_jax import config as config_lib
from simclr_jax import resolve


def _config(**sections):
  return config_lib.replace(
    config_lib.Config(data=config_lib.DataConfig(name='d')), **sections
  )


def _resolve(config, **changes):
  arguments = {'num_examples': 50_000, 'num_classes': 10, 'num_devices': 8}
  return resolve.resolve(config, **(arguments | changes))


def test_official_cifar10_numbers():
  config = _config(
    train={
      'batch_size': 512,
      'duration': '1000 epochs',
      'log_every': '10 steps',
      'diagnostics_every': '0 steps',
    },
    optim={'base_lr': 1.0, 'warmup': '10 epochs'},
    checkpoint={'every': '1 epochs'},
    monitor={'knn_every': '50 epochs'},
  )
  resolved = _resolve(config, num_hosts=2)
  assert resolved == resolve.Resolved(
    num_examples=50_000,
    num_classes=10,
    num_devices=8,
    num_hosts=2,
    per_device_batch=64,
    per_host_batch=256,
    micro_batch=512,
    steps_per_epoch=97.65625,
    total_steps=97_657,
    warmup_steps=976,
    peak_lr=2.0,
    log_every_steps=10,
    diagnostics_every_steps=0,
    checkpoint_every_steps=97,
    knn_every_steps=4882,
    negatives_per_anchor=1022,
    loss_implementation='plain',
    loss_chunk_size=0,
    # Three arrays of 128 x 1024 logits; 1024 keys of 128 numbers and 128 rows,
    # both with gradient.
    loss_bytes_per_device=4 * (3 * 128 * 1024 + 2 * (1024 + 128) * 128),
  )


@pytest.mark.parametrize(
  'scaling,base,expected',
  # 4.8 both ways at batch 4096: the two papers' equivalence.
  [('linear', 0.3, 4.8), ('sqrt', 0.075, 4.8), ('none', 0.3, 0.3)],
)
def test_scaling(scaling, base, expected):
  assert math.isclose(resolve.scale_lr(base, 4096, scaling), expected)


@pytest.mark.parametrize('views', [1, 2, 8])
def test_negatives_count_every_view_of_every_other_image(views):
  config = _config(train={'batch_size': 16})
  resolved = _resolve(config, num_views=views)
  others = [(image, view) for image in range(1, 16) for view in range(views)]
  assert resolved.negatives_per_anchor == len(others)


@pytest.mark.parametrize('parts,good', [(1, True), (8, True), (16, False)])
def test_micro_batches_take_as_many_from_every_device(parts, good):
  config = _config(train={'batch_size': 64, 'micro_batches': parts})
  if good:
    assert _resolve(config).micro_batch == 64 // parts
    return
  with pytest.raises(ValueError, match='micro_batches = 16 does not divide'):
    _resolve(config)


def test_lists_every_problem_at_once():
  config = _config(
    train={'batch_size': 30, 'duration': '5 steps'},
    optim={'warmup': '5 steps'},
  )
  with pytest.raises(ValueError) as error:
    _resolve(config, num_examples=20, num_hosts=3)
  text = str(error.value)
  assert '8 devices do not divide over 3 hosts' in text
  assert 'larger than the training split (20 images)' in text
  assert 'the peak learning rate would never be reached' in text


@pytest.mark.parametrize(
  'sections, num_examples',
  [
    ({'train': {'batch_size': 2}}, 100),
    ({'train': {'batch_size': 30}}, 20),
    ({'train': {'batch_size': 64}}, 50),
    ({'train': {'batch_size': 48, 'micro_batches': 4}}, 100),
    ({'train': {'batch_size': 48, 'micro_batches': 4}}, 40),
    ({'optim': {'warmup': '10 epochs'}}, 100),
    ({'train': {'duration': '1 steps'}}, 100),
    (
      {
        'checkpoint': {'keep_best': 1, 'every': '4 steps'},
        'monitor': {'knn_every': '3 steps'},
      },
      100,
    ),
  ],
)
def test_the_flags_that_are_proposed_work(sections, num_examples):
  sections = {
    'train': {'batch_size': 16, 'duration': '4 epochs'},
    'optim': {'warmup': '1 steps'},
  } | sections
  config = _config(**sections)
  with pytest.raises(ValueError) as error:
    _resolve(config, num_examples=num_examples)
  flags = re.findall(
    r"--config\.(\w+)\.(\w+)=(?:'([^']+)'|(\d+))", str(error.value)
  )
  assert flags
  for section, field, text, number in flags:
    config = config_lib.replace(
      config, **{section: {field: text or int(number)}}
    )
  _resolve(config, num_examples=num_examples)


def test_no_warmup_is_fine():
  config = _config(
    train={'duration': '1 steps', 'batch_size': 8},
    optim={'warmup': '0 epochs'},
  )
  resolved = _resolve(config)
  assert (resolved.warmup_steps, resolved.total_steps) == (0, 1)


@pytest.mark.parametrize(
  'knn,checkpoint,possible',
  [
    ('100 steps', '100 steps', True),
    ('300 steps', '100 steps', True),
    ('100 steps', '300 steps', True),
    ('1 epochs', '1 epochs', True),
    ('150 steps', '100 steps', False),
    # 195 and 97 steps: rounding has parted them.
    ('2 epochs', '1 epochs', False),
  ],
)
def test_knn_chooses_the_best_only_where_checkpoints_have_it(
  knn, checkpoint, possible
):
  sections = {
    'train': {'batch_size': 512},
    'monitor': {'knn_every': knn},
    'checkpoint': {'every': checkpoint},
  }
  _resolve(_config(**sections))  # Nothing is chosen by it.
  sections['checkpoint']['keep_best'] = 1
  config = _config(**sections)
  if possible:
    _resolve(config)
  else:
    with pytest.raises(ValueError, match=r'best_metric(.|\n)*same duration'):
      _resolve(config)


def test_the_online_head_chooses_the_best_only_with_labels():
  config = _config(checkpoint={'keep_best': 1, 'best_metric': 'online_top1'})
  _resolve(config)
  with pytest.raises(ValueError, match='online_top1.*needs labels'):
    _resolve(config, num_classes=1)
