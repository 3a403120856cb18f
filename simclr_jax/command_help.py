"""What `--help` prints: the command's own flags, grouped, and its exit codes.

absl's help lists the flags of every library that was imported; a person wants
to know what this command does and takes. The text is the command's docstring
and its flags, for commands that read them by absl (`flag_errors.parse`) and by
argparse (`ArgumentParser`) alike. `--helpfull` shows everything, `--helpjson`
the same flags for programs: completion, documentation, tests.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import re
import sys
import textwrap
from typing import Any, NoReturn

from absl import flags

from simclr_jax import config as config_lib
from simclr_jax import console

WIDTH = 80
OWN_GROUP = 'Flags'
# Where flags that several commands share are defined; other modules give the
# first line of their docstring.
GROUPS = {
  'simclr_jax.evaluation.command_line': 'What is judged',
  'simclr_jax.multi_process': 'Several processes (docs/running.md)',
}
_VERBOSITY = '1 shows where an error happened, and what the libraries log.'
_REQUIRED = 'must have a value other than None'
_HELP = ('help', 'h', '?', 'helpshort')
_METAVARS = {'int': 'N', 'integer': 'N', 'float': 'X', 'list': 'A,B'}


@dataclasses.dataclass(frozen=True)
class Flag:
  """A flag, whoever reads it.

  Attributes:
    name: Without dashes.
    group: Title above it.
    kind: 'string', 'int', 'float', 'bool', 'list', 'enum' or 'config'.
    default: As text; '' for none.
    choices: Allowed values; () for any.
    required: Whether the command refuses to start without it.
    help: One sentence or more.
  """

  name: str
  group: str = OWN_GROUP
  kind: str = 'string'
  default: str = ''
  choices: tuple[str, ...] = ()
  required: bool = False
  help: str = ''


def answer(argv: Sequence[str], *, schema: type = config_lib.Config) -> None:
  """Prints the help that an absl command is asked for, and exits with 0.

  Args:
    argv: As `app.run` gives it.
    schema: Dataclass that names the fields of `--config`.
  """
  asked = _asked(argv)
  if not asked:
    return
  if asked == 'helpfull':
    print(f'{_main_doc()}\n{flags.FLAGS.get_help()}')
  else:
    _print(asked, doc=_main_doc(), known=_absl_flags(schema))
  sys.exit(0)


class ArgumentParser(argparse.ArgumentParser):
  """argparse with the help and the errors of the other commands."""

  def __init__(self) -> None:
    """Takes the text from the docstring of the command."""
    super().__init__(add_help=False, allow_abbrev=False)

  def parse_known_args(  # type: ignore[override]
    self, args: Sequence[str] | None = None, namespace: Any = None
  ) -> tuple[argparse.Namespace, list[str]]:
    """As argparse, once nobody asks for help."""
    if asked := _asked(['', *(sys.argv[1:] if args is None else args)]):
      _print(asked, doc=_main_doc(), known=_argparse_flags(self._actions))
      self.exit()
    return super().parse_known_args(args, namespace)

  def error(self, message: str) -> NoReturn:
    """One line on stderr, as everywhere."""
    console.say(f'{message} (--help lists the flags)')
    self.exit(console.EXIT_WRONG_INPUT)


def text(doc: str, known: Sequence[Flag]) -> str:
  """The help of a command.

  Args:
    doc: Its docstring: what it does, examples, exit codes.
    known: Its flags, those of a group one behind the other.
  """
  # A backslash at the end of a docstring's line has joined it with the next.
  lines = [re.sub(r'(?<=\S) {3,}(?=--)', ' \\\\\n    ', doc.strip())]
  if 'exit code' not in ' '.join(doc.lower().split()):
    lines += ['', 'Exit codes: 0 done, 1 failed, 2 wrong input.']
  titles = list(dict.fromkeys(flag.group for flag in known))
  for title in titles:
    lines += ['', f'{title}:']
    group = [flag for flag in known if flag.group == title]
    for flag in group:
      if '.' not in flag.name:
        lines += _entry(flag, fields=_fields(flag, known))
  lines += [
    '',
    *_wrapped('--help shows this, --helpfull the flags of all libraries too.'),
  ]
  return '\n'.join(lines)


def config_fields(schema: type = config_lib.Config) -> list[str]:
  """'optim.base_lr' and so on: every field of a config."""

  def walk(values: dict[str, Any], where: str) -> Iterable[str]:
    for name, value in values.items():
      if isinstance(value, dict):
        yield from walk(value, f'{where}{name}.')
      else:
        yield f'{where}{name}'

  return list(walk(config_lib.to_dict(schema()), ''))


def _asked(argv: Sequence[str]) -> str:
  """'help', 'helpfull' or 'helpjson' if one is asked for; else ''."""
  for argument in argv[1:]:
    if argument == '--':
      return ''
    name = argument.lstrip('-') if argument.startswith('-') else ''
    if name in _HELP:
      return 'help'
    if name in ('helpfull', 'helpjson'):
      return name
  return ''


def _print(asked: str, *, doc: str, known: Sequence[Flag]) -> None:
  if asked == 'helpjson':
    print(
      json.dumps(
        {'doc': doc, 'flags': [dataclasses.asdict(flag) for flag in known]}
      )
    )
  else:
    print(text(doc, known))


def _main_doc() -> str:
  return str(sys.modules['__main__'].__doc__ or '').strip()


def _absl_flags(schema: type) -> list[Flag]:
  """Flags of the running command: own, adopted, and --verbosity."""
  values = flags.FLAGS
  # absl's name for what runs as __main__.
  module = sys.argv[0]
  own = {flag.name for flag in values.get_flags_for_module(module)}
  owners = {
    flag.name: name
    for name, defined in values.flags_by_module_dict().items()
    for flag in defined
  }
  known = [
    _from_absl(
      flag,
      OWN_GROUP if flag.name in own else _title(owners.get(flag.name, '')),
    )
    for flag in values.get_key_flags_for_module(module)
  ]
  groups = [OWN_GROUP, *GROUPS.values()]
  for flag in [f for f in known if f.kind == 'config']:
    if flag.name != 'config':
      known += _section_fields(flag, values[flag.name].value or {})
      continue
    fields = dict.fromkeys(config_fields(schema), '')
    known += _section_fields(flag, fields)
  known.sort(
    key=lambda flag: groups.index(flag.group) if flag.group in groups else 99
  )
  return known + [
    Flag(name='verbosity', group='General', kind='int', help=_VERBOSITY)
  ]


def _section_fields(flag: Flag, section: Mapping[str, Any]) -> list[Flag]:
  meaning = 'Field of the config (docs/reference/config).'
  return [
    Flag(
      name=f'{flag.name}.{name}',
      group=flag.group,
      default=str(default),
      help=meaning,
    )
    for name, default in section.items()
  ]


def _title(module: str) -> str:
  doc = str(getattr(sys.modules.get(module), '__doc__', '') or module)
  return GROUPS.get(module, doc.strip().splitlines()[0].rstrip('.'))


def _from_absl(flag: flags.Flag, group: str) -> Flag:
  kind = str(flag.flag_type())
  for long, short in (('string enum', 'enum'), ('comma', 'list')):
    if kind.startswith(long):
      kind = short
  is_config = 'config' in type(flag).__name__.lower()
  default = flag.default
  if default is None or is_config:
    default = ''
  elif isinstance(default, (list, tuple)):
    default = ','.join(map(str, default))
  return Flag(
    name=flag.name,
    group=group,
    kind='config' if is_config else kind,
    default=str(default),
    choices=tuple(getattr(flag.parser, 'enum_values', None) or ()),
    required=any(_REQUIRED in str(v.message) for v in flag.validators),
    # absl puts the values of an enum before its help.
    help=re.sub(r'^<[^>]*>: ', '', ' '.join(str(flag.help).split())),
  )


def _argparse_flags(actions: Sequence[argparse.Action]) -> list[Flag]:
  known = []
  for action in actions:
    names = [n for n in action.option_strings if n.startswith('--')]
    is_switch = action.nargs == 0 or isinstance(
      action, argparse.BooleanOptionalAction
    )
    kind = getattr(action.type, '__name__', 'string')
    known.append(
      Flag(
        name=names[0].lstrip('-') if names else action.dest,
        kind='bool' if is_switch else kind if kind != 'str' else 'string',
        default='' if action.default in (None, False) else str(action.default),
        choices=tuple(map(str, action.choices or ())),
        required=action.required,
        help=' '.join((action.help or '').split()),
      )
    )
  return known


def _fields(flag: Flag, known: Sequence[Flag]) -> list[str]:
  """Fields that stand behind a dot of this flag."""
  prefix = f'{flag.name}.'
  found = [
    f.name.removeprefix(prefix) for f in known if f.name.startswith(prefix)
  ]
  if flag.name == 'config':
    return list(dict.fromkeys(name.partition('.')[0] for name in found))
  return found


def _entry(flag: Flag, *, fields: Sequence[str]) -> list[str]:
  if flag.kind == 'bool':
    head = f'--[no]{flag.name}'
  elif flag.choices and len('|'.join(flag.choices)) < 40:
    head = f'--{flag.name}={"|".join(flag.choices)}'
  elif flag.kind == 'config' and flag.name != 'config':
    head = f'--{flag.name}.FIELD=...'
  else:
    head = f'--{flag.name}={_METAVARS.get(flag.kind, "...")}'
  if flag.required:
    head += '  (required)'
  elif flag.default not in ('', 'False', 'True'):
    head += f'  (default {flag.default})'
  elif flag.default == 'True':
    head += '  (default on)'
  lines = [f'  {head}', *_wrapped(flag.help, indent=6)]
  if flag.kind == 'config' and flag.name == 'config':
    lines += [
      '  --config.SECTION.FIELD=...',
      *_wrapped(
        f'Changes a field; sections: {", ".join(fields[2:])}. Every field is '
        'explained in docs/reference/config (make docs) and in '
        'simclr_jax/config.py.',
        indent=6,
      ),
    ]
  return lines


def _wrapped(sentence: str, indent: int = 0) -> list[str]:
  return textwrap.wrap(
    sentence,
    WIDTH,
    initial_indent=' ' * indent,
    subsequent_indent=' ' * indent,
    break_on_hyphens=False,
    break_long_words=False,
  )
