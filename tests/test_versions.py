"""One version of each tool, wherever it is named."""

from __future__ import annotations

import pathlib
import re
import tomllib

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]


def _pins(text: str) -> dict[str, str]:
  lines = [line.split('#')[0].strip() for line in text.splitlines()]
  pins = [Requirement(x) for x in lines if x and not x.startswith('-')]
  for pin in pins:
    assert re.fullmatch(r'==[\w.]+', str(pin.specifier)), f'{pin} is no pin'
  return {
    canonicalize_name(p.name): str(p.specifier).removeprefix('==') for p in pins
  }


def _all_pins() -> dict[str, str]:
  pins: dict[str, str] = {}
  for kind in ('', '-no-tf', '-dev', '-torch'):
    found = _pins((ROOT / f'requirements{kind}.txt').read_text())
    assert not {n for n in found if pins.get(n, found[n]) != found[n]}, kind
    pins |= found
  return pins


def test_pre_commit_runs_the_pinned_versions():
  config = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
  pins = _all_pins()
  tools = set()
  for repo in config['repos']:
    for hook in repo['hooks']:
      seen = _pins('\n'.join(hook['additional_dependencies']))
      assert seen == {name: pins[name] for name in seen}, hook['id']
      tools |= set(seen)
  assert {'ruff', 'mypy'} <= tools


def test_pins_satisfy_the_package():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  extras = project['optional-dependencies']
  wanted = [
    *project['dependencies'],
    *extras['tf'],
    *extras['opencv'],
    *extras['parquet'],
    *extras['search'],
    *extras['export'],
    *extras['torch'],
    *extras['dev'],
  ]
  pins = _all_pins()
  for requirement in map(Requirement, wanted):
    name = canonicalize_name(requirement.name)
    assert name in pins, f'{name} is not pinned in requirements*.txt'
    assert pins[name] in requirement.specifier, requirement


def test_python_range_is_the_makefiles():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  allowed = SpecifierSet(project['requires-python'])
  makefile = (ROOT / 'Makefile').read_text()
  low, high = re.findall(r'\(3, (\d+)\)', makefile)
  for minor in range(9, 16):
    assert (f'3.{minor}' in allowed) == (int(low) <= minor <= int(high))
