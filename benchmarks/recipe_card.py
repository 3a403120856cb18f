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

import json
import pathlib
import runpy
from typing import Any

from absl import app, flags

from benchmarks import published_numbers
from simclr_jax import config as config_lib
from simclr_jax import console
from simclr_jax.cards import card as card_lib
from simclr_jax.cards import make
from simclr_jax.training import passport as passport_lib

_NAME = flags.DEFINE_string('name', '', 'Of the recipe, as for --config.')
_RUNS = flags.DEFINE_list('runs', [], 'Finished runs.')
_HARDWARE = flags.DEFINE_string('hardware', '', 'Of the machine, for people.')
_COMMAND = flags.DEFINE_string('command', '', 'That pretrained.')
_OUT = flags.DEFINE_string('out', '', 'The card, .json.')
_PUBLISHED = flags.DEFINE_string('published', '', 'File of published numbers.')


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
    card = make.make_card(
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
