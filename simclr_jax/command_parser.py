"""argparse that looks and behaves like the commands whose flags are absl's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import sys
from typing import Any, NoReturn

from simclr_jax import command_help, console, flag_hints, flag_spelling
from simclr_jax import config as config_lib


class ArgumentParser(argparse.ArgumentParser):
  """argparse with the help, the errors and the switches of other commands."""

  def __init__(self) -> None:
    """Takes the text from the docstring of the command."""
    super().__init__(add_help=False, allow_abbrev=False)
    self.register('action', 'store_true', _Switch)

  def add_section(self, name: str) -> None:
    """Takes `--<name>.<field>=value` for a section of the config.

    The fields given are found in the namespace under `<name>.<field>`.
    """
    section = getattr(config_lib.Config(), name)
    for field in dataclasses.fields(section):
      self.add_argument(
        f'--{name}.{field.name}',
        type=type(getattr(section, field.name)),
        default=argparse.SUPPRESS,
        help="In the place of what the checkpoint's passport says.",
      )

  def parse_known_args(  # type: ignore[override]
    self, args: Sequence[str] | None = None, namespace: Any = None
  ) -> tuple[argparse.Namespace, list[str]]:
    """As argparse, once nobody asks for help."""
    given = list(sys.argv[1:] if args is None else args)
    if asked := command_help.asked_for(['', *given]):
      command_help.show(asked, known_flags(self._actions))
      self.exit()
    names = {name.lstrip('-') for name in self._option_string_actions}
    return super().parse_known_args(
      flag_spelling.underscored(given, names), namespace
    )

  def error(self, message: str) -> NoReturn:
    """One line on stderr, as everywhere."""
    _, unknown, rest = message.partition('unrecognized arguments: ')
    if unknown and rest.startswith('-'):
      name, _, value = rest.split(' ')[0].lstrip('-').partition('=')
      known = [flag.name for flag in known_flags(self._actions)]
      if meant := flag_hints.suggest(name, known, value=value):
        message += f'; did you mean {" or ".join(meant)}?'
    console.say(f'{message} (--help lists the flags)')
    self.exit(console.EXIT_WRONG_INPUT)


class _Switch(argparse.Action):
  """A switch that is off: `--name` and `--noname`, as absl has it."""

  def __init__(self, option_strings: Sequence[str], **settings: Any):
    """Both spellings."""
    names = [*option_strings]
    names += [f'--no{name.removeprefix("--")}' for name in option_strings]
    super().__init__(names, nargs=0, default=False, **settings)

  def __call__(
    self,
    parser: argparse.ArgumentParser,
    namespace: argparse.Namespace,
    values: Any,
    option_string: str | None = None,
  ) -> None:
    """The last one on the command line counts."""
    off = self.option_strings[len(self.option_strings) // 2 :]
    setattr(namespace, self.dest, option_string not in off)


def sections(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
  """The fields that `add_section` has found, by section."""
  found: dict[str, dict[str, Any]] = {}
  for name, value in vars(options).items():
    section, dot, field = name.partition('.')
    if dot:
      found.setdefault(section, {})[field] = value
  return found


def known_flags(
  actions: Sequence[argparse.Action],
) -> list[command_help.Flag]:
  """What the help says of each argument."""
  known = []
  for action in actions:
    names = [n for n in action.option_strings if n.startswith('--')]
    kind = getattr(action.type, '__name__', 'string')
    known.append(
      command_help.Flag(
        name=names[0].lstrip('-') if names else action.dest,
        kind='bool'
        if isinstance(action, _Switch)
        else kind
        if kind != 'str'
        else 'string',
        default=''
        if action.default in (None, False, argparse.SUPPRESS)
        else str(action.default),
        choices=tuple(map(str, action.choices or ())),
        required=action.required,
        help=' '.join((action.help or '').split()),
      )
    )
  return known
