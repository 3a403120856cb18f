"""Names of other codebases are answered with ours."""

from __future__ import annotations

import pytest

from simclr_jax import command_help, flag_hints

MAIN = ['config', 'workdir', 'continue_from'] + [
  f'config.{field}' for field in command_help.config_fields()
]
KNN = ['checkpoint', 'data.path', 'eval.batch_size', 'knn.ks', 'out']


@pytest.mark.parametrize(
  'known,name,value,want',
  [
    (MAIN, 'batch_size', '64', '--config.train.batch_size=64'),
    (MAIN, 'num-epochs', '10', "--config.train.duration='10 epochs'"),
    (MAIN, 'epochs', '', '--config.train.duration'),
    (MAIN, 'lr', '0.1', '--config.optim.base_lr=0.1'),
    (MAIN, 'config.optim.learning_rate', '1', '--config.optim.base_lr=1'),
    (MAIN, 'temperature', '', '--config.loss.temperature'),
    (MAIN, 'knn.ks', '5', '--config.knn.ks=5'),
    (MAIN, 'data', '/a b', "--config.data.path='/a b'"),
    (MAIN, 'checkpoint', '/x', '--continue_from=/x'),
    (MAIN, 'crop_aera', '', '--config.augment.crop_area'),
    (KNN, 'k', '5', '--knn.ks=5'),
    (KNN, 'batch_size', '5', '--eval.batch_size=5'),
    (KNN, 'workdir', 'x', '--checkpoint=x'),
    (KNN, 'config.knn.ks', '5', '--knn.ks=5'),
  ],
)
def test_the_flag_that_is_meant(known, name, value, want):
  assert flag_hints.suggest(name, known, value=value)[0] == want


def test_nothing_is_made_up():
  assert flag_hints.suggest('zebra', MAIN) == []
  # Which a command has not.
  assert flag_hints.suggest('lr', KNN) == []


def test_every_usual_name_means_a_field_or_a_flag():
  flags = {'k', 'input', 'source', 'embeddings', 'output', 'ks', 'dtype'} | {
    'labels_from', 'num_workers', 'student.depth', *KNN, *MAIN,
  }  # fmt: skip
  for targets in flag_hints._USUAL.values():
    for target in targets:
      end = target.partition('=')[0]
      assert any(f == end or f.endswith(f'.{end}') for f in flags), target
  assert set(flag_hints._SAME.values()) <= set(flag_hints._USUAL)


def test_an_example_from_the_text_of_the_command():
  doc = 'Trains.\n\n  python -m x --config=configs/a.py --workdir=runs/b\n'
  assert flag_hints.example(doc, ['workdir', 'out']) == (
    '--workdir=runs/b --out=...'
  )
