"""What h knows of a picture that z has been taught to forget.

Chen et al. 2020, section 4.2 and table 3: a classifier on h tells how a picture
was transformed, one on z (the output of the projection head) much less, because
the loss asks z to be the same whatever was done. Here the classifier is linear
(the paper's is a small MLP), and the encoder is the one that is there: in the
paper rotation and noise were added to the augmentation of a pretraining of its
own, so that z was taught to ignore them too; ours was not, unless its recipe
says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import hashlib
import json
import time
from typing import Any

from absl import logging
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import jobs, linear_probe, transforms

NAME = 'probe_transforms'
LAYERS = ('h', 'z')
CLASSES = 'classes'
NOISE_STD = 0.1
# Fields of config.probe that decide what is compared here. One setting suits
# features of any scale once they are standardised.
FIXED: Mapping[str, Any] = {
  'mode': 'features',
  'labels_per_class': 0,
  'standardize': True,
}
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Task:
  """A transformation to tell.

  Attributes:
    variants: What a picture may have become; one class each.
    paper: Accuracy of h and of z in the paper (ResNet-50, ImageNet).
  """

  variants: tuple[str, ...]
  paper: tuple[float, float]


TASKS = {
  'color': Task(('original', 'gray'), (0.993, 0.974)),
  'rotation': Task(
    ('original', 'rotated_90', 'rotated_180', 'rotated_270'), (0.676, 0.256)
  ),
  'noise': Task(('original', 'noisy'), (0.995, 0.596)),
}


DEFAULT_TASKS = (*TASKS, CLASSES)


@dataclasses.dataclass(frozen=True)
class TaskResult:
  """h beside z.

  Attributes:
    task: Key of `TASKS`, or 'classes'.
    variants: What was told apart; () for the classes of the data set.
    h, z: What the linear probe reports.
    chance: Share of the commonest answer.
    paper: Accuracy of h and z in the paper; None where it has none.
    direction: 'h' or 'z', whichever is better; 'none' where their intervals
      overlap.
  """

  task: str
  variants: tuple[str, ...]
  h: linear_probe.ProbeResult
  z: linear_probe.ProbeResult
  chance: float
  paper: tuple[float, float] | None
  direction: str


@dataclasses.dataclass(frozen=True)
class TransformResult:
  """All tasks.

  Attributes:
    tasks: In the order asked for.
    noise_std: Of the Gaussian noise, of pixels in [0, 1].
    dim_h, dim_z: Widths.
    warnings: What was left out, and why.
  """

  tasks: tuple[TaskResult, ...]
  noise_std: float
  dim_h: int
  dim_z: int
  warnings: tuple[str, ...] = ()


def run(
  subject: jobs.Subject,
  *,
  tasks: Sequence[str] = DEFAULT_TASKS,
  noise_std: float = NOISE_STD,
  out: str | None = None,
  show_fn: jobs.ShowFn | None = None,
) -> jobs.Report:
  """Judges h and z of a subject; see `jobs.run_probe`.

  Other tasks or another noise than the default ones have a file of their own.

  Raises:
    ValueError: If a task is unknown, the noise is none, a field of `FIXED` is
      changed, or z is h.
  """
  _check(subject, tasks, noise_std)
  start = time.monotonic()
  names = sorted({v for t in tasks if t in TASKS for v in TASKS[t].variants})
  if 'original' not in names:
    names.insert(0, 'original')
  train, test = (
    transforms.extract_variants(
      subject.encoder,
      source,
      subject.config,
      variants=names,
      noise_std=noise_std,
      stream=stream,
    )
    for stream, source in enumerate((subject.train, subject.test))
  )
  probe = dataclasses.replace(subject.config.probe, **FIXED)
  results, warnings = [], []
  for name in tasks:
    if name == 'color' and _same(test['original'], test['gray']):
      warnings.append('color is left out: the pictures are grey')
      continue
    logging.info('probing: %s', name)
    results.append(_judge(name, train, test, probe))
  result = TransformResult(
    tasks=tuple(results),
    noise_std=noise_std,
    dim_h=test['original'].h.shape[1],
    dim_z=test['original'].z.shape[1],
    warnings=tuple(warnings),
  )
  used = dataclasses.replace(
    subject, config=dataclasses.replace(subject.config, probe=probe)
  )
  report = jobs.make_report(NAME, used, result, section='probe', start=start)
  scalars = {
    f'{task.task}_{layer}': getattr(task, layer).top1
    for task in results
    for layer in LAYERS
  }
  return jobs.write_report(
    report,
    subject,
    name=_file_name(tasks, noise_std),
    scalars=scalars,
    out=out,
    show_fn=show_fn,
  )


def _file_name(tasks: Sequence[str], noise_std: float) -> str:
  """Begin of the file's name: a part must not replace the whole."""
  asked = (sorted(tasks), noise_std)
  if asked == (sorted(DEFAULT_TASKS), NOISE_STD):
    return NAME
  digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
  return f'{NAME}-{digest[:8]}'


