"""What `--help` prints: the command's own flags, grouped, and its exit codes.

absl's help lists the flags of every library that was imported; a person wants
to know what this command does and takes. The text is the command's docstring
and its flags, for commands that read them by absl (`flag_errors.parse`) and by
argparse (`command_parser`) alike. `--helpfull` shows everything, `--helpjson`
the same flags for programs: completion, documentation, tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import re
import sys
import textwrap
from typing import Any

from absl import flags

from simclr_jax import config as config_lib

WIDTH = 80
OWN_GROUP = 'Flags'
# Where flags that several commands share are defined; other modules give the
# first line of their docstring.
GROUPS = {
  'simclr_jax.evaluation.command_line': 'What is judged',
  'simclr_jax.finetuning.command_line': 'What is trained, and from what',
  'simclr_jax.section_flags': "Changes to the passport's config",
  'simclr_jax.multi_process': 'Several processes (docs/running.md)',
}
_VERBOSITY = '1 shows where an error happened, and what the libraries log.'
REQUIRED = 'must have a value other than None'
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
  asked = asked_for(argv)
  if not asked:
    return
  if asked == 'helpfull':
    print(f'{main_doc()}\n{flags.FLAGS.get_help()}')
  else:
    show(asked, absl_flags(schema))
  sys.exit(0)


def text(doc: str, known: Sequence[Flag]) -> str:
  """The help of a command.

  Args:
    doc: Its docstring: what it does, examples, exit codes.
    known: Its flags, those of a group one behind the other.
  """
  lines = [unjoined(doc.strip())]
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


def unjoined(doc: str) -> str:
  """Text with its commands broken where a docstring's backslash joined them."""
  return re.sub(r'(?<=\S) {3,}(?=--)', ' \\\\\n    ', doc)


def config_fields(schema: type = config_lib.Config) -> list[str]:
  """'optim.base_lr' and so on: every field of a config."""

  def walk(values: dict[str, Any], where: str) -> Iterable[str]:
    for name, value in values.items():
      if isinstance(value, dict):
        yield from walk(value, f'{where}{name}.')
      else:
        yield f'{where}{name}'

  return list(walk(config_lib.to_dict(schema()), ''))


def asked_for(argv: Sequence[str]) -> str:
  """'help', 'helpfull' or 'helpjson' if one is; else ''."""
  for argument in argv[1:]:
    if argument == '--':
      return ''
    name = argument.lstrip('-') if argument.startswith('-') else ''
    if name in _HELP:
      return 'help'
    if name in ('helpfull', 'helpjson'):
      return name
  return ''


def show(asked: str, known: Sequence[Flag]) -> None:
  """Prints the help of the running command.

  Args:
    asked: As of `asked_for`.
    known: Its flags.
  """
  doc = main_doc()
  if asked == 'helpjson':
    print(
      json.dumps(
        {'doc': doc, 'flags': [dataclasses.asdict(flag) for flag in known]}
      )
    )
  else:
    print(text(doc, known))


def main_doc() -> str:
  """The docstring of the running command."""
  return str(sys.modules['__main__'].__doc__ or '').strip()


def absl_flags(schema: type) -> list[Flag]:
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
    if flag.name == 'config':
      fields: Mapping[str, Any] = dict.fromkeys(config_fields(schema), '')
      known += _section_fields(flag, fields, schema)
    else:
      # A section of the passport, whatever the command's own schema.
      fields = values[flag.name].value or {}
      known += _section_fields(flag, fields, config_lib.Config)
  known.sort(
    key=lambda flag: groups.index(flag.group) if flag.group in groups else 99
  )
  return known + [
    Flag(name='verbosity', group='General', kind='int', help=_VERBOSITY)
  ]


def _section_fields(
  flag: Flag, fields: Mapping[str, Any], schema: type
) -> list[Flag]:
  return [
    Flag(
      name=f'{flag.name}.{name}',
      group=flag.group,
      default=str(default),
      help=_explained(schema),
    )
    for name, default in fields.items()
  ]


def _explained(schema: type) -> str:
  """Where the fields of a schema are: its page of the site, and its code."""
  kind = schema.__name__.removesuffix('Config').lower()
  page = f'docs/reference/config_{kind}' if kind else 'docs/reference/config'
  code = schema.__module__.replace('.', '/')
  return f'Explained in {page} (make docs) and {code}.py.'


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
    required=any(REQUIRED in str(v.message) for v in flag.validators),
    # absl puts the values of an enum before its help.
    help=re.sub(r'^<[^>]*>: ', '', ' '.join(str(flag.help).split())),
  )


def _fields(flag: Flag, known: Sequence[Flag]) -> list[Flag]:
  """Fields that stand behind a dot of this flag, without what is before it."""
  prefix = f'{flag.name}.'
  return [
    dataclasses.replace(f, name=f.name.removeprefix(prefix))
    for f in known
    if f.name.startswith(prefix)
  ]


def _entry(flag: Flag, *, fields: Sequence[Flag]) -> list[str]:
  if flag.kind == 'bool':
    head = f'--[no]{flag.name}'
  elif flag.choices and len('|'.join(flag.choices)) < 40:
    # One that is empty stands for the default, which the help explains.
    head = f'--{flag.name}={"|".join(filter(None, flag.choices))}'
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
  if flag.name == 'config' and fields:
    names = [field.name for field in fields]
    sections = dict.fromkeys(n.partition('.')[0] for n in names if '.' in n)
    single = [name for name in names if '.' not in name]
    lines += [
      '  --config.SECTION.FIELD=...',
      *_wrapped(
        f'Changes a field; sections: {", ".join(sections)}. {fields[0].help}',
        indent=6,
      ),
      '  --config.FIELD=...',
      *_wrapped(f'Fields in no section: {", ".join(single)}.', indent=6),
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
