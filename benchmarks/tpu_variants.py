"""The configs that `benchmarks/tpu.py` compiles beside each other."""

from __future__ import annotations

import json
from typing import Any

import ml_collections

from simclr_jax import config as config_lib

PLAIN = 'config.model.batch_norm=plain config.model.remat=none'


def apply_option(
  values: ml_collections.ConfigDict, option: str
) -> config_lib.Config:
  """The config with 'config.a.b=value [config.c=value]' on top.

  Raises:
    ValueError: If a setting is malformed, or the config refuses it.
  """
  changed = values.to_dict()
  for setting in option.split():
    path, equals, text = setting.partition('=')
    if not equals or not path.startswith('config.'):
      raise ValueError(
        f"--option: {setting!r} is not of the form 'config.section.field=value'"
      )
    *sections, field = path.removeprefix('config.').split('.')
    section: Any = changed
    for name in sections:
      section = section.get(name)
      if not isinstance(section, dict):
        raise ValueError(f'--option: {path}: there is no section {name!r}')
    section[field] = _parse(text)
  return config_lib.from_config_dict(changed)


def _parse(text: str) -> Any:
  """A number, bool or list as in JSON, else the text itself."""
  try:
    return json.loads(text.lower() if text in ('True', 'False') else text)
  except json.JSONDecodeError:
    return text


def variants(
  values: ml_collections.ConfigDict,
  options: list[str],
  *,
  plain: bool,
  as_is: bool = True,
) -> dict[str, config_lib.Config]:
  """{name of the row: config}, all of them checked before any compiles."""
  rows = {'plain': apply_option(values, PLAIN)} if plain else {}
  if as_is:
    rows['config'] = apply_option(values, '')
  rows |= {option: apply_option(values, option) for option in options}
  return rows
