"""The page of recipes: each config's header, and what its presets change."""

from __future__ import annotations

import ast
import importlib.util
import json
import pathlib
import re
import types
from typing import Any

from simclr_jax import command_help
from simclr_jax import config as config_lib
from simclr_jax.cards import card as card_lib
from simclr_jax.cards import check, expectation
from simclr_jax.finetuning import config as finetuning_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
_CONFIG = re.compile(r'--config=(\S+)')
_KINDS = {
  'raw_pixels': 'raw pixels',
  'random_init': 'random initialisation',
  'pretrained': 'pretrained',
}


def recipe_files() -> list[pathlib.Path]:
  """configs/*.py that have presets of whole runs."""
  return sorted(
    path
    for path in (ROOT / 'configs').rglob('*.py')
    if 'PRESETS' in path.read_text()
  )


def differences(config: Any) -> dict[str, Any]:
  """'optim.base_lr' -> value, where it is not the default of its class."""
  found: dict[str, Any] = {}

  def walk(values: dict[str, Any], defaults: dict[str, Any], at: str) -> None:
    for name, value in values.items():
      if isinstance(value, dict):
        walk(value, defaults[name], f'{at}{name}.')
      elif value != defaults[name]:
        found[f'{at}{name}'] = value

  walk(config_lib.to_dict(config), config_lib.to_dict(type(config)()), '')
  return found


def fields_page(config: Any) -> str:
  """The page of the fields of a config, below docs/reference."""
  return {
    config_lib.Config: 'config.md',
    finetuning_config.FinetuneConfig: 'config_finetune.md',
    finetuning_config.DistillConfig: 'config_distill.md',
  }[type(config)]


def measured() -> dict[str, list[str]]:
  """'configs/x.py:preset' -> Markdown of the results in docs/results."""
  found: dict[str, list[str]] = {}
  for path in sorted((ROOT / 'docs/results').glob('*/result.json')):
    result = json.loads(path.read_text())
    match = _CONFIG.search(result['command'])
    if match:
      page = path.parent.relative_to(ROOT / 'docs') / 'README.md'
      found.setdefault(match[1], []).extend(
        _result_lines(result, page=page.as_posix())
      )
  return found


def expected() -> list[tuple[card_lib.Card, list[str]]]:
  """Measured cards, with Markdown of what their runs gave."""
  return [(card, _card_lines(card)) for card in card_lib.load_all()]


def _card_lines(card: card_lib.Card) -> list[str]:
  rows = [
    f'| {run.seed} | {run.curve[-1]["contrast_loss"]:.3f} | '
    + ' | '.join(
      f'{100 * run.final[name]:.1f} %' if name in run.final else '-'
      for name in expectation.FINAL
    )
    + ' |'
    for run in card.runs
  ]
  return [
    '',
    f'Expected, by {len(card.runs)} runs on {card.hardware}; `--check_recipe` '
    'compares a run with them:',
    '',
    '| seed | contrast loss, last epoch | kNN | linear probe |',
    '|---|---|---|---|',
    *rows,
    '',
    *_limits(card),
  ]


def _limits(card: card_lib.Card) -> list[str]:
  """What the check lets pass, at the end."""
  run = card.runs[0]
  points = check.compare(card, run.curve, run.final)
  found = []
  for name, point in {p.metric: p for p in points}.items():
    low, high = point.expected.low, point.expected.high
    where = f'epoch {point.epoch}' if point.epoch else 'last checkpoint'
    ends = f'{low:.2f} to {high:.2f}'
    if name in expectation.ACCURACIES:
      ends = f'{100 * low:.0f} to {100 * high:.0f} %'
    if not expectation.METRICS.get(name, False):
      ends = f'{100 * low:.0f} % or more'
    found.append(f'| {check.TITLES[name]}, {where} | {ends} |')
  return [
    f'Of a sound run all of {len(points)} numbers lie within their limits, 99 '
    'times in 100. At the end these are:',
    '',
    '| | passes |',
    '|---|---|',
    *found,
  ]


def _expected_of(
  config: Any, cards: list[tuple[card_lib.Card, list[str]]]
) -> list[str]:
  """Lines of the card of a recipe; none where there is no such card."""
  if not isinstance(config, config_lib.Config):
    return []
  return [
    line
    for card, lines in cards
    if not card_lib.differences(card.config, config)
    for line in lines
  ]


def _result_lines(result: dict[str, Any], *, page: str) -> list[str]:
  rows = [
    f'| {_KINDS.get(row["kind"], row["kind"])} | '
    f'{_percent(row["probe_all"])} | {_percent(row["knn"])} |'
    for row in result['comparison']['rows']
  ]
  return [
    '',
    f'Measured with this code, on {result["hardware"]} ([all of it]({page})):',
    '',
    '| features | linear probe | kNN |',
    '|---|---|---|',
    *rows,
  ]


def _percent(score: dict[str, Any] | None) -> str:
  if score is None:
    return '-'
  low, high = (100 * end for end in score['interval'])
  return f'{100 * score["top1"]:.1f} % [{low:.1f}, {high:.1f}]'


def page(introduction: str) -> str:
  """Markdown: docs/recipes.md as written by hand, then each file."""
  lines = [introduction.rstrip()]
  results, cards = measured(), expected()
  for path in recipe_files():
    name = path.relative_to(ROOT).as_posix()
    module = _load(path)
    header = ast.get_docstring(ast.parse(path.read_text())) or ''
    header = command_help.unjoined(header.strip())
    lines += ['', f'## {name}', '', '```text', header, '```']
    for preset, config in module.PRESETS.items():
      lines += [
        '',
        f'### {name}:{preset}',
        '',
        f'What differs from the [defaults](reference/{fields_page(config)}):',
        '',
        '| field | value |',
        '|---|---|',
        *(f'| `{f}` | `{v!r}` |' for f, v in differences(config).items()),
        *results.get(f'{name}:{preset}', []),
        *_expected_of(config, cards),
      ]
  return '\n'.join(lines) + '\n'


def _load(path: pathlib.Path) -> types.ModuleType:
  spec = importlib.util.spec_from_file_location(f'recipe_{path.stem}', path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
