"""Makes a recipe card of finished runs: what `--check_recipe` compares with.

  python -m benchmarks.recipe_card --name=configs/smoke.py \
    --runs=runs/demo-0,runs/demo-1,runs/demo-2 --hardware='2 CPU cores' \
    --command='...' --out=simclr_jax/cards/measured/smoke.json

A run is a workdir, or a folder that `benchmarks/record_result.py` wrote. All
are of one recipe and one data set, finished, and of different seeds; what probe
and kNN said of their last checkpoints is taken along. At least two: of one run
nobody knows how far from it the next may lie.

  python -m benchmarks.recipe_card --published=simclr_jax/cards/published.json

writes what others report for the presets of configs/ instead, from the texts in
benchmarks/published_numbers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
import runpy
from typing import Any

from absl import app, flags

from benchmarks import published_numbers
from simclr_jax import config as config_lib
from simclr_jax import console
from simclr_jax.cards import card as card_lib
from simclr_jax.cards import check
from simclr_jax.training import checkpoint
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import passport as passport_lib

_NAME = flags.DEFINE_string('name', '', 'Of the recipe, as for --config.')
_RUNS = flags.DEFINE_list('runs', [], 'Finished runs.')
_HARDWARE = flags.DEFINE_string('hardware', '', 'Of the machine, for people.')
_COMMAND = flags.DEFINE_string('command', '', 'That pretrained.')
_OUT = flags.DEFINE_string('out', '', 'The card, .json.')
_PUBLISHED = flags.DEFINE_string('published', '', 'File of published numbers.')


def read_run(
  folder: pathlib.Path,
) -> tuple[Mapping[str, Any], card_lib.CardRun]:
  """Passport (or what a result holds of it) and the run's part of a card.

  Raises:
    ValueError: If the run has not finished.
  """
  recorded = folder / 'result.json'
  if recorded.exists():
    passport = json.loads(recorded.read_text())
    row = passport['comparison']['rows'][-1]
    final = {'knn_top1': row['knn'], 'linear_top1': row['probe_all']}
    final = {name: score['top1'] for name, score in final.items() if score}
  else:
    passport = checkpoint.load_encoder(folder).passport
    final = check.read_final(folder, passport['step'])
  total = passport['derived']['total_steps']
  if passport['step'] < total:
    raise ValueError(f'{folder} is at step {passport["step"]} of {total}')
  records = metrics_lib.read_lines(folder / metrics_lib.FILE_NAME)
  curve = [
    {k: v for k, v in point.items() if k in ('epoch', *check.TITLES)}
    for point in check.run_curve(passport, records)
  ]
  return passport, card_lib.CardRun(passport['config']['seed'], curve, final)


def make_card(
  folders: list[pathlib.Path], *, name: str, command: str, hardware: str
) -> card_lib.Card:
  """The card of some runs.

  Raises:
    ValueError: If they are not runs of one recipe with different seeds.
  """
  if len(folders) < 2:
    raise ValueError('--runs: a card needs two runs or more')
  passports, runs = zip(*map(read_run, folders), strict=True)
  configs = [config_lib.from_config_dict(p['config']) for p in passports]
  for folder, passport, config in zip(folders, passports, configs, strict=True):
    changed = card_lib.differences(configs[-1], config)
    changed += card_lib.judging_differences(configs[-1], config)
    if passport['data']['fingerprint'] != passports[-1]['data']['fingerprint']:
      changed.append('training data: another fingerprint')
    if changed:
      raise ValueError(f'{folder} is another recipe: {"; ".join(changed)}')
  if len({run.seed for run in runs}) < len(runs):
    raise ValueError('--runs: two of them have the same seed')
  packages = passports[-1]['software']['packages']
  return card_lib.Card(
    name=name,
    config=_anywhere(configs[-1]),
    data={k: passports[-1]['data'][k] for k in _DATA},
    command=command,
    hardware=hardware,
    software={k: packages[k] for k in ('simclr_jax', 'jax', 'flax')},
    runs=runs,
  )


_DATA = ('name', 'fingerprint', 'num_examples')


def _anywhere(config: config_lib.Config) -> config_lib.Config:
  """Without the places of somebody's disk, which are no part of a recipe."""
  return config_lib.replace(config, data={'data_dir': ''})


def make_published() -> list[dict[str, Any]]:
  """Entries of published.json, with the config that each name stands for."""
  entries = []
  for name, text in published_numbers.PUBLISHED.items():
    file, _, preset = name.partition(':')
    path = pathlib.Path(__file__).parents[1] / file
    functions = runpy.run_path(str(path))
    values = functions['get_config'](*([preset] if preset else []))
    config = config_lib.from_config_dict(values)
    changed = passport_lib.differences(config_lib.Config(), config)
    entries.append(
      {'name': name, 'config': _nested(config, changed), 'text': text}
    )
  return entries


def _nested(config: config_lib.Config, changed: list[str]) -> dict[str, Any]:
  """Sections and fields that differ from the defaults."""
  values, found = config_lib.to_dict(config), {}
  for difference in changed:
    section, _, field = difference.split(':', 1)[0].partition('.')
    if field:
      found.setdefault(section, {})[field] = values[section][field]
    else:
      found[section] = values[section]
  return found


def main(argv: list[str]) -> int:
  """Writes what the flags ask for."""
  del argv
  console.start()
  if _PUBLISHED.value:
    text = json.dumps(make_published(), indent=1)
    pathlib.Path(_PUBLISHED.value).write_text(text + '\n')
    return 0
  try:
    card = make_card(
      [pathlib.Path(run) for run in _RUNS.value],
      name=_NAME.value,
      command=_COMMAND.value,
      hardware=_HARDWARE.value,
    )
  except ValueError as error:
    return console.fail(error, code=console.EXIT_WRONG_INPUT)
  card_lib.write(card, pathlib.Path(_OUT.value))
  print(f'{_OUT.value}: {len(card.runs)} runs of {card.name}')
  return 0


if __name__ == '__main__':
  app.run(main)
