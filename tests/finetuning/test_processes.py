"""The commands that train classifiers as two processes: as with one."""

from __future__ import annotations

import json

import pytest

from simclr_jax import config as config_lib
from tests import small_run
from tests.multi_process import ROOT, Processes, states_differ

STEPS = 6
PRETRAINED = config_lib.replace(
  small_run.CONFIG,
  data={
    'source': 'digits',
    'train_split': 'train',
    'test_split': 'test[:43]',
    'loader': 'opencv',
  },
  augment={'flip_prob': 0.0},
  model={'head_layers': 2, 'head_hidden': 16},
  eval={'batch_size': 24},
)
_COMMON = (
  f'--config.train.duration={STEPS} steps',
  '--config.train.batch_size=64',
  '--config.train.log_every=1 steps',
  f'--config.evaluate_every={STEPS // 2} steps',
  '--config.num_bootstrap=50',
)
# The rate is small: of so few pixels the first steps are chaotic.
LABELS = (
  f'--config={ROOT}/configs/finetune/few_labels.py:early',
  *_COMMON,
  '--config.optim.base_lr=0.005',
  '--labels=20',
  '--seeds=1',
  '--methods=finetune,frozen',
)
STUDENT = (
  f'--config={ROOT}/configs/distill/student.py:cpu',
  *_COMMON,
  '--config.optim.warmup=0 steps',
  '--config.labelled_weight=0.25',
)
TRAINED = 'labels_20_per_class/seed0'


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Folder of what one process and two have made: one/ and two/."""
  folder = tmp_path_factory.mktemp('runs')
  small_run.save_small_run(folder / 'pretrained', config=PRETRAINED)

  def start(name, command, flags, *, count):
    return Processes(
      (*flags, f'--workdir={folder / name / command}'),
      module=f'simclr_jax.{command}',
      count=count,
      devices=4 // count,
      logs=folder / 'logs' / name / command,
      cache=folder / 'compiled' / name,
    )

  for command, begin, flags in (
    ('label_efficiency', 'pretrained', LABELS),
    ('distill', f'one/label_efficiency/{TRAINED}', STUDENT),
  ):
    flags = (*flags, f'--checkpoint={folder / begin}')
    with (
      start('one', command, flags, count=1) as one,
      start('two', command, flags, count=2) as two,
    ):
      one.finish()
      two.finish()
      table = ('fine-tuned', 'student')[command == 'distill']
      assert table in two.log(0)
      assert table not in two.log(1)  # One of them prints.
  return folder


@pytest.mark.parametrize('name', [f'label_efficiency/{TRAINED}', 'distill'])
def test_the_same_network(runs, name):
  # The sums of other devices are in another order.
  assert states_differ(runs / 'one' / name, runs / 'two' / name, STEPS) < 5e-4


@pytest.mark.parametrize('name', ['label_efficiency', 'distill'])
def test_the_same_report(runs, name):
  one, two = (
    json.loads((runs / k / name / f'{name}.json').read_text())
    for k in ('one', 'two')
  )

  def accuracies(found):
    rows = [r for p in found.get('points', [found]) for r in p['rows']]
    return [(row['kind'], row['accuracy']['top1']) for row in rows]

  assert accuracies(one) == accuracies(two)
  assert len(accuracies(one)) == 2
  assert one['num_devices'] == two['num_devices'] == 4
