"""Flags `--<section>.<field>=value`, which replace fields of a passport.

Every command that reads the data of a run takes `--data.path` and its sisters:
images may have been moved, or other ones are meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import re
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from simclr_jax import command_flags
from simclr_jax import config as config_lib

# Fields of `data` that mean something else with another kind of source.
OF_A_SOURCE = (
  'name',
  'path',
  'labels_from',
  'image_key',
  'label_key',
  'train_split',
  'test_split',
)


def define(name: str) -> None:
  """Defines the flags of a section of the config."""
  command_flags.at_parse(name, functools.partial(_define, name))


def _define(name: str, argv: Sequence[str]) -> None:
  section = getattr(config_lib.Config(), name)
  fields = ', '.join(f.name for f in dataclasses.fields(section))
  try:
    config_flags.DEFINE_config_dict(
      name,
      ml_collections.ConfigDict(config_lib.to_dict(section)),
      help_string=(
        f'Change a field, e.g. --{name}.{fields.split(",")[0]}=...; the rest '
        f"is as in the checkpoint's passport. Fields: {fields}."
      ),
      sys_argv=list(argv),
    )
  except AttributeError as error:
    # It knows no other way to say that a field is unknown.
    reason = ' '.join(str(error).replace('\\n', ' ').split())
    reason = reason.strip('"\'').replace("\\'", "'")
    raise ValueError(
      f'--{name} has no field {reason}; fields: {fields}'
    ) from error


def given(sections: Sequence[str]) -> dict[str, dict[str, Any]]:
  """The fields given on the command line, by section."""
  found = {
    name: config_flags.get_override_values(flags.FLAGS[name])
    for name in sections
    if name in flags.FLAGS
  }
  return {name: dict(fields) for name, fields in found.items() if fields}


def apply(
  config: config_lib.Config, changes: Mapping[str, Mapping[str, Any]]
) -> config_lib.Config:
  """`config` with fields of sections changed, checked.

  Another `data.source` than that of the config starts from the defaults of the
  fields that mean something else with it.
  """
  sections = {name: dict(fields) for name, fields in changes.items()}
  source = sections.get('data', {}).get('source', config.data.source)
  if source != config.data.source:
    fresh = config_lib.DataConfig()
    defaults = {name: getattr(fresh, name) for name in OF_A_SOURCE}
    sections['data'] = {**defaults, **sections['data']}
  return config_lib.replace(config, **sections)


@contextlib.contextmanager
def named(prefix: str) -> Iterator[None]:
  """Has errors about `config.data` name the flags of the command.

  Args:
    prefix: '--data' or '--config.data'.
  """
  try:
    yield
  except ValueError as error:
    text = re.sub(r'(?<!-)\bconfig\.data\b', prefix, str(error))
    error.args = (text, *error.args[1:])
    raise
