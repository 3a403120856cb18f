from __future__ import annotations

import dataclasses
import pathlib
import runpy

import pytest

from simclr_jax import config as config_lib
from simclr_jax.cards import card as card_lib
from tests import small_run

ROOT = pathlib.Path(__file__).parents[2]


def _config(name: str) -> config_lib.Config:
  file, _, preset = name.partition(':')
  functions = runpy.run_path(str(ROOT / file))
  values = functions['get_config'](*([preset] if preset else []))
  return config_lib.from_config_dict(values)


def test_a_card_is_read_as_it_was_written(tmp_path):
  run = card_lib.CardRun(0, [{'epoch': 1, 'contrast_loss': 5.0}], {})
  card = card_lib.Card(
    'x',
    config_lib.replace(small_run.CONFIG, knn={'ks': (3,)}),
    {'fingerprint': 'f'},
    'command',
    'hardware',
    {'jax': '0'},
    (run, dataclasses.replace(run, seed=1)),
  )
  card_lib.write(card, tmp_path / 'card.json')
  assert card_lib.load_all(tmp_path) == [card]


@pytest.mark.parametrize('text', ['', '[]', '{"name": "x"}', '{"runs": 3}'])
def test_what_is_no_card_is_refused(tmp_path, text):
  (tmp_path / 'card.json').write_text(text)
  with pytest.raises(ValueError, match=r'card\.json is no recipe card'):
    card_lib.load_all(tmp_path)


@pytest.mark.parametrize('card', card_lib.load_all(), ids=lambda c: c.name)
def test_measured_cards_are_of_the_recipes_they_name(card):
  config = _config(card.name)
  assert card_lib.differences(card.config, config) == []
  assert card_lib.judging_differences(card.config, config) == []
  assert len({run.seed for run in card.runs}) == len(card.runs) >= 2
  assert card.hardware and card.command


def test_published_numbers_are_of_the_recipes_they_name():
  published = card_lib.load_published()
  assert len(published) == 11
  for entry in published:
    assert config_lib.to_dict(entry.config) == config_lib.to_dict(
      _config(entry.name)
    )
