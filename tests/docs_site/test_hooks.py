"""Navigation, start page and the check that nothing is fetched."""

from __future__ import annotations

import pathlib
import types

from mkdocs import exceptions
import pytest

from docs_site import api_pages, hooks

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_guides_are_found(tmp_path):
  (tmp_path / 'guides').mkdir()
  for name in ('tpu_pods', 'product_search', 'own_pictures'):
    (tmp_path / 'guides' / f'{name}.md').touch()
  config = types.SimpleNamespace(
    docs_dir=str(tmp_path),
    nav=[{'Guides': []}, {'Reference': ['reference/config.md']}],
  )
  hooks.on_config(config)
  assert config.nav[0]['Guides'] == [
    'guides/own_pictures.md',
    'guides/product_search.md',
    'guides/tpu_pods.md',
  ]
  assert 'reference/losses.md' in config.nav[1]['Reference']


def test_start_page_is_the_readme_with_its_links():
  page = hooks.from_readme('[a](docs/data.md) ![b](docs/images/n.png) [c](#x)')
  assert page == '[a](data.md) ![b](images/n.png) [c](#x)'
  assert '](docs/' not in hooks.from_readme((ROOT / 'README.md').read_text())


@pytest.mark.parametrize(
  'html',
  [
    '<script src="https://cdn.example.org/a.js"></script>',
    '<link rel="stylesheet" href="//fonts.example.org/css">',
    '<img alt="x" src=http://example.org/a.png>',
  ],
)
def test_what_would_be_fetched_is_refused(html, tmp_path):
  config = types.SimpleNamespace(site_dir=str(tmp_path))
  page = tmp_path / 'a.html'
  page.write_text('<a href="https://example.org">x</a><img src="a.png">')
  hooks.on_post_build(config)
  page.write_text(html)
  with pytest.raises(exceptions.PluginError, match='would fetch'):
    hooks.on_post_build(config)


def test_every_module_is_in_the_reference():
  pages = '\n'.join(api_pages.pages().values())
  for path in (ROOT / 'simclr_jax').rglob('*.py'):
    if path.stem.startswith('__'):
      continue
    name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    assert f'::: {name}\n' in pages