def check_fields(probe: Mapping[str, Any]) -> None:
  """Raises ValueError if a field of config.probe is given and not obeyed."""
  for field, value in FIXED.items():
    if probe.get(field, value) != value:
      raise ValueError(
        f'--probe.{field}={probe[field]}: h and z are compared with '
        f'probe.{field} = {value!r} alone; leave it out'
      )


def _check(
  subject: jobs.Subject, tasks: Sequence[str], noise_std: float
) -> None:
  check_fields(
    {
      name.removeprefix('probe.'): value
      for name, value in subject.overridden.items()
      if name.startswith('probe.')
    }
  )
  known = DEFAULT_TASKS
  for task in tasks:
    if task not in known:
      close = difflib.get_close_matches(task, known, n=1)
      hint = f' (did you mean {close[0]!r}?)' if close else ''
      raise ValueError(
        f'--tasks: {task!r} is no task{hint}; known: {", ".join(known)}'
      )
  if not tasks:
    raise ValueError(f'--tasks is empty; known: {", ".join(known)}')
  if not 0 < noise_std <= 1:
    raise ValueError(
      f'--noise_std={noise_std:g}: must be above 0 and at most 1, the range of '
      'the pixels; without noise there is nothing to tell'
    )
  model = subject.config.model
  if (
    subject.encoder.kind == 'raw_pixels'
    or model.head == 'none'
    or (model.head == 'nonlinear' and model.head_layers == 0)
  ):
    raise ValueError(
      'h and z are the same here (no projection head): there is nothing to '
      'compare'
    )


def _same(one: features_lib.Features, other: features_lib.Features) -> bool:
  """Whether a variant changes nothing beyond rounding."""
  scale = np.abs(one.h).max()
  return bool(np.abs(one.h - other.h).max() <= 1e-3 * scale)


def _judge(
  name: str,
  train: Mapping[str, features_lib.Features],
  test: Mapping[str, features_lib.Features],
  probe: config_lib.ProbeConfig,
) -> TaskResult:
  """One row of the table."""
  scores = {}
  for layer in LAYERS:
    fitted, held_out = (
      _answers(name, split, layer=layer, seed=_SEED + i)
      for i, split in enumerate((train, test))
    )
    scores[layer] = linear_probe.probe_features(fitted, held_out, probe)
  task = TASKS.get(name)
  return TaskResult(
    task=name,
    variants=task.variants if task else (),
    h=scores['h'],
    z=scores['z'],
    chance=scores['h'].majority,
    paper=task.paper if task else None,
    direction=_direction(scores['h'], scores['z']),
  )


def _answers(
  name: str,
  split: Mapping[str, features_lib.Features],
  *,
  layer: str,
  seed: int,
) -> features_lib.Features:
  """What a task asks of a layer, with the right answers as labels."""
  if name == CLASSES:
    original = split['original']
    return dataclasses.replace(original, h=getattr(original, layer))
  variants = {variant: split[variant] for variant in TASKS[name].variants}
  return transforms.one_variant_each(variants, layer=layer, seed=seed)


def _direction(h: linear_probe.ProbeResult, z: linear_probe.ProbeResult) -> str:
  if h.top1_interval.low > z.top1_interval.high:
    return 'h'
  return 'z' if z.top1_interval.low > h.top1_interval.high else 'none'


def format_table(report: jobs.Report) -> str:
  """For a terminal."""
  result = report['result']
  lines = [
    f'linear probe of {report["encoder"]}, step {report["step"]}: accuracy on '
    f'h ({result["dim_h"]} wide), z ({result["dim_z"]}), with 95 % intervals',
    f'{"":<10}{"h":>22}{"z":>22}{"chance":>9}   better   paper (h, z)',
  ]
  for task in result['tasks']:
    cells = [
      f'{task[layer]["top1"]:>7.1%} [{task[layer]["top1_interval"][0]:.1%}, '
      f'{task[layer]["top1_interval"][1]:.1%}]'
      for layer in LAYERS
    ]
    paper = (
      f'{task["paper"][0]:.1%}, {task["paper"][1]:.1%}'
      if task['paper']
      else '-'
    )
    lines.append(
      f'{task["task"]:<10}{cells[0]:>22}{cells[1]:>22}{task["chance"]:>9.1%}   '
      f'{task["direction"]:<8} {paper}'
    )
  return '\n'.join(lines)
