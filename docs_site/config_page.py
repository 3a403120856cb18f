"""The page of all config fields: type, default and meaning, from the code."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import typing
from typing import Any

from simclr_jax import config as config_lib

_FIELD = re.compile(r'^    (\w[\w, ]*): ', re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Field:
  """One field of a config.

  Attributes:
    path: As on the command line, 'optim.base_lr'.
    type, default: As Python writes them.
    meaning: From the docstring, one paragraph.
  """

  path: str
  type: str
  default: str
  meaning: str


def meanings(cls: type) -> dict[str, str]:
  """Field -> its text in the docstring's `Attributes:`.

  Names that share an entry ('brightness, contrast: ...') share the text.
  """
  # Some lines are no field: what a field says may contain a colon.
  doc = textwrap.indent(inspect.getdoc(cls) or '', '  ')
  _, _, attributes = doc.partition('  Attributes:\n')
  pieces = _FIELD.split(attributes)
  found = {}
  for names, meaning in zip(pieces[1::2], pieces[2::2], strict=True):
    for name in names.split(', '):
      found[name] = ' '.join(meaning.split())
  return found


def fields(
  cls: type = config_lib.Config, where: str = '', *, values: Any = None
) -> list[Field]:
  """Every field below `cls`, in the order of the schema.

  Args:
    cls: A dataclass.
    where: In front of the paths.
    values: The defaults; default: `cls()`.

  Raises:
    ValueError: If a field is not explained, or an explanation has no field.
  """
  # What a schema inherits is explained where it is declared.
  said = {}
  for declared in reversed(cls.__mro__):
    if dataclasses.is_dataclass(declared):
      said |= meanings(declared)
  hints = typing.get_type_hints(cls)
  values = cls() if values is None else values
  found = []
  for field in dataclasses.fields(cls):
    hint = hints[field.name]
    if dataclasses.is_dataclass(hint):
      found += fields(
        typing.cast(type, hint),
        f'{where}{field.name}.',
        values=getattr(values, field.name),
      )
      continue
    if field.name not in said:
      raise ValueError(f'{cls.__name__}.{field.name} is not explained')
    found.append(
      Field(
        path=f'{where}{field.name}',
        type=hint.__name__ if isinstance(hint, type) else str(hint),
        default=repr(getattr(values, field.name)),
        meaning=said[field.name],
      )
    )
  if extra := set(said) - {f.name for f in dataclasses.fields(cls)}:
    raise ValueError(f'{cls.__name__} explains {sorted(extra)}, no field of it')
  return found


def page(title: str = 'Config', cls: type = config_lib.Config) -> str:
  """Markdown: every field of a schema."""
  lines = [
    f'# {title}',
    '',
    'Every field with its type, default and meaning, written from',
    f'`{cls.__module__}.{cls.__name__}` when this site was built. On the',
    "command line: `--config.optim.base_lr=0.3`, `--config.train.duration='200",
    "epochs'`; lists as `'(20,200)'`. A duration is `'100 epochs'`,",
    "`'5000 steps'` or `'1e6 examples'`.",
  ]
  section = None
  for field in fields(cls):
    name = field.path.rpartition('.')[0]
    if name != section:
      section = name
      lines += _section(name, cls)
    default = field.default.replace('|', '\\|')
    meaning = _escape(field.meaning)
    lines.append(
      f'| `{field.path}` | `{field.type}` | `{default}` | {meaning} |'
    )
  return '\n'.join(lines) + '\n'


def _section(name: str, cls: type) -> list[str]:
  if name:
    cls = typing.get_type_hints(cls)[name]
  summary = (inspect.getdoc(cls) or '').partition('\n  Attributes')[0]
  summary = summary.partition('\nAttributes')[0].strip()
  return [
    '',
    f'## {name or "The run"}',
    '',
    summary,
    '',
    '| field | type | default | meaning |',
    '|---|---|---|---|',
  ]


def _escape(text: str) -> str:
  """Markdown that shows `text`, in a cell of a table; code stays code."""
  pieces = re.split(r'(`[^`]*`)', text)
  for i in range(0, len(pieces), 2):
    pieces[i] = re.sub(r'([|*<_\[\]])', r'\\\1', pieces[i])
  return ''.join(pieces)
