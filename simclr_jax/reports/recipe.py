"""The recipe and the data of a run, as tables."""

from __future__ import annotations

from typing import Any

from simclr_jax import config as config_lib
from simclr_jax.reports import document, kinds
from simclr_jax.reports.run_data import RunData
from simclr_jax.training import ancestry
from simclr_jax.training import passport as passport_lib

_MAX_CLASSES = 20


def facts(run: RunData) -> tuple[tuple[str, str], ...]:
  """What stands at the top of the page."""
  model = run.config.model
  width = f', width {model.width:g}' if model.width != 1 else ''
  software = run.passport.get('software', {})
  packages = software.get('packages', {})
  revision = software.get('git_revision') or 'unknown revision'
  dirty = ' (with changes)' if revision.endswith('-dirty') else ''
  return (
    *ancestry.tell(run.passport).facts,
    (
      'Pictures',
      f'{run.train.num_examples:,}{kinds.of(run).split}, at '
      f'{run.config.data.image_size} px',
    ),
    ('Network', f'ResNet-{model.depth}{width}'),
    ('Checkpoint', f'{run.loaded.path} ({run.loaded.fingerprint[:12]})'),
    (
      'Made with',
      f'simclr_jax {packages.get("simclr_jax", "?")} ({revision[:12]}{dirty}), '
      f'jax {packages.get("jax", "?")}, '
      f'{software.get("num_devices", "?")} x '
      f'{software.get("device_kind", "unknown device")}',
    ),
  )


def recipe(run: RunData) -> document.Section:
  """What was decided, and what followed from it."""
  defaults = config_lib.Config()
  changed = _rows(passport_lib.differences(defaults, run.config))
  every = _rows_of(run.config)
  tables = [
    document.Table(
      ('field', 'default', 'this run'),
      [list(map(document.Cell, row)) for row in changed],
    )
  ]
  if stage := _stage(run):
    tables.append(
      document.Table(
        ('of this stage', 'value'),
        [list(map(document.Cell, row)) for row in stage],
        folded='What only such a run decides: labels, mixing, ...',
      )
    )
  if run.derived:
    tables.append(
      document.Table(
        ('followed from it', 'value'),
        [
          [document.Cell(k), document.Cell(_number(v))]
          for k, v in run.derived.items()
        ],
        folded='What followed from it: steps, peak learning rate, ...',
      )
    )
  tables.append(
    document.Table(
      ('field', 'value'),
      [list(map(document.Cell, row)) for row in every],
      folded=f'All {len(every)} fields',
    )
  )
  return document.Section(
    'Recipe',
    kinds.of(run).on_recipe,
    tables=tuple(tables),
  )


def data(run: RunData) -> document.Section:
  """What it was trained and judged on."""
  kind, config = kinds.of(run), run.config.data
  stated = run.passport['data'] if kind.was_trained else _stated(run)
  names = [str(name) for name in stated.get('class_names', ())]
  shown = ', '.join(names[:_MAX_CLASSES])
  if len(names) > _MAX_CLASSES:
    shown += f' and {len(names) - _MAX_CLASSES} more'
  skipped = int(stated.get('num_skipped', 0))
  rows = [
    ('training split', str(stated.get('name', '?'))),
    ('pictures', f'{stated.get("num_examples", 0):,}'),
    ('held-out split', config.test_split or 'none'),
    ('classes', str(stated.get('num_classes') or 'no labels')),
    ('names of the classes', shown or 'not known'),
    ('unreadable pictures, left out', f'{skipped:,}'),
    ('side of the views', f'{config.image_size} px'),
    ('read by', f'{config.loader}, views made on the {config.augment_on}'),
    ('fingerprint', str(stated.get('fingerprint', '?'))),
  ]
  return document.Section(
    'Data',
    kind.on_data,
    tables=(
      document.Table(
        ('data', ''), [list(map(document.Cell, row)) for row in rows]
      ),
    ),
  )


def _stated(run: RunData) -> dict[str, Any]:
  """Of the data of a config that nothing was trained by."""
  return {
    'name': run.train.name,
    'fingerprint': run.train.fingerprint,
    'num_examples': run.train.num_examples,
    'num_classes': run.train.num_classes,
    'class_names': run.train.class_names,
    'num_skipped': len(run.train.skipped),
  }


def _rows(differences: list[str]) -> list[tuple[str, str, str]]:
  """(field, before, after) of 'field: before -> after'."""
  rows = []
  for difference in differences:
    field, values = difference.split(': ', 1)
    before, after = values.split(' -> ', 1)
    rows.append((field, before, after))
  return rows


def _rows_of(config: config_lib.Config) -> list[tuple[str, str]]:
  rows = []
  for name, value in config_lib.to_dict(config).items():
    if isinstance(value, dict):
      rows += [(f'{name}.{k}', repr(v)) for k, v in value.items()]
    else:
      rows.append((name, repr(value)))
  return rows


def _stage(run: RunData) -> list[tuple[str, str]]:
  """What a classifier's passport says beyond the config of a run."""
  section = run.passport.get(run.passport['objective'], {})
  labels = section.get('labelled', {}).get('labels', {})
  decided = {**section.get('config', {}), 'labels': labels}
  rows = []
  for name, value in decided.items():
    if isinstance(value, dict):
      rows += [(f'{name}.{k}', repr(v)) for k, v in value.items()]
    else:
      rows.append((name, repr(value)))
  return rows


def _number(value: object) -> str:
  if isinstance(value, float):
    return f'{value:.6g}'
  return f'{value:,}' if isinstance(value, int) else str(value)
