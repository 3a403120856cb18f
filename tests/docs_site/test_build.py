"""What `make docs` runs fails where a page has a fault, and names the fault."""

from __future__ import annotations

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# These make the real site; the small one has a page of its own.
_LEFT_OUT = ('nav', 'hooks', 'extra', 'extra_css')
_SITE = {
  'docs/index.md': '# Home\n\n[other](other.md#part)\n\n::: things\n',
  'docs/other.md': '# Other\n\n## Part\n',
  'things.py': '"""Things.\n\nAttributes:\n  a: Of [1, 2].\n"""\n\na = 1\n',
}


def _command() -> list[str]:
  """The line of the Makefile, with the Python of this environment."""
  recipe = subprocess.run(
    ['make', '--dry-run', '--always-make', 'docs', 'VENV=VENV'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  (line,) = [line for line in recipe.splitlines() if 'mkdocs build' in line]
  words = shlex.split(line)
  python = words.index('VENV/bin/python')
  return ['env', *words[:python], sys.executable, *words[python + 1 :]]


def _settings() -> str:
  """mkdocs.yml, for a site of two pages."""
  text = (ROOT / 'mkdocs.yml').read_text()
  blocks = re.split(r'^(?=\w)', text, flags=re.MULTILINE)
  kept = [b for b in blocks if b.partition(':')[0] not in _LEFT_OUT]
  return ''.join(kept) + '\nnav: [index.md, other.md]\n'


@pytest.mark.parametrize(
  'planted,said',
  [
    ({}, ''),
    ({'docs/other.md': '[gone](gone.md)\n\n## Part\n'}, 'gone.md'),
    ({'docs/other.md': '# Other\n\n## Another part\n'}, '#part'),
    ({'docs/lonely.md': '# Lonely\n'}, 'lonely.md'),
    ({'things.py': '"""Of sizes[n]\n[N, K]."""\n'}, 'N, K'),
  ],
  ids=['nothing', 'link', 'anchor', 'page outside', 'reference in docstring'],
)
def test_a_planted_fault_fails_the_build(planted, said, tmp_path):
  for name, text in {**_SITE, **planted}.items():
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
  (tmp_path / 'mkdocs.yml').write_text(_settings())
  done = subprocess.run(
    _command(), cwd=tmp_path, capture_output=True, text=True, timeout=120
  )
  shown = done.stdout + done.stderr
  if not planted:
    assert done.returncode == 0, shown
    assert (tmp_path / 'build/site/other.html').is_file()
    return
  assert done.returncode == 1, shown
  assert said in shown and 'warnings in strict mode' in shown
