"""The page of recipes: each config's header, and what its presets change."""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import re
import types
from typing import Any

from simclr_jax import config as config_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]
_COMMAND = re.compile(r'^  ', re.MULTILINE)


def recipe_files() -> list[pathlib.Path]:
  """configs/*.py that have presets of whole runs."""
  return sorted(
    path
    for path in (ROOT / 'configs').rglob('*.py')
    if 'PRESETS' in path.read_text()
  )


def differences(config: Any) -> dict[str, Any]:
  """'optim.base_lr' -> value, where it is not the default of its class."""
  found: dict[str, Any] = {}

  def walk(values: dict[str, Any], defaults: dict[str, Any], at: str) -> None:
    for name, value in values.items():
      if isinstance(value, dict):
        walk(value, defaults[name], f'{at}{name}.')
      elif value != defaults[name]:
        found[f'{at}{name}'] = value

  walk(config_lib.to_dict(config), config_lib.to_dict(type(config)()), '')
  return found


def page(introduction: str) -> str:
  """Markdown: docs/recipes.md as written by hand, then each file."""
  lines = [introduction.rstrip()]
  for path in recipe_files():
    name = path.relative_to(ROOT).as_posix()
    module = _load(path)
    header = (ast.get_docstring(ast.parse(path.read_text())) or '').strip()
    lines += ['', f'## {name}', '', '```text', header, '```']
    for preset, config in module.PRESETS.items():
      lines += [
        '',
        f'### {name}:{preset}',
        '',
        'What differs from the [defaults](reference/config.md):',
        '',
        '| field | value |',
        '|---|---|',
        *(f'| `{f}` | `{v!r}` |' for f, v in differences(config).items()),
      ]
  return '\n'.join(lines) + '\n'


def _load(path: pathlib.Path) -> types.ModuleType:
  spec = importlib.util.spec_from_file_location(f'recipe_{path.stem}', path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
