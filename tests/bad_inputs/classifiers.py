"""What fine-tuning, label efficiency and distillation cannot be asked for."""

from __future__ import annotations

import pathlib

from tests.bad_inputs import checkpoints
from tests.bad_inputs.row import RUN, BuildFn, Row, copy_run

_FINETUNE = 'configs/finetune/few_labels.py:smoke'
_DISTILL = 'configs/distill/student.py:cpu'


def _given(
  *arguments: str, config: str = _FINETUNE, checkpoint: str = ''
) -> BuildFn:
  def build(folder: pathlib.Path) -> list[str]:
    return [
      f'--config={config}',
      f'--checkpoint={checkpoint or folder.parent / RUN}',
      f'--workdir={folder / "workdir"}',
      '--config.data.loader=opencv',
      *arguments,
    ]

  return build


def _own_workdir(folder: pathlib.Path) -> list[str]:
  # The last one counts.
  return [*_given()(folder), f'--workdir={folder.parent / RUN}']


def _damaged(config: str = _FINETUNE) -> BuildFn:
  """From a run whose only checkpoint is damaged."""

  def build(folder: pathlib.Path) -> list[str]:
    run = copy_run(folder)
    checkpoints._flip(checkpoints._step(run))
    return _given(config=config, checkpoint=str(run))(folder)

  return build


ROWS = [
  *(
    Row(f'{command}: a damaged run', command, build, checkpoints._DAMAGED)
    for command, build in (
      ('finetune', _damaged()),
      ('label_efficiency', _damaged()),
      ('distill', _damaged(_DISTILL)),
    )
  ),
  Row(
    'finetune: unknown field',
    'finetune',
    _given('--config.labels.fractoin=0.1'),
    r"has no field 'fractoin'; did you mean 'fraction'",
  ),
  Row(
    'finetune: a field of pretraining',
    'finetune',
    _given('--config.loss.temperature=1'),
    "has no field 'loss'",
  ),
  Row(
    'finetune: a config of pretraining',
    'finetune',
    lambda folder: [
      '--config=configs/smoke.py',
      f'--checkpoint={folder.parent / RUN}',
      f'--workdir={folder / "workdir"}',
    ],
    r'problems in the config:(.|\n)*config.loss is not a field',
  ),
  Row(
    'finetune: impossible value',
    'finetune',
    _given('--config.labels.holdout_fraction=2.0'),
    'config.labels.holdout_fraction = 2.0: must be at least 0 and at most 0.9',
  ),
  Row(
    'finetune: no checkpoint',
    'finetune',
    _given(checkpoint='nowhere'),
    'no checkpoint in .*nowhere',
  ),
  Row(
    'finetune: no step',
    'finetune',
    _given('--step=newest'),
    "--step=newest: a number or 'best'",
  ),
  Row(
    'finetune: unknown method',
    'finetune',
    _given('--methods=finetune,frosen'),
    r"'frosen' is not one of .* \(did you mean 'frozen'",
  ),
  Row(
    'finetune: more labels than there are',
    'finetune',
    _given('--config.labels.per_class=1000'),
    'fewer than 1000 labelled images',
  ),
  Row(
    'finetune: a layer that the head has not',
    'finetune',
    _given('--config.head_layer=3'),
    'config.head_layer = 3: the projection head of the checkpoint has 1 layer',
  ),
  Row(
    'finetune: the test split is the training split',
    'finetune',
    _given('--config.data.source=digits', '--config.data.test_split=train'),
    'config.data.test_split = ',
  ),
  Row(
    'finetune: the workdir of the encoder',
    'finetune',
    _own_workdir,
    'choose a new workdir',
  ),
  Row(
    'label_efficiency: no number of labels',
    'label_efficiency',
    _given('--labels=1,many'),
    "--labels=1,many: 'many' is none of",
  ),
  Row(
    'label_efficiency: no seeds',
    'label_efficiency',
    _given('--seeds=0'),
    '--seeds=0: 1 to 1000',
  ),
  Row(
    'distill: from a pretraining run',
    'distill',
    _given(config=_DISTILL),
    'a teacher is one that was fine-tuned',
  ),
  Row(
    'distill: mixing',
    'distill',
    _given('--config.augment.mixup_alpha=0.5', config=_DISTILL),
    'config.augment.mixup_alpha = 0.5: distillation mixes no pictures',
  ),
]
