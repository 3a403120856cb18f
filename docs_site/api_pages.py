"""One page for each folder of the package, from the docstrings."""

from __future__ import annotations

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'simclr_jax'


def pages() -> dict[str, str]:
  """Name of a page below reference/ -> Markdown that mkdocstrings fills."""
  root = sorted(p for p in PACKAGE.glob('*.py') if not p.stem.startswith('__'))
  found = {'simclr_jax.md': _page('simclr_jax', root)}
  for folder in sorted(p.parent for p in PACKAGE.glob('*/__init__.py')):
    files = sorted(p for p in folder.rglob('*.py') if _says_something(p))
    found[f'{folder.name}.md'] = _page(f'simclr_jax.{folder.name}', files)
  return found


def _page(title: str, files: list[pathlib.Path]) -> str:
  lines = [f'# {title}', '']
  for path in files:
    parts = path.relative_to(ROOT).with_suffix('').parts
    name = '.'.join(p for p in parts if p != '__init__')
    lines += [f'::: {name}', '']
  return '\n'.join(lines)


def _says_something(path: pathlib.Path) -> bool:
  return bool(ast.get_docstring(ast.parse(path.read_text())))
