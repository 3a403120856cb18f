from __future__ import annotations

import dataclasses
import json
import os
import subprocess

import jax
import pytest

import simclr_jax
from simclr_jax import config as config_lib
from simclr_jax import resolve
from simclr_jax.data.source import Example, Source
from simclr_jax.finetuning import config as finetune_lib
from simclr_jax.finetuning import derive
from simclr_jax.training import passport


def make_source(**changes) -> Source:
  fields = {
    'name': 'digits/train',
    'num_examples': 1000,
    'num_classes': 2,
    'encoded': False,
    'read': lambda i: Example(b'', 0),
    'example_id': str,
    'fingerprint': 'abc',
    'class_names': ('zero', 'one'),
    'skipped': (('bad.jpg', 'truncated'),),
    **changes,
  }
  return Source(**fields)


def make_config(**sections) -> config_lib.Config:
  base = config_lib.replace(
    config_lib.Config(),
    data={'source': 'digits', 'image_size': 32},
    train={'batch_size': 64, 'duration': '20 epochs'},
    augment={'crop_area': (0.2, 1.0)},
  )
  return config_lib.replace(base, **sections)


def make_passport(config=None, source=None, **metrics):
  config = config or make_config()
  return passport.make_passport(
    config,
    resolve.resolve(config, num_examples=1000, num_classes=2, num_devices=8),
    source=source or make_source(),
    step=40,
    metrics=metrics,
    objective='simclr',
  )


def through_json(value):
  return json.loads(json.dumps(value, allow_nan=False))


def test_config_survives_json():
  config = make_config()
  stored = through_json(make_passport(config))
  assert passport.config_from_passport(stored) == resolve.settle(config)


def test_what_a_passport_says():
  stored = make_passport(loss=0.5, worst=float('nan'))
  assert through_json(stored) == stored  # what is saved is what was made
  assert stored['step'] == 40
  assert stored['objective'] == 'simclr'
  assert stored['metrics'] == {'loss': 0.5, 'worst': 'NaN'}
  # The official rule, 1000 * 20 // 64 + 1.
  assert stored['derived']['total_steps'] == 313
  assert stored['data'] == {
    'name': 'digits/train',
    'fingerprint': 'abc',
    'num_examples': 1000,
    'num_classes': 2,
    'class_names': ['zero', 'one'],
    'num_skipped': 1,
  }
  assert stored['preprocessing']['input_range'] == [0.0, 1.0]
  assert stored['preprocessing']['crop_fraction'] is None  # 32 px
  assert stored['preprocessing']['antialias'] is False
  software = stored['software']
  assert software['packages']['jax'] == jax.__version__
  assert software['num_devices'] == jax.device_count()
  assert software['packages']['simclr_jax'] == simclr_jax.__version__
  assert software['xla_flags'] == os.environ['XLA_FLAGS']
  large = make_passport(make_config(data={'image_size': 64}))
  assert large['preprocessing']['crop_fraction'] == 0.875


def test_git_revision(tmp_path):
  assert passport.git_revision(tmp_path) is None
  assert passport.git_revision(tmp_path / 'missing') is None

  def git(*args):
    done = subprocess.run(
      ('git', '-C', tmp_path, '-c', 'user.name=a', '-c', 'user.email=a', *args),
      capture_output=True,
      text=True,
      check=True,
    )
    return done.stdout.strip()

  git('init', '-q')
  (tmp_path / 'package').mkdir()
  (tmp_path / 'package' / 'a.py').write_text('1\n')
  # In somebody's repository, but no part of it.
  (tmp_path / 'other.txt').write_text('1\n')
  git('add', 'other.txt')
  git('commit', '-q', '-m', 'other')
  assert passport.git_revision(tmp_path / 'package') is None

  git('add', 'package')
  git('commit', '-q', '-m', 'package')
  head = git('rev-parse', 'HEAD')
  assert passport.git_revision(tmp_path / 'package') == head
  (tmp_path / 'package' / 'a.py').write_text('2\n')
  assert passport.git_revision(tmp_path / 'package') == f'{head}-dirty'


