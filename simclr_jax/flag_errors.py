"""Runs a command whose flags are absl's, and refuses a wrong one in one line.

absl prints a traceback where a config file raises, and an unknown field or a
missing file surfaces pages later; a person who has mistyped something wants the
place of it. `run(main, required=[...])` in a command's `__main__` block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import difflib
import functools
import os
import re
import sys
import traceback
import typing
from typing import NoReturn

from absl import app, flags
import ml_collections

from simclr_jax import (
  command_flags,
  command_help,
  console,
  flag_hints,
  flag_spelling,
  paths,
)
from simclr_jax import config as config_lib

_CONFIG = 'config'


def run(
  main: Callable[[list[str]], int],
  *,
  required: Sequence[str],
  schema: type = config_lib.Config,
) -> NoReturn:
  """Reads the command line, runs a command and ends the process.

  Args:
    main: The command, called with what is left of the command line.
    required: Flags without which it does not start.
    schema: Dataclass that names the fields of `--config`.
  """
  flags.mark_flags_as_required(required)
  app.run(
    lambda argv: console.leave(lambda: main(argv)),
    flags_parser=functools.partial(parse, schema=schema),
  )
  raise AssertionError('app.run never returns')


def parse(
  argv: Sequence[str], *, schema: type = config_lib.Config
) -> list[str]:
  """Arguments that are no flags; exits with code 2 where a flag is wrong.

  `--help` is answered here. `--verbosity=1` shows where an error happened, here
  too.

  Args:
    argv: As `app.run` gives it.
    schema: Dataclass that names the fields of `--config`.
  """
  try:
    command_flags.define_sections(argv)
    command_help.answer(argv, schema=schema)
    return _parse(argv, schema)
  except (flags.Error, ValueError) as error:
    if any(a.lstrip('-') in ('verbosity=1', 'v=1') for a in argv):
      traceback.print_exception(error)
    print(f'error: {error}', file=sys.stderr, flush=True)
    sys.exit(console.EXIT_WRONG_INPUT)


def _parse(argv: Sequence[str], schema: type) -> list[str]:
  """As `parse`; raises instead of exiting.

  Raises:
    ValueError: If a config file cannot be used.
    flags.Error: If another flag is wrong.
  """
  path = ''
  argv = flag_spelling.underscored(argv, set(flags.FLAGS))
  if has_config := _CONFIG in flags.FLAGS:
    argv, path = _with_config_path(argv)
    _check_file(path)
    _check_fields(argv, schema)
  try:
    rest: list[str] = flags.FLAGS(list(argv))
  except Exception as error:
    # A config file is a program and may raise anything; what it did not raise
    # is absl's own, and says what is wrong.
    raised = _raised_in(path, error)
    if path and raised is None and f'--{_CONFIG}=None' in str(error):
      raised = f'--config={path}: get_config() returns nothing'
    if raised is None and isinstance(error, flags.Error):
      if hint := _hint(error, schema):
        raise ValueError(hint) from error
      raise
    raise ValueError(raised or _describe(error)) from error
  if has_config:
    _check_value(path, flags.FLAGS[_CONFIG].value)
  command_flags.check_empty()
  return rest


def _hint(error: flags.Error, schema: type) -> str:
  """What to type where a name is unknown or a flag is missing; else ''."""
  known = command_help.absl_flags(schema)
  names = [flag.name for flag in known]
  if section := re.search(r'--(\w+)=(.*): Overriding \1 is not', str(error)):
    name, value = section.groups()
    fields = command_help.config_fields()
    fields = [field for field in fields if field.startswith(f'{name}.')]
    meant = flag_hints.suggest(name, fields, value=value) or fields
    example = f'--{meant[0].lstrip("-")}'
    return f'--{name} is a section; give its fields, e.g. {example}'
  if isinstance(error, flags.UnrecognizedFlagError):
    # absl gives the whole argument as the value.
    _, _, value = str(error.flagvalue or '').partition('=')
    found = flag_hints.suggest(error.flagname, names, value=value)
    if not found:
      return ''
    return (
      f'--{error.flagname} is no flag of this command; did you mean '
      f'{" or ".join(found)}? (--help lists all)'
    )
  if command_help.REQUIRED not in str(error):
    return ''
  missing = [
    flag.name
    for flag in known
    if flag.required and flags.FLAGS[flag.name].value is None
  ]
  doc = command_help.main_doc()
  return (
    f'{", ".join(f"--{name}" for name in missing)} '
    f'{"is" if len(missing) == 1 else "are"} missing, e.g. '
    f'{flag_hints.example(doc, missing)} (--help has more)'
  )


def _with_config_path(argv: Sequence[str]) -> tuple[list[str], str]:
  """The command line with `--config` read as a path, and that of the last."""
  read, path = list(argv), ''
  for i, argument in enumerate(argv):
    name, equals, value = argument.lstrip('-').partition('=')
    if not argument.startswith('-') or name != _CONFIG:
      continue
    if equals:
      path = paths.read(value, remote=False)
      read[i] = f'--{name}={path}'
    elif i + 1 < len(argv):
      path = read[i + 1] = paths.read(argv[i + 1], remote=False)
  # As ml_collections divides it.
  return read, path.split(':', 1)[0]


def _check_file(path: str) -> None:
  if not path or os.path.isfile(path):
    return
  if os.path.isdir(path):
    raise ValueError(f'--config={path} is a folder; a config file is wanted')
  folder, name = os.path.split(path)
  # `--config=imagenet`, for configs/imagenet.py.
  name = name if name.endswith('.py') else f'{name}.py'
  for place in (folder, 'configs', 'configs/finetune', 'configs/distill'):
    meant = os.path.join(place, name)
    if os.path.isfile(meant):
      raise ValueError(
        f'--config={path} does not exist (did you mean {meant!r}?)'
      )
  hint = '; its folder does not exist either'
  if os.path.isdir(folder or '.'):
    close = difflib.get_close_matches(name, os.listdir(folder or '.'), n=1)
    found = [os.path.join(folder, c) for c in close]
    hint = f' (did you mean {found[0]!r}?)' if found else ''
  raise ValueError(f'--config={path} does not exist{hint}')


def _check_fields(argv: Sequence[str], schema: type) -> None:
  """Raises if an override names no field of the schema."""
  fields = [f'{_CONFIG}.{f}' for f in command_help.config_fields(schema)]
  for argument in argv:
    name = argument.lstrip('-').partition('=')[0]
    if argument.startswith('-') and name.startswith(f'{_CONFIG}.'):
      _check_field(name, schema, fields)


def _check_field(name: str, cls: type, fields: Sequence[str]) -> None:
  _, *parts = name.split('.')
  for i, part in enumerate(parts):
    where = '.'.join((_CONFIG, *parts[:i]))
    hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
    if not hints:
      raise ValueError(f'--{name}: {where} is a single value without fields')
    if part not in hints:
      close = difflib.get_close_matches(part, hints, n=1)
      if not close and (meant := flag_hints.suggest(name, fields)):
        close = [meant[0].removeprefix(f'--{where}.')]
      hint = f'did you mean {close[0]!r}?' if close else 'no name is close;'
      raise ValueError(
        f'--{name}: {where} has no field {part!r}; {hint} known: '
        f'{", ".join(hints)}'
      )
    cls = hints[part]
  if dataclasses.is_dataclass(cls):
    raise ValueError(
      f'--{name} is a section, which cannot be replaced whole; give its '
      f'fields, e.g. --{name}.{dataclasses.fields(cls)[0].name}=...'
    )


def _check_value(path: str, value: object) -> None:
  if isinstance(value, ml_collections.ConfigDict) or (not path and not value):
    return  # Commands that cannot do without have it marked as required.
  try:
    # What ml_collections makes of an OSError raises it at the first look.
    getattr(value, 'seed', None)
  except OSError as error:
    text = str(error).strip().splitlines()[-1]
    raise ValueError(f'--config={path}: {text}') from error
  raise ValueError(
    f'--config={path}: get_config() gives {type(value).__name__}, not an '
    'ml_collections.ConfigDict (simclr_jax.config.to_config_dict makes one)'
  )


def _raised_in(path: str, error: BaseException) -> str | None:
  """What the config file raised, and where; None if it raised nothing."""
  for cause in _causes(error):
    if isinstance(cause, SyntaxError) and _same(cause.filename, path):
      return f'{path}, line {cause.lineno}: {cause.msg}'
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(cause.__traceback__)
      if _same(frame.filename, path)
    ]
    if lines:
      return f'{path}, line {lines[-1]}: {_describe(cause)}'
    if isinstance(cause, AttributeError) and 'get_config' in str(cause):
      return f'{path} has no function get_config()'
    if isinstance(cause, TypeError) and 'get_config()' in str(cause):
      return f'{path}: {cause}; after the colon of --config comes a preset'
    if isinstance(cause, (SyntaxError, UnicodeDecodeError)):
      return f'{path} is no Python file: {cause}'
  return None


def _causes(error: BaseException) -> Iterator[BaseException]:
  """The error that was raised first, then those that came of it."""
  chain = [error]
  while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
    chain.append(before)
  yield from reversed(chain)


def _same(filename: str | None, path: str) -> bool:
  return bool(filename and path) and os.path.realpath(
    str(filename)
  ) == os.path.realpath(path)


def _describe(error: BaseException) -> str:
  if isinstance(error, ValueError):
    return str(error)
  return f'{type(error).__name__}: {" ".join(str(error).split())}'
