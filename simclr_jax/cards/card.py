"""Recipe cards: files of what runs of one recipe gave, found by the recipe.

A card holds the runs themselves (loss and accuracy by epoch, for each seed), so
that whoever doubts an expectation can see what it was made from. Cards lie
beside this file in measured/; `benchmarks/recipe_card.py` writes them from
finished runs. published.json holds what others report for recipes that nobody
has measured here; it is shown, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from simclr_jax import config as config_lib
from simclr_jax.training import passport as passport_lib

FOLDER = pathlib.Path(__file__).parent / 'measured'
PUBLISHED = pathlib.Path(__file__).parent / 'published.json'
# Besides what may change when a run is resumed: the seed, whose spread is what
# a card states, and who makes the views, which are equal up to rounding.
_NEUTRAL = ('seed', 'data.augment_on', 'data.canvas_size')
# What kNN and probe figures depend on beyond the encoder.
_JUDGES = ('data.test_split', 'monitor.knn_max_bank', 'eval', 'knn', 'probe')


@dataclasses.dataclass(frozen=True)
class CardRun:
  """One run of a recipe.

  Attributes:
    seed: Of its config.
    curve: From `curve.make_curve(average=True)`.
    final: 'knn_top1', 'linear_top1' of the last checkpoint, as far as measured.
  """

  seed: int
  curve: Sequence[Mapping[str, Any]]
  final: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Card:
  """What is known of a recipe.

  Attributes:
    name: As on a command line, 'configs/smoke.py'.
    config: Of the recipe.
    data: 'name', 'fingerprint' and 'num_examples' of the training split.
    command, hardware, software: What measured it.
    runs: At least two, with different seeds.
  """

  name: str
  config: config_lib.Config
  data: Mapping[str, Any]
  command: str
  hardware: str
  software: Mapping[str, str]
  runs: tuple[CardRun, ...]


@dataclasses.dataclass(frozen=True)
class Published:
  """What others report.

  Attributes:
    name: As on a command line.
    config: Of the recipe.
    text: Numbers and source.
  """

  name: str
  config: config_lib.Config
  text: str


def load_all(folder: pathlib.Path = FOLDER) -> list[Card]:
  """All measured cards."""
  return [read(path) for path in sorted(folder.glob('*.json'))]


def read(path: pathlib.Path) -> Card:
  """One card.

  Raises:
    ValueError: If the file is no card that this version can read.
  """
  try:
    values = json.loads(path.read_text())
    return Card(
      name=values['name'],
      config=config_lib.from_config_dict(values['config']),
      data=values['data'],
      command=values['command'],
      hardware=values['hardware'],
      software=values['software'],
      runs=tuple(CardRun(**run) for run in values['runs']),
    )
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{path} is no recipe card: {error!r}') from error


def write(card: Card, path: pathlib.Path) -> None:
  """The card as a file, with the whole recipe."""
  values = dataclasses.asdict(card)
  values['config'] = config_lib.to_dict(card.config)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(values, indent=1) + '\n')


def load_published(path: pathlib.Path = PUBLISHED) -> list[Published]:
  """What others report, of the recipes in configs/."""
  return [
    Published(
      name=entry['name'],
      config=config_lib.from_config_dict(entry['config']),
      text=entry['text'],
    )
    for entry in json.loads(path.read_text())
  ]


def differences(one: config_lib.Config, other: config_lib.Config) -> list[str]:
  """Fields in which two runs are of different recipes, as in a passport."""
  return [
    d
    for d in passport_lib.differences(one, other)
    if not passport_lib.is_harmless(d) and _field(d) not in _NEUTRAL
  ]


def judging_differences(
  one: config_lib.Config, other: config_lib.Config
) -> list[str]:
  """Fields that make kNN and probe of two runs incomparable."""
  return [
    d
    for d in passport_lib.differences(one, other)
    if _field(d) in _JUDGES or _field(d).split('.')[0] in _JUDGES
  ]


def _field(difference: str) -> str:
  return difference.split(':', 1)[0]
