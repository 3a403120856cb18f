"""What benchmarks make of their measurements: rows, failures, tables."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import step_table
from simclr_jax import durations
from simclr_jax.cards import curve as curve_lib


def _row(framework: str, **values: Any) -> dict[str, Any]:
  row = {'network': 'resnet18_32', 'dtype': 'float32', 'batch': 4}
  return {**row, 'framework': framework, **values}


@pytest.mark.parametrize('return_code', [-9, 0, 1])
def test_child_that_dies_in_silence_is_a_row(return_code: int):
  row = step_table.child_row(return_code, stdout='', stderr='')
  assert f'return code {return_code}: no' in row['error']
  assert not step_table.is_out_of_memory(row)
  table = step_table.make_table([_row('ours', **row), _row('torch', error='')])
  assert f'return code {return_code}: no' in table.splitlines()[1]
  assert 'failed' in table.splitlines()[2]


def test_error_ends_in_return_code_and_last_line():
  text = 'x' * 5000 + '\nValueError: odd\n\n'
  error = step_table.child_row(3, stdout='', stderr=text)['error']
  assert error.splitlines()[-1] == 'return code 3: ValueError: odd'
  assert len(error) < 2100


@pytest.mark.parametrize(
  'message', ['RESOURCE_EXHAUSTED: hm', 'CUDA out of memory. Tried']
)
def test_out_of_memory_by_its_message(message: str):
  row = step_table.child_row(1, stdout='', stderr=f'{message}\nmore\n')
  assert row == {'error': 'out of memory (return code 1)'}
  assert step_table.is_out_of_memory(row)


def test_child_row_is_its_last_line():
  row = step_table.child_row(0, stdout='hello\n{"seconds": 2}\n', stderr='w')
  assert row == {'seconds': 2}
  assert not step_table.is_out_of_memory(row)


def test_networks_that_differ_keep_their_rows_without_a_ratio():
  rows = [
    _row('simclr_jax', seconds=2.0, parameters=10),
    _row('torch', seconds=3.0, parameters=10),
  ]
  assert step_table.check_parameters(rows) == rows
  assert '1.50x' in step_table.make_table(rows)
  rows[1]['parameters'] = 11
  checked = step_table.check_parameters(rows)
  assert checked[:2] == rows
  assert "'torch': 11" in checked[2]['error']
  table = step_table.make_table(checked)
  assert '1.50x' not in table
  assert 'the networks differ' in table


def test_a_row_without_its_peer_is_no_difference():
  rows = [_row('simclr_jax', parameters=10), _row('torch', error='none')]
  assert step_table.check_parameters(rows) == rows


@pytest.mark.parametrize(
  ('duration', 'num_examples', 'last'),
  [
    ('100 epochs', 50_000, 100),
    ('100 epochs', 51_200, 100),
    ('0.5 epochs', 50_000, 1),
    ('250 steps', 51_200, 3),
    ('300 steps', 51_200, 3),
    ('1 steps', 51_200, 1),
  ],
)
def test_curve_ends_in_the_last_epoch(
  duration: str, num_examples: int, last: int
):
  size = {'num_examples': num_examples, 'batch_size': 512}
  total = durations.total_steps(duration, **size)
  curve = curve_lib.make_curve(
    [{'step': step, 'loss': step} for step in range(1, total + 1)],
    steps_per_epoch=num_examples / 512,
    total_steps=total,
  )
  assert [point['epoch'] for point in curve] == list(range(1, last + 1))
  assert curve[-1]['loss'] == total
  if last > 1:
    assert curve[0]['loss'] == num_examples // 512


def test_curve_table_prints_evaluations_and_the_last_epoch():
  curve: list[dict[str, Any]] = [
    {'epoch': e, 'contrast_loss': 1.0, 'contrast_acc': 0.5}
    for e in range(1, 101)
  ]
  for epoch in (10, 20, 33):
    curve[epoch - 1]['knn_top1'] = 0.25
  del curve[32]['contrast_loss']
  lines = curve_lib.make_table(curve).splitlines()[1:]
  shown = [int(line.split()[0]) for line in lines]
  assert {10, 20, 33, 100} <= set(shown)
  assert 12 <= len(shown) <= 18
  assert next(x for x in lines if x.split()[0] == '33').split()[1:] == [
    '-',
    '50.0%',
    '25.0%',
  ]
