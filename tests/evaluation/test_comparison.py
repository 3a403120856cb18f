from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.evaluation import comparison
from simclr_jax.evaluation import features as features_lib
from simclr_jax.training import mesh as mesh_lib

CLASSES, TRAIN, TEST = 4, 240, 80


def _features(split: str, *, signal: float, encoder: str):
  """Class means on the axes, `signal` times as far apart as the noise."""
  count = TRAIN if split == 'train' else TEST
  generator = np.random.default_rng([count, int(10 * signal)])
  labels = np.arange(count, dtype=np.int32) % CLASSES
  h = generator.normal(size=(count, 8)).astype(np.float32)
  h[np.arange(count), labels] += signal
  return features_lib.Features(
    h=h,
    z=h,
    labels=labels,
    num_classes=CLASSES,
    name=split,
    source_fingerprint=split,
    encoder_fingerprint=encoder,
  )


def _both(signal: float, encoder: str) -> comparison.EncoderFeatures:
  return comparison.EncoderFeatures(
    train=_features('train', signal=signal, encoder=encoder),
    test=_features('test', signal=signal, encoder=encoder),
  )


@pytest.fixture(scope='module')
def compared():
  config = config_lib.replace(
    config_lib.Config(data=config_lib.DataConfig(name='d')),
    probe={'base_lrs': (0.1, 1.0), 'epochs': 30, 'num_bootstrap': 200},
    knn={'ks': (5,), 'num_bootstrap': 200},
  )
  return comparison.compare(
    {'random_init': _both(0.0, 'a'), 'checkpoint': _both(4.0, 'b')},
    config,
    labels_per_class=3,
    mesh=mesh_lib.make_mesh(),
  )


def test_ranks_signal_above_noise(compared):
  noise, signal = compared.rows
  assert (noise.kind, signal.kind) == ('random_init', 'checkpoint')
  assert (noise.fingerprint, signal.fingerprint) == ('a', 'b')
  for column in ('probe_few', 'probe_all', 'knn'):
    low, high = getattr(noise, column), getattr(signal, column)
    assert low.interval.low <= 0.25 <= low.interval.high + 0.1
    assert high.top1 > 0.9
    assert high.interval.low <= high.top1 <= high.interval.high
    assert high.interval.low > low.interval.high


def test_sizes_and_headings(compared):
  assert (compared.num_train, compared.num_test) == (TRAIN, TEST)
  assert compared.num_classes == CLASSES
  assert compared.majority == 0.25
  assert list(compared.columns()) == [
    'probe, 3 labels per class',
    'probe, all 240 labels',
    'kNN, k = 5',
  ]
  assert not compared.notes


def test_json(compared):
  values = json.loads(json.dumps(compared.to_json()))
  assert values['rows'][1]['kind'] == 'checkpoint'
  assert values['rows'][1]['knn']['top1'] == compared.rows[1].knn.top1
  low, high = values['rows'][1]['knn']['interval']
  assert 0 <= low <= high <= 1


def test_table_lines_up(compared):
  lines = comparison.format_table(compared).splitlines()
  head, rule, *rows, note = lines
  assert len(rows) == 2
  starts = [i for i in range(1, len(rule)) if rule[i - 1 : i + 1] == ' -']
  assert len(starts) == 3
  for start, title in zip(starts, compared.columns(), strict=True):
    assert head[start:].startswith(title)
    assert all(row[start - 1] == ' ' and row[start] != ' ' for row in rows)
  score = compared.rows[1].probe_few
  assert f'{score.top1:.1%} [{score.interval.low:.1%}' in rows[1]
  assert '80 held-out images' in note
  assert '25.0%' in note


def _take(features, rows):
  return dataclasses.replace(
    features,
    h=features.h[rows],
    z=features.z[rows],
    labels=features.labels[rows],
  )


@pytest.mark.parametrize(
  'num_train, ks, missing',
  [
    (CLASSES * 4, (5,), 'few labels'),  # 4 of a class, 5 are wanted
    (TRAIN, (241, 300), 'kNN'),
  ],
)
def test_an_impossible_column_is_left_out_and_says_why(num_train, ks, missing):
  both = _both(4.0, 'a')
  both = dataclasses.replace(both, train=_take(both.train, slice(num_train)))
  config = config_lib.replace(
    config_lib.Config(data=config_lib.DataConfig(name='d')),
    probe={
      'base_lrs': (0.1,),
      'weight_decays': (0.0,),
      'epochs': 5,
      'num_bootstrap': 20,
    },
    knn={'ks': ks, 'num_bootstrap': 20},
  )
  found = comparison.compare(
    {'checkpoint': both},
    config,
    labels_per_class=5,
    mesh=mesh_lib.make_mesh(),
  )
  assert len(found.columns()) == 2
  (note,) = found.notes
  assert note.startswith(f'No column for {missing}: ')
  text = comparison.format_table(found)
  assert note in text
