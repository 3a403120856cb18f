"""Flags of commands, any of which one program may import together.

absl keeps all flags of a process in one registry and refuses a name that is
there. Here a name of several commands belongs to the module that was run or
imported last, and one that the importing program has defined for itself stays
the program's. Importing a command reads no argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import sys
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_flags

from simclr_jax import paths

# absl would take this module for the one that defines them.
flags.disclaim_key_flags()

# By section: defines its flag for a command line.
_SECTIONS: dict[str, Callable[[Sequence[str]], None]] = {}


def at_parse(section: str, define: Callable[[Sequence[str]], None]) -> None:
  """Has a section of flags defined once a command line is there.

  Args:
    section: `--<section>.<field>`.
    define: Called with the command line; what ml_collections defines depends
      on the fields that are given.
  """
  _SECTIONS[section] = define


def define_sections(argv: Sequence[str]) -> None:
  """Defines what waits for a command line, as flags of what runs.

  Raises:
    ValueError: If the command line has a field that a section lacks.
  """
  values = flags.FLAGS
  for section, define in _SECTIONS.items():
    if section in values and values[section].allow_override:
      # Of a command line before this one, with the fields that it gave.
      for name in [n for n in values if n.split('.')[0] == section]:
        delattr(values, name)
    define(argv)
    values[section].allow_override = True
    values.register_key_flag_for_module(sys.argv[0], values[section])


def _define(
  kind: Callable[..., Any], name: str, *rest: Any, **more: Any
) -> Any:
  values = flags.FLAGS
  if name in values and not values[name].allow_override:
    values = flags.FlagValues()  # Read by nobody: the name is not ours.
  elif name in values:
    delattr(values, name)
  more |= {'flag_values': values, 'allow_override': True}
  return kind(name, *rest, **more)


class _PathParser(flags.ArgumentParser):
  """Reads a path, see `paths.read`."""

  def __init__(self, *, remote: bool):
    super().__init__()
    self._remote = remote

  def parse(self, argument: str) -> str:
    """The path."""
    return paths.read(argument, remote=self._remote)


def _define_path(
  name: str, default: str | None, help: str, *, remote: bool
) -> Any:
  parser = _PathParser(remote=remote)

  def kind(name: str, *rest: Any, **more: Any) -> Any:
    return flags.DEFINE(parser, name, *rest, **more)

  return _define(kind, name, default, help)


if TYPE_CHECKING:
  from absl.flags import DEFINE_bool as DEFINE_bool
  from absl.flags import DEFINE_enum as DEFINE_enum
  from absl.flags import DEFINE_float as DEFINE_float
  from absl.flags import DEFINE_integer as DEFINE_integer
  from absl.flags import DEFINE_list as DEFINE_list
  from absl.flags import DEFINE_string as DEFINE_string

  DEFINE_path = DEFINE_address = flags.DEFINE_string
  DEFINE_config_file = config_flags.DEFINE_config_file
else:
  DEFINE_bool = functools.partial(_define, flags.DEFINE_bool)
  DEFINE_enum = functools.partial(_define, flags.DEFINE_enum)
  DEFINE_float = functools.partial(_define, flags.DEFINE_float)
  DEFINE_integer = functools.partial(_define, flags.DEFINE_integer)
  DEFINE_list = functools.partial(_define, flags.DEFINE_list)
  DEFINE_string = functools.partial(_define, flags.DEFINE_string)
  DEFINE_config_file = functools.partial(
    _define, config_flags.DEFINE_config_file
  )

  DEFINE_path = functools.partial(_define_path, remote=False)
  DEFINE_address = functools.partial(_define_path, remote=True)


def check_empty() -> None:
  """Raises ValueError where a path that has no default is given as ''."""
  for name in flags.FLAGS:
    flag = flags.FLAGS[name]
    # As of `--workdir=$UNSET`, which would be the current folder.
    if isinstance(flag.parser, _PathParser) and (flag.default, flag.value) == (
      None,
      '',
    ):
      raise ValueError(f'--{name}= is empty; it must name a path')
