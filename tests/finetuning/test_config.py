"""What a config of fine-tuning or distillation may not say; what follows."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import runpy

import pytest

from simclr_jax import config as config_lib
from simclr_jax.finetuning import config as finetune_lib
from simclr_jax.finetuning import derive
from simclr_jax.finetuning.config import (
  AugmentChanges,
  DataChanges,
  DistillConfig,
  FinetuneConfig,
  LabelsConfig,
  StudentConfig,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
FINETUNE = [
  ('seed', -1),
  ('head_layer', 5),
  ('classifier_init', 'ones'),
  ('label_smoothing', 1.0),
  ('evaluate_every', 'often'),
  ('checkpoint_every', '0 steps'),
  ('patience', -1),
  ('keep_latest', 0),
  ('num_bootstrap', 0),
  ('data.source', 'imagenet'),
  ('data.loader', 'torch'),
  ('data.augment_on', 'moon'),
  ('data.labels_from', 'names'),
  ('data.image_size', 2),
  ('data.num_workers', -2),
  ('labels.fraction', 0.0),
  ('labels.fraction', 1.5),
  ('labels.per_class', -1),
  ('labels.seed', -1),
  ('labels.holdout_fraction', 0.95),
  ('augment.crop_area', (0.5, 0.2)),
  ('augment.flip_prob', 2.0),
  ('augment.randaugment_layers', 17),
  ('augment.randaugment_magnitude', 31),
  ('augment.mixup_alpha', -1.0),
  ('augment.cutmix_alpha', float('nan')),
  ('augment.mix_prob', 1.1),
  ('optim.base_lr', 0.0),
  ('train.batch_size', 1),
  ('train.diagnostics_every', '5 steps'),
]
DISTILL = [
  ('temperature', 0.0),
  ('labelled_weight', 1.0),
  ('student.depth', 19),
  ('student.width', -2.0),
  ('student.sk_ratio', 2.0),
  ('student.se_ratio', -0.5),
  ('augment.mixup_alpha', 0.2),
  ('augment.cutmix_alpha', 1.0),
]


def problems(read, values):
  with pytest.raises(ValueError) as error:
    read(values)
  first, *lines = str(error.value).split('\n')
  assert first.startswith(f'{len(lines)} problem')
  return lines


def nested(path, value):
  section, _, field = path.rpartition('.')
  return {section: {field: value}} if section else {field: value}


@pytest.mark.parametrize(
  'read,path,value',
  [(finetune_lib.read_finetune, *row) for row in FINETUNE]
  + [(finetune_lib.read_distill, *row) for row in DISTILL],
)
def test_impossible_value(read, path, value):
  (line,) = problems(read, nested(path, value))
  assert line.startswith(f'  - config.{path} = {value!r}: ')


def test_combinations_and_all_problems_at_once():
  read = finetune_lib.read_finetune
  (line,) = problems(read, {'patience': 3})
  assert 'config.patience = 3: needs labels.holdout_fraction' in line
  (line,) = problems(read, {'labels': {'per_class': 3, 'fraction': 0.1}})
  assert 'config.labels.per_class = 3' in line
  (line,) = problems(finetune_lib.read_distill, {'patience': 3})
  assert 'needs use_holdout' in line
  lines = problems(
    read,
    {
      'labels': {'fractoin': 0.1, 'seed': 'x'},
      'optim': {'base_lr': -1.0},
      'head_layer': 9,
    },
  )
  assert len(lines) == 4
  assert any("did you mean 'fraction'" in line for line in lines)


@pytest.mark.parametrize(
  'config,read',
  [
    (FinetuneConfig(seed=3), finetune_lib.read_finetune),
    (DistillConfig(temperature=0.1), finetune_lib.read_distill),
  ],
)
def test_round_trip(config, read):
  assert read(config_lib.to_config_dict(config)) == config
  text = json.dumps(config_lib.to_dict(config))
  assert read(json.loads(text)) == config


def test_a_section_in_part_keeps_the_recipes_other_fields():
  read = finetune_lib.read_finetune({'optim': {'momentum': 0.5}})
  assert read.optim == dataclasses.replace(FinetuneConfig().optim, momentum=0.5)


BASE = config_lib.replace(
  config_lib.Config(),
  data={'name': 'cifar10', 'image_size': 32, 'label_key': 'coarse'},
  augment={'crop_area': (0.3, 1.0), 'flip_prob': 0.0, 'blur_prob': 0.0},
  model={'depth': 18, 'compute_dtype': 'bfloat16'},
  eval={'crop_fraction': 0.7},
  train={'batch_size': 4096},
)


def test_what_a_passport_says_stays():
  derived = derive.finetune_config(BASE, FinetuneConfig(head_layer=1))
  assert derived.data == BASE.data and derived.eval == BASE.eval
  assert derived.model == dataclasses.replace(BASE.model, classifier_layer=1)
  augment = derived.augment
  assert (augment.crop_area, augment.flip_prob) == ((0.3, 1.0), 0.0)
  assert not any((augment.jitter_prob, augment.gray_prob, augment.blur_prob))
  assert derived.train.batch_size == 1024
  assert derived.checkpoint.keep_best == 0 and not derive.holds_out(derived)


def test_what_a_config_says_goes_first():
  derived = derive.finetune_config(
    BASE,
    FinetuneConfig(
      data=DataChanges(data_dir='/d', train_split='train[:10%]', num_workers=0),
      labels=LabelsConfig(holdout_fraction=0.1),
      augment=AugmentChanges(flip_prob=0.5, randaugment_layers=2),
      evaluate_every='7 steps',
    ),
  )
  assert derived.data == dataclasses.replace(
    BASE.data, data_dir='/d', train_split='train[:10%]'
  )
  assert derived.augment.flip_prob == 0.5
  assert derived.augment.randaugment_layers == 2
  assert derive.holds_out(derived)
  assert derived.checkpoint.every == '7 steps'
  assert derived.checkpoint.keep_best == 1


def test_another_source_takes_nothing_of_the_old_one():
  derived = derive.finetune_config(
    BASE, FinetuneConfig(data=DataChanges(source='folder', path='/pictures'))
  )
  assert derived.data == dataclasses.replace(
    BASE.data, source='folder', path='/pictures', name='', label_key='label'
  )
  with pytest.raises(ValueError, match='config.data.path'):
    derive.finetune_config(
      BASE, FinetuneConfig(data=DataChanges(source='folder'))
    )


def test_the_head_must_have_the_layer():
  with pytest.raises(ValueError, match=r'config\.head_layer = 4: .* 3 layers'):
    derive.finetune_config(BASE, FinetuneConfig(head_layer=4))
  imported = config_lib.replace(BASE, model={'head': 'none'})
  with pytest.raises(ValueError, match=r'config\.head_layer = 1: .* none'):
    derive.finetune_config(imported, FinetuneConfig(head_layer=1))
  derive.finetune_config(imported, FinetuneConfig(head_layer=0))


def test_a_canvas_stays_on_the_device_alone():
  device = config_lib.replace(
    BASE, data={'augment_on': 'device', 'canvas_size': 64}
  )
  assert derive.finetune_config(device, FinetuneConfig()).data == device.data
  host = FinetuneConfig(
    data=DataChanges(augment_on='host'),
    augment=AugmentChanges(randaugment_layers=2),
  )
  assert derive.finetune_config(device, host).data.canvas_size == 0


@pytest.mark.parametrize(
  'read', [finetune_lib.read_finetune, finetune_lib.read_distill]
)
def test_plain_accumulation_is_refused_for_its_own_reason(read):
  (line,) = problems(read, {'train': {'accumulation': 'plain'}})
  assert "config.train.accumulation = 'plain': " in line
  assert 'labels' in line and 'simclr' not in line


def test_the_documented_teacher_has_the_holdout_that_its_student_wants():
  made, students = {}, 0
  text = (ROOT / 'docs/guides/few_labels.md').read_text()
  for block in re.findall(r'```\n(.*?)```', text, re.S):
    for line in block.replace('\\\n', ' ').splitlines():
      for name in ('finetune', 'distill'):
        if f'simclr_jax.{name} ' not in line:
          continue
        path = re.search(r'--config=(\S+?)\.py(?::(\w+))?', line)
        presets = runpy.run_path(str(ROOT / f'{path[1]}.py'))['PRESETS']
        config = presets[path[2] or next(iter(presets))]
        begin = re.search(r'--checkpoint=(\S+)', line)[1]
        made[re.search(r'--workdir=(\S+)', line)[1]] = config
        if name == 'distill':
          students += 1
          assert config.use_holdout
          assert made[begin].labels.holdout_fraction > 0
  assert students == 1


def test_the_students_network():
  sk = config_lib.replace(BASE, model={'sk_ratio': 0.0625, 'depth': 50})
  same = derive.distill_config(sk, DistillConfig()).model
  assert same == dataclasses.replace(sk.model, head='none')
  small = StudentConfig(depth=18, width=0.5, sk_ratio=0.0)
  model = derive.distill_config(sk, DistillConfig(student=small)).model
  assert (model.depth, model.width, model.sk_ratio) == (18, 0.5, 0.0)
