"""Code blocks of README and guides: checked all, and run where that can be."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil

import numpy as np
from PIL import Image
import pytest

pytest.importorskip('cloudpickle')
pytest.importorskip('cv2')

from simclr_jax import commands
from tests import command_server, documented_commands, markdown_blocks

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
    )
  ),
  *(p.relative_to(ROOT).as_posix() for p in ROOT.glob('docs/guides/*.md')),
)
_TEXTS = ('.md', '.py', '.sh')
# All blocks of it that are not marked are run, one behind the other.
STORY = 'docs/guides/own_pictures.md'
# What makes the run of the story small; the other commands read the passport.
SMALL = (
  '--config.data.image_size=24',
  '--config.data.loader=opencv',
  '--config.model.depth=18',
  '--config.model.width=0.0625',
  '--config.model.head_layers=1',
  '--config.model.head_dim=4',
  '--config.train.batch_size=8',
  '--config.train.duration=2 steps',
  '--config.optim.warmup=0 steps',
  '--config.eval.batch_size=16',
  '--config.probe.epochs=5',
  '--config.probe.batch_size=8',
  # Features of a network of two steps are of any size.
  '--config.probe.standardize=True',
  '--config.probe.num_bootstrap=50',
  '--config.knn.num_bootstrap=50',
)


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
  [b for b in _blocks('python') if not b.reason and b.page != STORY],
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


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  """Runs commands, which compile the same programs: once is enough."""
  environment = {
    'XDG_CACHE_HOME': str(tmp_path_factory.mktemp('cache')),
    'JAX_ENABLE_COMPILATION_CACHE': 'true',
  }
  with command_server.Server(environment) as running:
    yield running


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  """path/CLASS/*.jpg: crops of scikit-learn's two photographs."""
  datasets = pytest.importorskip('sklearn.datasets')
  folder = tmp_path_factory.mktemp('pictures')
  rng = np.random.default_rng(0)
  for name in ('china', 'flower'):
    photograph = datasets.load_sample_image(f'{name}.jpg')
    (folder / name).mkdir()
    for i in range(24):
      y, x = rng.integers(0, 300), rng.integers(0, 500)
      crop = photograph[y : y + 100, x : x + 120]
      Image.fromarray(crop).save(folder / name / f'{i}.jpg')
  return folder


@pytest.fixture(scope='module')
def image_search(pictures, server, tmp_path_factory):
  """(folder, modules run) of the four commands of the guide, on one folder."""
  pytest.importorskip('pyarrow')
  folder = tmp_path_factory.mktemp('image_search')
  (folder / 'configs').symlink_to(ROOT / 'configs')
  (folder / 'new').mkdir()
  shutil.copy(pictures / 'china' / '3.jpg', folder / 'new' / 'query.jpg')
  page = 'docs/guides/product_search.md'
  block = markdown_blocks.blocks(ROOT / page, page)[0]
  text = block.text.replace('/pictures/products', str(pictures))
  text = text.replace('/pictures/new', 'new')
  ran = []
  for words in markdown_blocks.command_lines(text):
    module, arguments = words[2].removeprefix('simclr_jax.'), words[3:]
    if any(a.startswith('--config=') for a in arguments):
      arguments = [*arguments, *SMALL]
    done = server.run(module, arguments, cwd=folder)
    assert done.code == 0, f'{words}: {done.err}'
    ran.append(module)
  return folder, ran


def test_the_story_of_image_search(image_search):
  """The four commands of docs/guides/product_search.md."""
  folder, ran = image_search
  assert ran == ['main', 'embed', 'search', 'duplicates']
  # The query is one of the pictures.
  found = (folder / 'found.html').read_text()
  assert '3.jpg' in found and (folder / 'duplicates.html').stat().st_size


def test_labels_of_other_pictures(image_search, pictures, server):
  """An encoder of a folder without classes, fine-tuned as the guide says."""
  folder, _ = image_search
  page = 'docs/guides/few_labels.md'
  (block,) = [
    block
    for block in markdown_blocks.blocks(ROOT / page, page)
    if '/labelled' in block.text
  ]
  text = block.text.replace('/labelled', str(pictures))
  text = text.replace('=runs/mine ', '=runs/products ')
  ((_, _, _, *arguments),) = markdown_blocks.command_lines(text)
  arguments += [
    '--config.num_bootstrap=20',
    # As any method reads the labels; no training is compiled.
    '--methods=frozen',
  ]
  done = server.run('finetune', arguments, cwd=folder)
  assert done.code == 0, done.err
  (written,) = folder.glob('runs/*/finetune.json')
  data = json.loads(written.read_text())['data']
  assert [data[part]['num_examples'] for part in ('train', 'test')] == [40, 8]
  assert 'frozen' in done.out
  # Without the splits there is nothing to judge on.
  short = [a for a in arguments if '_split' not in a]
  done = server.run('finetune', [*short, '--workdir=runs/no'], cwd=folder)
  assert done.code == 2 and 'test split' in done.err


def test_the_story_of_own_pictures(
  pictures, server, tmp_path, monkeypatch, capsys
):
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  # Whole words of the page, so that it is what is run.
  monkeypatch.chdir(tmp_path)
  blocks = [
    block
    for block in markdown_blocks.blocks(ROOT / STORY, STORY)
    if not block.reason
  ]
  ran = []
  for block in blocks:
    text = block.text.replace('/pictures', str(pictures))
    if block.language == 'python':
      exec(compile(text, str(block), 'exec'), {})
      continue
    for words in markdown_blocks.command_lines(text):
      module, arguments = words[2].removeprefix('simclr_jax.'), words[3:]
      if any(a.startswith('--config=') for a in arguments):
        arguments = [*arguments, *SMALL]
      if module == 'plan':
        arguments.append('--nomeasure_input')
      done = server.run(module, arguments, cwd=tmp_path)
      assert done.code == 0, f'{block}: {done.err}'
      ran.append(module)
  assert ran == ['plan', 'main', 'linear_probe', 'knn', 'report', 'export']
  assert set(ran) <= {c.module for c in commands.COMMANDS.values()}
  # A fifth, by a hash of the paths below the folder: always the same 8.
  assert '[80%:] (8, 32) (8, 4)\n' in capsys.readouterr().out
  for name in ('runs/mine/report/report.html', 'exported/mine/model.npz'):
    assert os.path.getsize(tmp_path / name) > 1000
  shutil.rmtree(tmp_path / 'runs')
