"""Accuracy against the number of labels, by method, over several seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import datetime
import json
import time
from typing import Any

from absl import logging
from etils import epath
import jax
from jax.sharding import Mesh
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import processes, section_flags, writes
from simclr_jax.data.source import Source
from simclr_jax.evaluation import jobs, plots
from simclr_jax.finetuning import config as finetune_lib
from simclr_jax.finetuning import (
  curve,
  derive,
  job,
  labelled,
  report,
  stage,
)
from simclr_jax.finetuning import run as run_lib
from simclr_jax.finetuning.budgets import Budget
from simclr_jax.finetuning.config import FinetuneConfig, LabelsConfig
from simclr_jax.training import checkpoint
from simclr_jax.training import passport as passport_lib
from simclr_jax.training import watchdog as watchdog_lib

RESULT, PLOT = 'label_efficiency.json', 'label_efficiency.png'


def sweep(
  config: FinetuneConfig,
  start: checkpoint.LoadedEncoder,
  *,
  workdir: epath.PathLike,
  budgets: Sequence[Budget],
  seeds: int,
  methods: Sequence[str] = job.METHODS,
  mesh: Mesh | None = None,
  watchdog: watchdog_lib.Watchdog | None = None,
  check_memory: bool = True,
) -> report.Report | None:
  """Every method on every number of labels with every seed.

  A seed chooses the labels and the order of training; all methods get the same
  labels. What is finished is not computed again.

  Args:
    config: Of every fine-tuning; its labels' number and seeds are replaced.
      Batches are halved where there are fewer labels.
    start: Pretrained encoder.
    workdir: Folder of all of them, of the result and of the plot.
    budgets: Numbers of labels.
    seeds: Seeds 0 to seeds - 1.
    methods: Some of `job.METHODS`.
    mesh: Default: all devices.
    watchdog: Told of every step.
    check_memory: Whether a run is refused that needs more than there is.

  Returns:
    The report, also in WORKDIR/label_efficiency.json, with a plot beside it;
    None if a signal stopped it.

  Raises:
    ValueError: As `job.finetune`.
  """
  begun, folder = time.monotonic(), epath.Path(workdir)
  mesh = run_lib.default_mesh(mesh)
  with processes.together(), section_flags.named('--config.data'):
    report.check_workdir(folder, start)
    base = passport_lib.config_from_passport(start.passport, where=start.path)
    derived = derive.finetune_config(base, config)
    train, test = stage.open_splits(derived, folder)
    # Also says, before the first is trained, which budget has too few labels.
    num_labels = {
      budget: len(
        labelled.divide(
          train, _labels(config, budget, seed=0), workdir=folder
        ).fit_rows
      )
      for budget in budgets
    }
  points, total, num_trained = [], len(budgets) * seeds, 0
  for number, (budget, seed) in enumerate(_all(budgets, seeds)):
    place = folder / budget.folder / f'seed{seed}'
    mine = _configured(
      config,
      _labels(config, budget, seed=seed),
      num_labels=num_labels[budget],
      mesh=mesh,
    )
    found = _finished(
      place,
      mine,
      start,
      methods=methods,
      sources={'train': train, 'test': test},
    )
    if found is None:
      num_trained += 1
      found = job.finetune(
        mine,
        start,
        workdir=place,
        methods=methods,
        mesh=mesh,
        watchdog=watchdog,
        features_dir=folder / 'features',
        check_memory=check_memory,
      )
    if found is None:
      return None
    points.append({'budget': budget.name, 'seed': seed, 'result': found})
    pace = (time.monotonic() - begun) / max(num_trained, 1)
    left = pace * (total - number - 1)
    logging.info(
      'label efficiency: %d of %d done (%s labels, seed %d), %s left',
      number + 1,
      total,
      found['rows'][0]['num_labels'],
      seed,
      datetime.timedelta(seconds=round(left)),
    )
  return _write(folder, config, start, points, methods=methods)


def _all(budgets: Sequence[Budget], seeds: int) -> Iterator[tuple[Budget, int]]:
  for budget in budgets:
    for seed in range(seeds):
      yield budget, seed


def _labels(
  config: FinetuneConfig, budget: Budget, *, seed: int
) -> LabelsConfig:
  """Which labels are used."""
  return dataclasses.replace(
    config.labels,
    per_class=budget.per_class,
    fraction=budget.fraction,
    seed=seed,
  )


def _configured(
  config: FinetuneConfig,
  labels: LabelsConfig,
  *,
  num_labels: int,
  mesh: Mesh,
) -> FinetuneConfig:
  """Config of one fine-tuning; `num_labels` are trained on."""
  batch = fit_batch(
    config.train.batch_size, num_labels=num_labels, num_devices=mesh.size
  )
  changed = dataclasses.replace(
    config,
    seed=labels.seed,
    labels=labels,
    train=dataclasses.replace(config.train, batch_size=batch),
  )
  return finetune_lib.read_finetune(config_lib.to_dict(changed))


def fit_batch(batch: int, *, num_labels: int, num_devices: int) -> int:
  """The batch halved while it is larger than the labels, as long as it divides.

  Batch norm over copies of a few pictures would say little of others.
  """
  while (
    batch > max(num_labels, 2)
    and batch % 2 == 0
    and batch // 2 % (2 * num_devices) == 0
  ):
    batch //= 2
  return batch


def _finished(
  place: epath.Path,
  config: FinetuneConfig,
  start: checkpoint.LoadedEncoder,
  *,
  methods: Sequence[str],
  sources: Mapping[str, Source],
) -> report.Report | None:
  """A result that is there already and is of exactly this."""
  found: report.Report | None = None
  with processes.together():
    path = place / job.RESULT
    if jax.process_index() == 0 and path.exists():
      try:
        found = json.loads(path.read_text())
      except ValueError:
        logging.warning('%s is no JSON and is made anew', path)
  # A shared disk may not show the file to all of them yet.
  found = processes.from_first(found)
  wanted = json.loads(json.dumps(config_lib.to_dict(config)))
  is_same = (
    found is not None
    and found.get('config') == wanted
    and found.get('encoder_fingerprint') == start.fingerprint
    and [row['kind'] for row in found['rows']] == list(methods)
    and all(
      found['data'][name].get('fingerprint') == source.fingerprint
      for name, source in sources.items()
    )
  )
  # One that would train alone would wait for the others for ever.
  return found if all(processes.gather(is_same)) else None


def _write(
  folder: epath.Path,
  config: FinetuneConfig,
  start: checkpoint.LoadedEncoder,
  points: Sequence[dict[str, Any]],
  *,
  methods: Sequence[str],
) -> report.Report:
  first = points[0]['result']
  found = {
    'job': 'label_efficiency',
    'checkpoint': start.path,
    'step': start.step,
    'encoder_fingerprint': start.fingerprint,
    'config': json.loads(json.dumps(config_lib.to_dict(config))),
    'data': first['data'],
    'majority': first['rows'][0]['accuracy']['majority'],
    'summary': summarize(points, methods),
    'points': [
      {
        'budget': point['budget'],
        'seed': point['seed'],
        'batch_size': point['result']['config']['train']['batch_size'],
        'rows': point['result']['rows'],
      }
      for point in points
    ],
    'num_devices': first['num_devices'],
    'software': first['software'],
    'command': first['command'],
    'file': str(folder / RESULT),
    'plot': str(folder / PLOT),
  }
  with processes.together():
    if jax.process_index() == 0:
      jobs.write_json(folder / RESULT, found)
      writes.whole(folder / PLOT, plots.to_png(curve.draw(found)))
  return found


def summarize(
  points: Sequence[dict[str, Any]], methods: Sequence[str]
) -> list[dict[str, Any]]:
  """For each number of labels and method: mean and spread over the seeds."""
  found = []
  for budget in dict.fromkeys(point['budget'] for point in points):
    rows = [p['result']['rows'] for p in points if p['budget'] == budget]
    for position, method in enumerate(methods):
      mine = [row[position] for row in rows]
      top1 = np.array([row['accuracy']['top1'] for row in mine])
      found.append(
        {
          'budget': budget,
          'method': method,
          'num_labels': mine[0]['num_labels'],
          'top1_mean': float(top1.mean()),
          'top1_std': float(top1.std(ddof=1)) if len(top1) > 1 else None,
          'top1': top1.tolist(),
        }
      )
  return found


def format_table(found: report.Report) -> str:
  """A row for each number of labels, a column for each method."""
  methods = list(dict.fromkeys(row['method'] for row in found['summary']))
  lines = [['labels', *(report.TITLES[m] for m in methods)]]
  for budget in dict.fromkeys(row['budget'] for row in found['summary']):
    rows = [row for row in found['summary'] if row['budget'] == budget]
    lines.append([f'{rows[0]["num_labels"]:,}', *(_cell(row) for row in rows)])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = ['   '.join(map(str.ljust, line, widths)).rstrip() for line in lines]
  text.insert(1, '   '.join('-' * width for width in widths))
  seeds = len(found['summary'][0]['top1'])
  text.append(
    f'Top-1 on the test split, mean and standard deviation over {seeds} '
    f'seed{"s" if seeds > 1 else ""} (labels and order); the commonest class '
    f'alone gives {found["majority"]:.1%}.'
  )
  budgets = {row['budget'] for row in found['summary']}
  if seeds > 1 and job.FROZEN in methods and 'all' in budgets:
    text.append(
      'With all labels the linear probe is the same run for every seed: its '
      'spread there says nothing about labels or order.'
    )
  return '\n'.join(text)


def _cell(row: dict[str, Any]) -> str:
  spread = row['top1_std']
  return f'{row["top1_mean"]:.1%}' + (
    '' if spread is None else f' ± {100 * spread:.1f}'
  )
