"""Code blocks of README and docs: every command line is one of the commands.

`test_documented_stories` runs those of README and guides.
"""

from __future__ import annotations

import functools
import pathlib

import pytest

pytest.importorskip('cloudpickle')
pytest.importorskip('cv2')

from tests import documented_commands, markdown_blocks

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = (
  'README.md',
  *(
    f'docs/{name}.md'
    for name in (
      'start',
      'commands',
      'data',
      'export_import',
      'faq',
      'speed',
      'planning',
      'running',
      'faults',
      'performance',
    )
  ),
  *(p.relative_to(ROOT).as_posix() for p in ROOT.glob('docs/guides/*.md')),
)
_TEXTS = ('.md', '.py', '.sh')


def _is_story(page: str) -> bool:
  return page == 'README.md' or page.startswith('docs/guides/')


@functools.cache
def _blocks(language: str) -> list[markdown_blocks.Block]:
  return [
    block
    for page in PAGES
    for block in markdown_blocks.blocks(ROOT / page, page)
    if block.language == language
  ]


@pytest.mark.parametrize('block', _blocks('console'), ids=str)
def test_command_lines_are_those_of_the_commands(block, command_listing):
  lines = list(markdown_blocks.command_lines(block.text))
  assert lines
  for words in lines:
    found = documented_commands.problem(words, command_listing)
    assert not found, found
    if found is None:
      # Somebody else's program: then a reason stands above the block.
      assert block.reason, (
        f'{words[0]} cannot be checked: <!-- not run: ... -->'
      )


def test_extras_exist_wherever_they_are_named():
  """On every page, in what --help says and in the texts of errors."""
  folders = ('docs', 'simclr_jax', 'configs', 'benchmarks', 'launch')
  files = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']
  for folder in folders:
    files += [p for p in (ROOT / folder).rglob('*') if p.suffix in _TEXTS]
  named = 0
  for path in files:
    text = path.read_text()
    named += text.count("'.[")
    assert not documented_commands.unknown_extras(text), path
  assert named > 10


@pytest.mark.parametrize(
  'block',
  [b for b in _blocks('python') if not b.reason and not _is_story(b.page)],
  ids=str,
)
def test_python_runs(block, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  exec(compile(block.text, str(block), 'exec'), {})


def test_only_marked_blocks_are_skipped():
  """Every block is checked, run or marked; there is no other language."""
  total = 0
  for page in PAGES:
    total += (ROOT / page).read_text().count('\n```') // 2
  found = len(_blocks('console')) + len(_blocks('python'))
  assert found == total
  marked = [b for b in (*_blocks('console'), *_blocks('python')) if b.reason]
  assert all(len(b.reason.split()) >= 3 for b in marked)


@pytest.mark.parametrize(
  'line',
  [
    'python -m simclr_jax.main --config=configs/no.py --workdir=W',
    'python -m simclr_jax.main --config=configs/cifar10.py:no --workdir=W',
    'python -m simclr_jax.main --config=configs/cifar10.py',
    'python -m simclr_jax.main --config=configs/cifar10.py --workdir=W --no=1',
    'python -m simclr_jax.main --config=configs/cifar10.py --workdir=W '
    '--config.optim.lr=1',
    'python -m simclr_jax.main --config=configs/cifar10.py --workdir=W '
    "--config.train.batch_size='many'",
    'python -m simclr_jax.main --config=configs/cifar10.py --workdir=W '
    '--config.train.duration=long',
    'python -m simclr_jax.knn --checkpoint=W --knn.k=3',
    'python -m simclr_jax.knn --checkpoint=W --features=none',
    'python -m simclr_jax.report --work=W',
    'python -m simclr_jax.no --checkpoint=W',
    'simclr-jax knm --checkpoint=W',
    'simclr-jax completion fish',
    'make no',
    "pip install '.[serach]'",
    ".venv/bin/pip install '.[torch,no]'",
    "pip install 'simclr_jax[search]'",
    "pip install '.' 'simclr-jax[torch]'",
    'python -m benchmarks.no --seeds=0',
    'python -m benchmarks.loss --no_such_flag=0',
    'launch/tpu_vm.sh watch --name=v1 -- --config=configs/no.py --workdir=W',
  ],
)
def test_finds_a_planted_mistake(line, command_listing):
  (words,) = markdown_blocks.command_lines(line)
  assert documented_commands.problem(words, command_listing)


def test_reads_blocks(tmp_path):
  page = tmp_path / 'page.md'
  page.write_text(
    'a\n\n<!-- not run: why not -->\n```\na \\\n  b && c  # d\n```\n\n'
    '```python\nx = 1\n```\n'
  )
  first, second = markdown_blocks.blocks(page, 'page')
  assert (first.language, first.reason) == ('console', 'why not')
  assert list(markdown_blocks.command_lines(first.text)) == [['a', 'b'], ['c']]
  assert (second.language, second.text, second.reason) == (
    'python',
    'x = 1\n',
    '',
  )
  assert second.line == 9
