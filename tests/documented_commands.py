"""Whether a documented command line would be accepted by the real command."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
import difflib
import importlib.util
import pathlib
import re
import tomllib
from typing import Any

from simclr_jax import commands
from simclr_jax import config as config_lib
from simclr_jax.finetuning import config as finetuning_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
_PLACEHOLDER = re.compile(r'[A-Z_]+|\.\.\.')
_ON_AN_INDEX = re.compile(r'simclr[_-]jax\[[\w, -]+\]')
_REDIRECTIONS = ('>', '>>')
Listing = Mapping[str, Mapping[str, Any]]
# Of the commands whose configs are of this package.
READERS: Mapping[str, Callable[[Any], Any]] = {
  'main': config_lib.from_config_dict,
  'plan': config_lib.from_config_dict,
  'prepare': config_lib.from_config_dict,
  'finetune': finetuning_config.read_finetune,
  'label_efficiency': finetuning_config.read_finetune,
  'distill': finetuning_config.read_distill,
}


def problem(words: Sequence[str], listing: Listing) -> str | None:
  """What is wrong with a command line.

  Args:
    words: Of the line.
    listing: As of `simclr_jax.completion.list_commands`.

  Returns:
    '' if nothing is; None if it is no command of this repository.
  """
  program, *rest = words
  if pathlib.Path(program).name in ('python', 'python3') and rest[:1] == ['-m']:
    return _module(rest[1], rest[2:], listing)
  if program == 'simclr-jax':
    return _script(rest, listing)
  if program == 'make':
    targets = (ROOT / 'Makefile').read_text()
    unknown = [t for t in rest if f'\n{t}:' not in targets]
    return f'make knows no {unknown}' if unknown else ''
  if pathlib.Path(program).name == 'pip' and rest[:1] == ['install']:
    return _install(rest[1:])
  if program.startswith('launch/'):
    return _launcher(ROOT / program, rest, listing)
  return None


def unknown_extras(text: str) -> list[str]:
  """What is wrong with the extras of every `'.[...]'` in a text.

  Returns:
    Extras that pyproject.toml lacks, and `simclr_jax[...]` with or without
    them: the package is on no index, only a clone (`.`) can be installed.
  """
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  known = project['optional-dependencies']
  named = [
    extra.strip()
    for extras in re.findall(r"'\.\[([^\]]*)\]'", text)
    for extra in extras.split(',')
  ]
  return [e for e in named if e not in known] + _ON_AN_INDEX.findall(text)


def _install(words: Sequence[str]) -> str | None:
  """Of `pip install WORDS`; None for what is not this package."""
  if found := unknown_extras(' '.join(f"'{word}'" for word in words)):
    return f'pip cannot install {found}'
  ours = re.compile(r'\.(\[.*\])?')
  return '' if all(ours.fullmatch(word) for word in words) else None


def _script(words: Sequence[str], listing: Listing) -> str:
  for i, word in enumerate(words):
    if word in _REDIRECTIONS:
      words = words[:i]
      break
  name, *arguments = words
  if name == commands.COMPLETION:
    return '' if arguments in (['bash'], ['zsh']) else f'no shell {arguments}'
  try:
    command = commands.find(name)
  except ValueError as error:
    return str(error)
  return _flags(command.module, arguments, listing)


def _module(name: str, arguments: Sequence[str], listing: Listing) -> str:
  if name == 'simclr_jax':
    return _script(arguments, listing)
  package, _, module = name.partition('.')
  if package == 'simclr_jax':
    return _flags(module, arguments, listing)
  if name == 'launch.local':
    return _launcher(ROOT / 'launch/local.py', arguments, listing)
  path = ROOT / f'{name.replace(".", "/")}.py'
  return _mentions(path, arguments)


def _launcher(
  path: pathlib.Path, arguments: Sequence[str], listing: Listing
) -> str:
  """Options of the script before '--', flags of pretraining behind."""
  own, flags = list(arguments), None
  if '--' in own:
    at = own.index('--')
    own, flags = own[:at], own[at + 1 :]
  found = _mentions(path, own)
  return found or (_flags('main', flags, listing) if flags else '')


def _mentions(path: pathlib.Path, arguments: Sequence[str]) -> str:
  if not path.is_file():
    return f'{path.relative_to(ROOT)} does not exist'
  text = path.read_text()
  for folder in (path.parent / 'options.sh',):
    text += folder.read_text() if folder.is_file() else ''
  names = [a.partition('=')[0] for a in arguments if a.startswith('--')]
  unknown = [
    n for n in names if n not in text and f"'{n.lstrip('-')}'" not in text
  ]
  return f'{path.name} knows no {unknown}' if unknown else ''


def _flags(module: str, arguments: Sequence[str], listing: Listing) -> str:
  by_module = {found['module']: found for found in listing.values()}
  if module not in by_module:
    return f'simclr_jax.{module} is no command'
  known = {flag['name']: flag for flag in by_module[module]['flags']}
  given, overrides, config = set(), {}, ''
  for argument in arguments:
    if argument in ('--help', '--helpfull', '...'):
      return ''
    if not argument.startswith('--'):
      return f'{argument!r} is no flag'
    name, equals, value = argument[2:].partition('=')
    given.add(name)
    if name.startswith('config.') and 'config' in known:
      overrides[name.removeprefix('config.')] = value
      continue
    if name not in known and name.startswith('no'):
      name = name.removeprefix('no')
    if name not in known:
      close = difflib.get_close_matches(name, known, n=1)
      return f'simclr_jax.{module} has no flag --{name} (close: {close})'
    flag = known[name]
    if not equals and flag['kind'] != 'bool':
      return f'--{name} wants a value'
    if flag['choices'] and not _PLACEHOLDER.fullmatch(value):
      unknown = set(value.split(',')) - set(flag['choices'])
      if equals and unknown:
        return f'--{name}={value}: known are {flag["choices"]}'
    if name == 'config':
      config = value
  missing = [n for n, f in known.items() if f['required'] and n not in given]
  if missing:
    return f'simclr_jax.{module} wants {missing}'
  if 'config' not in given:
    return ''
  fields = {n.removeprefix('config.') for n in known if n.startswith('config.')}
  if unknown := set(overrides) - fields:
    return f'unknown fields {sorted(unknown)}'
  return _config(config, overrides, READERS.get(module))


def _config(
  value: str,
  overrides: Mapping[str, str],
  read_fn: Callable[[Any], Any] | None,
) -> str:
  """Whether file and preset exist and the values fit together."""
  name, _, preset = value.partition(':')
  if _PLACEHOLDER.fullmatch(name):
    return ''
  path = ROOT / name
  if not path.is_file():
    return f'{name} does not exist'
  spec = importlib.util.spec_from_file_location(path.stem, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  try:
    values = module.get_config(*([preset] if preset else [])).to_dict()
    for field, text in overrides.items():
      *sections, last = field.split('.')
      at = values
      for section in sections:
        at = at[section]
      at[last] = text if isinstance(at[last], str) else ast.literal_eval(text)
    if read_fn is not None:
      read_fn(values)
  except (ValueError, KeyError, SyntaxError) as error:
    return f'{value}: {error!r}'
  return ''
