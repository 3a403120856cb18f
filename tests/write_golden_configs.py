"""Rewrites tests/golden_configs: every preset, flattened, one field a line.

Run as `make golden-configs` after a recipe or a default was meant to change;
the diff then shows which hyper-parameter moved.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOLDEN = ROOT / 'tests' / 'golden_configs'


def load_config_file(path: pathlib.Path) -> Any:
  """The module of a config file, as the command line loads it: by path."""
  spec = importlib.util.spec_from_file_location(f'config_{path.stem}', path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def flatten(values: Any, prefix: str = 'config') -> list[str]:
  """Lines 'config.section.field = value', sorted."""
  lines: list[str] = []
  for name, value in sorted(values.items()):
    path = f'{prefix}.{name}'
    if hasattr(value, 'items'):
      lines += flatten(value, path)
    else:
      lines.append(f'{path} = {value!r}')
  return lines


def texts() -> dict[str, str]:
  """File name -> content, for every preset of every config file."""
  folder = ROOT / 'configs'
  return {
    '.'.join(
      (*path.relative_to(folder).with_suffix('').parts, preset, 'txt')
    ): ('\n'.join(flatten(module.get_config(preset))) + '\n')
    for path in sorted(folder.rglob('*.py'))
    for module in [load_config_file(path)]
    for preset in module.PRESETS
  }


def main() -> None:
  """Writes the files and removes those of presets that are gone."""
  GOLDEN.mkdir(exist_ok=True)
  wanted = texts()
  for old in GOLDEN.glob('*.txt'):
    if old.name not in wanted:
      old.unlink()
  for name, text in wanted.items():
    (GOLDEN / name).write_text(text)
  print(f'wrote {len(wanted)} files to {GOLDEN.relative_to(ROOT)}')


if __name__ == '__main__':
  sys.path.insert(0, str(ROOT))
  main()
