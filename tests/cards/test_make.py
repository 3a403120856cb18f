from __future__ import annotations

import json
import pathlib

import pytest

from simclr_jax.cards import check, expectation, make

RECORDED = pathlib.Path(__file__).parents[2] / 'docs/results/cifar10_cpu'


def _copy(folder, *, seed=0, step=2344, temperature=0.5):
  """The recorded run, with another seed and so on."""
  values = json.loads((RECORDED / 'result.json').read_text())
  values['config']['seed'] = seed
  values['config']['loss']['temperature'] = temperature
  values['step'] = step
  folder.mkdir()
  (folder / 'result.json').write_text(json.dumps(values))
  lines = (RECORDED / 'metrics.jsonl').read_text()
  (folder / 'metrics.jsonl').write_text(lines)
  return folder


def _make(*folders):
  return make.make_card(folders, name='n', command='c', hardware='h')


def test_a_recorded_result_is_a_run():
  passport, run = make.read_run(RECORDED)
  assert passport['derived']['total_steps'] == 2344 and run.seed == 0
  assert [point['epoch'] for point in run.curve] == [1, 2, 3, 4, 5, 6]
  knn = [round(point['knn_top1'], 3) for point in run.curve]
  # The last evaluation of the last epoch is that of the last step.
  assert knn == [0.352, 0.385, 0.397, 0.402, 0.403, 0.408]
  assert run.final == {'knn_top1': 0.4436, 'linear_top1': 0.4726}
  losses = [
    record['contrast_loss']
    for line in (RECORDED / 'metrics.jsonl').read_text().splitlines()
    if 'contrast_loss' in (record := json.loads(line)) and record['step'] <= 390
  ]
  assert run.curve[0]['contrast_loss'] == pytest.approx(
    sum(losses) / len(losses)
  )


def test_a_card_of_two_runs(tmp_path):
  card = _make(RECORDED, _copy(tmp_path / 'other', seed=1))
  assert [run.seed for run in card.runs] == [0, 1]
  assert card.config.data.data_dir == ''
  assert card.data['name'] == 'cifar10/train'
  expected = expectation.by_epoch(card, 'knn_top1', num_comparisons=18)
  assert sorted(expected) == [1, 2, 3, 4, 5, 6]
  assert set(check.TITLES) == {*expectation.METRICS, *expectation.FINAL}


@pytest.mark.parametrize(
  'changes,match',
  [
    ({'seed': 0}, 'same seed'),
    ({'seed': 1, 'step': 2000}, 'at step 2000 of 2344'),
    ({'seed': 1, 'temperature': 0.1}, 'another recipe: loss.temperature'),
  ],
)
def test_runs_that_do_not_belong_together(tmp_path, changes, match):
  other = _copy(tmp_path / 'other', **changes)
  with pytest.raises(ValueError, match=match):
    _make(RECORDED, other)


def test_one_run_is_no_card():
  with pytest.raises(ValueError, match='two runs'):
    _make(RECORDED)
