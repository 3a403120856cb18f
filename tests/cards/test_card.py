from __future__ import annotations

import dataclasses
import pathlib
import runpy

import pytest

from simclr_jax import config as config_lib
from simclr_jax.cards import card as card_lib
from simclr_jax.cards import check
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


def _without(card, run):
  others = tuple(r for r in card.runs if r is not run)
  return dataclasses.replace(card, runs=others)


@pytest.mark.parametrize('card', card_lib.load_all(), ids=lambda c: c.name)
def test_a_run_of_a_card_passes_beside_the_others(card):
  for run in card.runs:
    others = _without(card, run)
    if len(others.runs) > 1:
      points = check.compare(others, run.curve, run.final)
      assert len(points) > 10 and all(p.good for p in points), points


def _slower(row, before):
  return row | {k: v for k, v in before.items() if k != 'epoch'}


@pytest.mark.parametrize('card', card_lib.load_all(), ids=lambda c: c.name)
def test_a_card_finds_what_it_should(card):
  """A run that learns half as fast, and one that ends a little worse."""
  run = card.runs[-1]
  others = _without(card, run)
  if len(others.runs) < 2:
    others = card
  half = [_slower(row, run.curve[i // 2]) for i, row in enumerate(run.curve)]
  assert not all(p.good for p in check.compare(others, half, {}))
  worse = [
    row | {'contrast_acc': 0.7 * row['contrast_acc']} for row in run.curve
  ]
  assert not all(p.good for p in check.compare(others, worse, {}))
  for name, value in run.final.items():
    (point,) = check.compare(others, [], {name: 0.8 * value})
    assert not point.good, (name, point)


def test_published_numbers_are_of_the_recipes_they_name():
  published = card_lib.load_published()
  assert len(published) == 11
  for entry in published:
    assert config_lib.to_dict(entry.config) == config_lib.to_dict(
      _config(entry.name)
    )
