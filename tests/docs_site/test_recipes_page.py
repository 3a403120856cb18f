"""The page of recipes shows every preset, and what it changes."""

from __future__ import annotations

import json
import math
import pathlib
import re

from docs_site import recipes_page
from simclr_jax import config as config_lib
from simclr_jax import losses
from simclr_jax.finetuning import config as finetuning_config

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_every_golden_config_is_shown_and_rebuilt_from_its_differences():
  page = recipes_page.page('# Recipes')
  golden = sorted((ROOT / 'tests/golden_configs').glob('*.txt'))
  assert golden
  schemas = {
    'finetune': finetuning_config.FinetuneConfig,
    'distill': finetuning_config.DistillConfig,
  }
  for path in golden:
    schema = schemas.get(path.stem.split('.')[0], config_lib.Config)
    defaults = config_lib.to_dict(schema())
    file, preset = path.stem.split('.')[-2:]
    (title,) = re.findall(
      rf'^### (configs/\S*{file}\.py:{preset})$', page, re.M
    )
    section = page.partition(f'### {title}\n')[2].partition('\n##')[0]
    changed = dict(re.findall(r'^\| `([\w.]+)` \| `(.*)` \|$', section, re.M))
    for line in path.read_text().splitlines():
      field, _, value = line.removeprefix('config.').partition(' = ')
      at = defaults
      for part in field.split('.'):
        at = at[part]
      assert changed.pop(field, repr(at)) == value, (title, field)
    assert not changed


def test_headers_are_shown_as_they_are():
  page = recipes_page.page('# Recipes')
  for path in recipes_page.recipe_files():
    first = path.read_text().splitlines()[0].removeprefix('r')
    assert first.strip('"') in page
  # Commands are broken as they can be pasted.
  assert not re.findall(r'^ +python -m .* {3,}--', page, re.M)
  assert not re.findall(r'^ +python -m .*[^\\]\n +--', page, re.M)


def test_loss_of_embeddings_that_tell_nothing():
  text = (ROOT / 'docs/recipes.md').read_text()
  rows = re.findall(
    r'^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|', text, re.M
  )
  assert len(rows) >= 4
  for batch, official, paper, accuracy in rows:
    chance = losses.chance_loss(int(batch), 'official')
    assert math.isclose(float(official), chance, abs_tol=0.005)
    assert math.isclose(
      float(paper), losses.chance_loss(int(batch), 'paper'), abs_tol=0.005
    )
    assert math.isclose(float(accuracy), 1 / int(batch), abs_tol=5e-5)


def test_a_recorded_run_stands_under_its_preset():
  page = recipes_page.page('# Recipes')
  _, _, section = page.partition('### configs/cifar10.py:cpu\n')
  section = section.partition('\n##')[0]
  result = json.loads(
    (ROOT / 'docs/results/cifar10_cpu/result.json').read_text()
  )
  assert result['hardware'] in section
  for row in result['comparison']['rows']:
    for score in (row['probe_all'], row['knn']):
      assert f'{100 * score["top1"]:.1f} %' in section
  assert page.count('Measured with this code') == len(recipes_page.measured())


def test_measured_cards_stand_under_their_recipes():
  page = recipes_page.page('# Recipes')
  for path in sorted((ROOT / 'simclr_jax/cards/measured').glob('*.json')):
    card = json.loads(path.read_text())
    file, _, preset = card['name'].partition(':')
    _, _, section = page.partition(f'### {file}:{preset}')
    section = section.partition('\n##')[0]
    assert f'{len(card["runs"])} runs on {card["hardware"]}' in section
    for run in card['runs']:
      for score in run['final'].values():
        assert f'{100 * score:.1f} %' in section
