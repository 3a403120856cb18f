"""What passports say of where weights come from: true sentences, no others."""

from __future__ import annotations

import pytest

from simclr_jax import objectives
from simclr_jax.training import ancestry


def _passport(objective, *, step=8, **sections):
  return {
    'objective': objective,
    'step': step,
    'config': {'train': {'batch_size': 32}, 'model': {'head': 'mlp'}},
    'derived': {'total_steps': 12},
    'data': {'name': 'pets/train, 160 labels', 'num_examples': 160},
    'preprocessing': {'mean': None},
    **sections,
  }


LABELLED = {'num_fit': 160, 'num_holdout': 40, 'whole': 'pets/train'}
LINK = {
  'kind': 'checkpoint',
  'path': '/home/somebody/mine/checkpoints/3',
  'step': 3,
  'objective': 'simclr',
  'fingerprint': '0123456789abcdef',
}
FINETUNED = _passport(
  'finetune', finetune={'start': LINK, 'labelled': LABELLED, 'config': {}}
)
DISTILLED = _passport(
  'distill',
  distill={
    'teacher': {**LINK, 'objective': 'finetune'},
    'labelled': LABELLED,
    'config': {
      'temperature': 0.5,
      'labelled_weight': 0.25,
      'use_holdout': True,
    },
  },
)
IMPORTED = _passport(
  'imported',
  step=0,
  imported={
    'format': 'torchvision',
    'source': '/home/somebody/weights/resnet50.safetensors',
    'arrays': {'loaded': 265},
    'left_out': {'asked for': 2},
    'notes': ['float16 widened to float32: exact'],
    'description': {},
  },
)
FALSE_OF_OTHERS = ('without labels', 'without their labels', 'saw no class')


def _everything(passport):
  told = ancestry.tell(passport)
  return ' '.join([told.origin, told.saw, *(v for f in told.facts for v in f)])


def test_every_objective_has_words():
  pretraining = {k for k, v in ancestry.KINDS.items() if v.is_pretraining}
  assert pretraining == set(objectives.OBJECTIVES)


def test_pretraining():
  told = ancestry.tell(_passport('simclr'))
  assert told.origin == (
    'Step 8 of 12 of SimCLR pretraining on pets/train, 160 labels (160 '
    'pictures, without their labels), batch 32.'
  )
  assert told.saw == 'Pretraining saw no class.'
  assert told.facts == (('Pretrained', '8 steps of 32 images, without labels'),)
  continued = ancestry.tell(_passport('simclr', lineage=[{'step': 5}]))
  assert 'goes on from step 5 of another' in continued.origin


@pytest.mark.parametrize('passport', [FINETUNED, DISTILLED, IMPORTED])
def test_what_is_no_pretraining_is_not_said_to_be(passport):
  text = _everything(passport)
  assert not [part for part in FALSE_OF_OTHERS if part in text]
  kind = ancestry.kind_of(passport)
  assert 'self-supervised' not in kind.tags and not kind.is_pretraining
  # Sentences are for whoever gets the files; facts are for whoever has them.
  assert 'somebody' not in ancestry.tell(passport).origin
  assert 'somebody' in text


def test_finetuning():
  told = ancestry.tell(FINETUNED)
  assert told.origin == (
    'A classifier, trained on 160 labels (40 more held out to choose the step) '
    'of pets/train: step 8 of 12, batch 32. It began with an encoder '
    'pretrained with SimCLR (step 3, fingerprint 0123456789ab).'
  )
  assert 'classes were trained on: 160 labels' in told.saw
  facts = dict(told.facts)
  assert facts['Trained'] == '8 steps of 32 images, with their labels'


def test_from_scratch_is_not_called_fine_tuned():
  section = {'start': {'kind': 'scratch'}, 'labelled': LABELLED}
  passport = _passport('finetune', finetune=section)
  text, kind = _everything(passport), ancestry.kind_of(passport)
  assert 'nothing was pretrained' in text and 'SimCLR' not in text
  assert kind.adjective == 'trained from scratch' and kind.tags == ()
  assert 'ine-tuned' not in text + kind.title


def test_distillation():
  told = ancestry.tell(DISTILLED)
  assert 'predictions of a classifier trained on labels (step 3,' in told.origin
  assert 'temperature 0.5' in told.origin
  assert 'true labels have a share of 0.25 in the loss' in told.origin
  assert "the teacher's holdout chooses the step" in told.saw
  without = {**DISTILLED['distill'], 'config': {'temperature': 1.0}}
  saw = ancestry.tell(_passport('distill', distill=without)).saw
  assert 'no true label is in the loss' in saw and 'holdout' not in saw


def test_import():
  told = ancestry.tell(IMPORTED)
  assert told.origin == (
    'Imported from resnet50.safetensors (format torchvision), not trained '
    'here. 265 arrays loaded, 2 left out (asked for). The file does not say '
    'how long it was trained.'
  )
  assert told.saw == 'Whether its training saw classes is not known here.'
  assert dict(told.facts)['Input'] == 'values in [0, 1], no mean and no std'
  assert dict(told.facts)['Notes'].startswith('float16')
  later = {**IMPORTED, 'step': 7, 'preprocessing': {'mean': [1], 'std': [2]}}
  assert 'By the file it is of step 7' in ancestry.tell(later).origin
  assert dict(ancestry.tell(later).facts)['Input'] == 'mean [1], std [2]'


def test_an_import_of_our_own_export_knows_what_was_before():
  section = {**IMPORTED['imported'], 'description': FINETUNED}
  told = ancestry.tell({**IMPORTED, 'imported': section})
  assert ancestry.tell(FINETUNED).origin in told.origin
  assert told.saw == ancestry.tell(FINETUNED).saw
  assert 'does not say' not in told.origin


def test_what_is_not_known_is_neutral():
  told = ancestry.tell(_passport('byol'))
  assert "objective 'byol'" in told.origin and 'not known' in told.saw
  assert ancestry.kind_of(_passport('byol')).tags == ()
  assert not [
    part for part in FALSE_OF_OTHERS if part in _everything(_passport('byol'))
  ]
