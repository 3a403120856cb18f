"""What a job leaves: a table for people, JSON for everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import datetime
import json
import os
import sys
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh

from simclr_jax import config as config_lib
from simclr_jax import processes
from simclr_jax.data.source import Source
from simclr_jax.evaluation import jobs, occurring
from simclr_jax.finetuning import stage as stage_lib
from simclr_jax.training import checkpoint
from simclr_jax.training import passport as passport_lib
from simclr_jax.training import steps as steps_lib

Report = dict[str, Any]
TITLES = {
  'finetune': 'fine-tuned',
  'scratch': 'from scratch',
  'frozen': 'frozen encoder, linear probe',
  'distill': 'distilled student',
  'teacher': 'teacher',
}


def check_workdir(workdir: epath.Path, start: checkpoint.LoadedEncoder) -> None:
  """Refuses the workdir of the encoder itself.

  Raises:
    ValueError: If it is.
  """
  mine = steps_lib.absolute(workdir) / checkpoint.FOLDER
  if steps_lib.absolute(start.path).parent == mine:
    raise ValueError(
      f'--workdir={workdir} is the run that --checkpoint names: its '
      'checkpoints would be mixed with those of another network; choose a new '
      'workdir'
    )


def write(
  file: epath.Path,
  *,
  job: str,
  rows: Sequence[stage_lib.Row],
  start: checkpoint.LoadedEncoder,
  stage: Any,
  sources: Mapping[str, Source],
  mesh: Mesh,
  seconds: float,
) -> Report:
  """Makes the report and writes it, by process 0.

  Raises:
    processes.AgreedFailure, OSError: If it cannot be written.
  """
  report = {
    'job': job,
    'rows': [dataclasses.asdict(row) for row in rows],
    'checkpoint': start.path,
    'step': start.step,
    'encoder_fingerprint': start.fingerprint,
    'config': config_lib.to_dict(stage),
    'data': {
      name: {
        'name': source.name,
        'num_examples': source.num_examples,
        'fingerprint': source.fingerprint,
      }
      for name, source in sources.items()
    },
    'num_devices': mesh.size,
    'command': sys.argv,
    'created': datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
    'seconds': round(seconds, 1),
    'software': passport_lib.software(),
    'file': os.fspath(file),
  }
  # As it will be read: tuples are lists.
  report = json.loads(json.dumps(report, allow_nan=False))
  with processes.together():
    if jax.process_index() == 0:
      jobs.write_json(file, report)
  return report


def summary(row: stage_lib.Row) -> str:
  """One line."""
  low, high = row.accuracy.top1_interval
  text = (
    f'{TITLES[row.kind]}: top-1 {row.accuracy.top1:.2%} [{low:.2%}, {high:.2%}]'
  )
  if row.accuracy.top5 is not None:
    text += f', top-5 {row.accuracy.top5:.2%}'
  labels = occurring.classes_text(row.accuracy.num_train_classes)
  return f'{text}, {row.num_labels:,} labels of {labels}'


def format_table(report: Report) -> str:
  """All rows as text for a terminal."""
  lines = [('', 'top-1', 'top-5', 'step', 'labels')]
  for row in report['rows']:
    accuracy = row['accuracy']
    low, high = accuracy['top1_interval']
    top5 = accuracy['top5']
    step = '-' if row['step'] is None else f'{row["step"]}/{row["total_steps"]}'
    lines.append(
      (
        TITLES[row['kind']],
        f'{accuracy["top1"]:.2%} [{low:.2%}, {high:.2%}]',
        '-' if top5 is None else f'{top5:.2%}',
        step,
        f'{row["num_labels"]:,}',
      )
    )
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = ['   '.join(map(str.ljust, line, widths)).rstrip() for line in lines]
  text.insert(1, '   '.join('-' * width for width in widths))
  first = report['rows'][0]['accuracy']
  text.append(
    f'On {first["num_images"]:,} test images of '
    f'{occurring.classes_text(first["num_test_classes"])}, with 95 % intervals '
    f'over them; the commonest class alone gives {first["majority"]:.1%}.'
  )
  # What holds for all classifiers is said once.
  text += dict.fromkeys(n for row in report['rows'] for n in row['notes'])
  text += [
    f'The holdout chose step {row["step"]} of {row["workdir"]}: other commands '
    'need --step=best, else they take the newest.'
    for row in report['rows']
    if row['holdout_top1'] is not None and row['kind'] != 'teacher'
  ]
  return '\n'.join(text)
