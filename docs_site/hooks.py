"""MkDocs hooks: pages that the code writes, the navigation, and a last check.

The start page is README.md. Guides are found, so that a new one needs no line
here; so are the modules of the reference.
"""

from __future__ import annotations

import pathlib
import re
import sys
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from docs_site import (  # noqa: E402
  api_pages,
  commands_page,
  config_page,
  recipes_page,
)
from simclr_jax.finetuning import config as finetuning_config  # noqa: E402

# The rest of docs/guides follows in the order of names.
_FIRST_GUIDES = ('own_pictures', 'few_labels', 'product_search')
# What a page would fetch when it is opened; links that are followed are none.
_FETCHED = re.compile(
  r'<(?:script|img|iframe|source|link)\b[^>]*?'
  r'(?:src|href)\s*=\s*["\']?(?:https?:)?//[^"\'\s>]*[^>]*>',
  re.IGNORECASE,
)
_HARMLESS = ('rel="canonical"', 'rel=canonical')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
  """Puts guides and reference into the navigation."""
  docs = pathlib.Path(config.docs_dir)
  guides = sorted(
    (path.stem for path in (docs / 'guides').glob('*.md')), key=_guide_order
  )
  nav: list[Any] = list(config.nav or [])
  for item in nav:
    if 'Guides' in item:
      item['Guides'] = [f'guides/{name}.md' for name in guides]
    if 'Reference' in item:
      item['Reference'] += [f'reference/{name}' for name in api_pages.pages()]
  config.nav = nav
  return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds the start page and the reference."""
  for name, text in generated_pages().items():
    files.append(File.generated(config, name, content=text))
  return files


def generated_pages() -> dict[str, str]:
  """Pages that are in no folder: name below docs/ -> Markdown."""
  return {
    'index.md': from_readme((ROOT / 'README.md').read_text()),
    'reference/config.md': config_page.page(),
    'reference/config_finetune.md': config_page.page(
      'Config of fine-tuning', finetuning_config.FinetuneConfig
    ),
    'reference/config_distill.md': config_page.page(
      'Config of distillation', finetuning_config.DistillConfig
    ),
    **{f'reference/{name}': text for name, text in api_pages.pages().items()},
  }


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
  """Completes the pages of which the code writes the rest."""
  markdown = markdown.replace('](../README.md', '](index.md')
  if page.file.src_uri == 'commands.md':
    return commands_page.page(markdown, commands_page.listing())
  if page.file.src_uri == 'recipes.md':
    return recipes_page.page(markdown)
  return markdown


def on_post_build(config: MkDocsConfig) -> None:
  """Raises if a page would fetch something from the network."""
  for path in sorted(pathlib.Path(config.site_dir).rglob('*.html')):
    for match in _FETCHED.finditer(path.read_text()):
      if not any(mark in match.group() for mark in _HARMLESS):
        raise PluginError(f'{path} would fetch {match.group()}')


def from_readme(text: str) -> str:
  """README.md as a page of docs/: its links begin there."""
  return re.sub(r'\]\(docs/', '](', text)


def _guide_order(name: str) -> tuple[int, str]:
  known = name in _FIRST_GUIDES
  return (_FIRST_GUIDES.index(name) if known else len(_FIRST_GUIDES)), name
