"""A card of finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

from simclr_jax import config as config_lib
from simclr_jax.cards import card as card_lib
from simclr_jax.cards import check
from simclr_jax.training import checkpoint
from simclr_jax.training import metrics as metrics_lib

_PACKAGES = ('simclr_jax', 'jax', 'flax')
_DATA = ('name', 'fingerprint', 'num_examples')


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
  folders: Sequence[pathlib.Path], *, name: str, command: str, hardware: str
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
    software={k: packages[k] for k in _PACKAGES if k in packages},
    runs=runs,
  )


def _anywhere(config: config_lib.Config) -> config_lib.Config:
  """Without the places of somebody's disk, which are no part of a recipe."""
  return config_lib.replace(config, data={'data_dir': ''})