def test_git_that_is_not_installed(monkeypatch, tmp_path):
  monkeypatch.setenv('PATH', str(tmp_path))
  assert passport.git_revision(tmp_path) is None


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'schema_version': 2}, 'schema version 2.*reads 1 to 1.*newer'),
    ({'schema_version': '1'}, "schema version '1'"),
    ({'data': None}, 'lacks data'),
    ({'config': {'seeed': 1}}, "ckpt/90: .*did you mean 'seed'"),
  ],
)
def test_unreadable_passports(changes, message):
  stored = {**make_passport(), **changes}
  stored = {name: value for name, value in stored.items() if value is not None}
  with pytest.raises(ValueError, match=f'(?s){message}'):
    passport.config_from_passport(stored, where='ckpt/90')


def test_no_passport_at_all():
  with pytest.raises(ValueError, match='a passport is a JSON object'):
    passport.validate(['x'], where='here')


def test_differences_name_field_and_values():
  old = make_config()
  new = make_config(seed=3, optim={'base_lr': 0.5}, probe={'epochs': 7})
  assert passport.differences(old, old) == []
  assert sorted(passport.differences(old, new)) == [
    'optim.base_lr: 0.3 -> 0.5',
    'probe.epochs: 100 -> 7',
    'seed: 0 -> 3',
  ]


def test_every_harmless_name_is_a_field_or_section():
  fields = passport._flatten(config_lib.Config())
  sections = {name.split('.')[0] for name in fields if '.' in name}
  for name, reason in passport.HARMLESS.items():
    assert name in fields or name in sections, name
    assert reason


@pytest.mark.parametrize(
  'sections',
  [
    {'train': {'log_every': '7 steps', 'profile_start': 3}},
    {'checkpoint': {'every': '3 steps', 'keep_latest': 5}},
    {'data': {'num_workers': 3, 'prefetch_batches': 9, 'data_dir': '/moved'}},
    {'probe': {'epochs': 7}, 'knn': {'ks': (1,)}},
  ],
)
def test_harmless_changes_resume(sections):
  found = passport.check_same_run(
    through_json(make_passport()), make_config(**sections), make_source()
  )
  assert len(found) == sum(len(fields) for fields in sections.values())


@pytest.mark.parametrize(
  'sections',
  [
    {'seed': 1},
    {'train': {'batch_size': 128}},
    {'train': {'duration': '21 epochs'}},
    {'train': {'matmul_precision': 'highest'}},
    {'augment': {'flip_prob': 0.1}},
    {'model': {'depth': 18}},
    {'monitor': {'online_head': False}},
    {'data': {'image_size': 48}},
  ],
)
def test_another_run_is_refused(sections):
  (name, value), *_ = sections.items()
  field = f'{name}.{next(iter(value))}' if isinstance(value, dict) else name
  config = make_config(checkpoint={'every': '3 steps'}, **sections)
  with pytest.raises(ValueError, match='step 40 of another run') as caught:
    passport.check_same_run(
      through_json(make_passport()), config, make_source()
    )
  assert f'  - {field}: ' in str(caught.value)
  assert 'in a new workdir' in str(caught.value)
  is_longer = field == 'train.duration'
  assert ('a longer run is another run' in str(caught.value)) == is_longer
  assert 'checkpoint.every' not in str(caught.value)


def test_other_data_is_refused():
  other = dataclasses.replace(make_source(), fingerprint='xyz')
  with pytest.raises(ValueError, match='(?s)training data.*abc.*xyz'):
    passport.check_same_run(make_passport(), make_config(), other)


@pytest.mark.parametrize(
  'size, other, stem', [(32, 48, 'cifar'), (48, 32, 'imagenet')]
)
def test_what_auto_decides_belongs_to_the_weights(size, other, stem):
  config = make_config(data={'source': 'digits', 'image_size': size})
  assert config.model.stem == 'auto'
  held = passport.config_from_passport(make_passport(config))
  assert held.model.stem == stem
  # The same command resumes, though its config says 'auto'.
  assert passport.differences(held, config) == []
  stage = finetune_lib.read_finetune({'data': {'image_size': other}})
  student = finetune_lib.read_distill({'data': {'image_size': other}})
  assert derive.finetune_config(held, stage).model.stem == stem
  assert derive.distill_config(held, student).model.stem == stem
