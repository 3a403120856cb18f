"""Code blocks of README and guides, run one behind the other as a reader would.

All that are not marked, with the page's own words and small sizes. The tests go
on where those before them ended: a page finds what another one made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import importlib.util
import os
import pathlib
import shutil
from typing import NamedTuple

import numpy as np
from PIL import Image
import pytest

pytest.importorskip('cloudpickle')
pytest.importorskip('cv2')
pytest.importorskip('pyarrow')
pytest.importorskip('matplotlib')

from simclr_jax import commands
from tests import command_server, markdown_blocks

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What makes training small; the other commands read the passport.
_SMALL_RUN = (
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
_FEW_DIGITS = (
  '--config.data.train_split=train[:120]',
  '--config.data.test_split=test[:24]',
)
_SMALL_STAGE = (
  '--config.train.batch_size=8',
  '--config.train.duration=2 steps',
  '--config.evaluate_every=1 steps',
  '--config.num_bootstrap=50',
)
_SMALL_LABELS = '--config.labels.per_class=4'
# The plan for other machines trains nothing, and takes the recipe as it is.
_SMALL_PLAN = ('--nomeasure_input', '--quick')
_STAGES: Mapping[str, Sequence[str]] = {
  'finetune': (*_SMALL_STAGE, _SMALL_LABELS),
  'label_efficiency': (*_SMALL_STAGE, '--labels=2', '--seeds=1'),
  'distill': (*_SMALL_STAGE, '--config.optim.warmup=0 steps'),
}


def shrink(module: str, arguments: Sequence[str]) -> list[str]:
  """The same command with little to do."""
  if module == 'plan':
    local = '--topology=local' in arguments
    return [*arguments, *_SMALL_PLAN, *(_SMALL_RUN if local else ())]
  if module == 'main':
    # What is made small is not of its recipe any more; `make demo` is.
    kept = [a for a in arguments if a != '--check_recipe']
    digits = '--config=configs/smoke.py' in arguments
    return [*kept, *_SMALL_RUN, *(_FEW_DIGITS if digits else ())]
  return [*arguments, *_STAGES.get(module, ())]


class Ran(NamedTuple):
  """A command of a page: its module, what it printed on stdout and stderr."""

  module: str
  out: str
  err: str


@pytest.fixture(scope='module')
def server(tmp_path_factory):
  """Runs commands, which compile the same programs: once is enough."""
  environment = {
    'XDG_CACHE_HOME': str(tmp_path_factory.mktemp('cache')),
    # Compiling is most of the time, and the programs run for moments.
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
    'JAX_ENABLE_COMPILATION_CACHE': 'true',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  with command_server.Server(environment) as running:
    yield running


def _save_crops(folder: pathlib.Path, *, count: int, seed: int) -> pathlib.Path:
  """FOLDER/CLASS/*.jpg: crops of scikit-learn's two photographs."""
  datasets = pytest.importorskip('sklearn.datasets')
  rng = np.random.default_rng(seed)
  for name in ('china', 'flower'):
    photograph = datasets.load_sample_image(f'{name}.jpg')
    (folder / name).mkdir(parents=True)
    for i in range(count):
      y, x = rng.integers(0, 300), rng.integers(0, 500)
      crop = photograph[y : y + 100, x : x + 120]
      Image.fromarray(crop).save(folder / name / f'{i}.jpg')
  return folder


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  return _save_crops(tmp_path_factory.mktemp('pictures'), count=24, seed=0)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Where all commands run, so that a page finds what another one made."""
  folder = tmp_path_factory.mktemp('place')
  (folder / 'configs').symlink_to(ROOT / 'configs')
  return folder


def _module(words: Sequence[str]) -> tuple[str, list[str]]:
  """(name, arguments) of a command line in either form."""
  if words[0] == 'simclr-jax':
    if words[1] == commands.COMPLETION:
      return '__main__', list(words[1:])
    return commands.find(words[1]).module, list(words[2:])
  assert words[:2] == ['python', '-m'], words
  return words[2].removeprefix('simclr_jax.'), list(words[3:])


def run_page(
  page: str,
  *,
  server: command_server.Server,
  place: pathlib.Path,
  replace: Mapping[str, str],
) -> list[Ran]:
  """Runs every block that is not marked; each command must succeed.

  Args:
    page: From the root of the repository.
    server: That runs commands.
    place: Working directory.
    replace: Words of the page that stand for something of the reader's.
  """
  ran = []
  for block in markdown_blocks.blocks(ROOT / page, page):
    if block.reason:
      continue
    text = block.text
    for theirs, ours in replace.items():
      text = text.replace(theirs, ours)
    if block.language == 'python':
      exec(compile(text, str(block), 'exec'), {})
      continue
    for words in markdown_blocks.command_lines(text):
      if '>>' in words:
        words = words[: words.index('>>')]
      module, arguments = _module(words)
      if '--help' not in arguments:
        arguments = shrink(module, arguments)
      done = server.run(
        module,
        arguments,
        cwd=place,
        timeout=400,
        # Else each command would import it for TensorBoard.
        tensorflow=importlib.util.find_spec('tensorflow') is not None,
      )
      assert done.code == 0, f'{block}: {words}: {done.err[-3000:]}'
      ran.append(Ran(module, done.out, done.err))
  return ran


def _names(ran: Sequence[Ran]) -> list[str]:
  return [r.module for r in ran]


def test_readme(server, place, pictures):
  shutil.copy(pictures / 'flower' / '5.jpg', place / 'a.jpg')
  ran = run_page(
    'README.md',
    server=server,
    place=place,
    replace={'/pictures': str(pictures)},
  )
  assert _names(ran) == [
    'main',
    'report',
    'main',
    'probe_transforms',
    'label_efficiency',
    'finetune',
    'embed',
    'search',
    'duplicates',
    'plan',
  ]
  for form in ('json', 'png'):
    path = place / f'runs/demo_labels/label_efficiency.{form}'
    assert path.stat().st_size > 500


def test_few_labels(server, place, pictures):
  """README's encoder of digits has labels, its own of pictures has none."""
  assert (place / 'runs/demo').is_dir(), 'test_readme makes it'
  ran = run_page(
    'docs/guides/few_labels.md',
    server=server,
    place=place,
    replace={
      'runs/mine --workdir=runs/mine_labels': 'runs/demo --workdir=labels',
      'runs/mine --workdir=runs/mine_ft': 'runs/demo --workdir=runs/mine_ft',
      # As any method reads the labels of other pictures.
      'early --methods=finetune,scratch,frozen': 'early --methods=frozen',
      '=/labelled': f'={pictures}',
    },
  )
  assert _names(ran) == ['label_efficiency', *['finetune'] * 2, 'distill']
  table = ran[1].out
  assert all(m in table for m in ('fine-tuned', 'scratch', 'frozen')), table
  assert 'student' in ran[-1].out


def test_product_search(server, place, pictures, tmp_path):
  held_out = _save_crops(tmp_path / 'held_out', count=3, seed=1)
  (place / 'new').mkdir()
  shutil.copy(pictures / 'china' / '3.jpg', place / 'new' / 'query.jpg')
  ran = run_page(
    'docs/guides/product_search.md',
    server=server,
    place=place,
    replace={
      '/pictures/products': str(pictures),
      '/pictures/new': 'new',
      '=/labelled': f'={pictures}',
      '=/held_out': f'={held_out}',
      # So small a network has no more.
      'whitening:64': 'whitening:4',
    },
  )
  assert _names(ran) == [
    *('main', 'embed', 'search', 'duplicates', 'embed'),
    *('embed', 'embed', 'search'),
  ]
  # The query is one of the pictures.
  found = (place / 'found.html').read_text()
  assert '3.jpg' in found and (place / 'duplicates.html').stat().st_size
  assert 'mAP' in ran[-1].out, ran[-1]


def test_own_pictures(server, tmp_path, pictures, monkeypatch, capsys):
  """In a place of its own: its run has classes and a test split."""
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  monkeypatch.chdir(tmp_path)
  ran = run_page(
    'docs/guides/own_pictures.md',
    server=server,
    place=tmp_path,
    replace={'/pictures': str(pictures)},
  )
  assert _names(ran) == [
    'plan',
    'main',
    'linear_probe',
    'knn',
    'report',
    'export',
  ]
  # A fifth, by a hash of the paths below the folder: always the same 8.
  assert '[80%:] (8, 32) (8, 4)\n' in capsys.readouterr().out
  for name in ('runs/mine/report/report.html', 'exported/mine/model.npz'):
    assert os.path.getsize(tmp_path / name) > 1000


@pytest.mark.parametrize(
  'page', ['docs/guides/pytorch_users.md', 'docs/guides/tpu_pods.md']
)
def test_guides_to_other_places(page, server, place):
  """What can be run of them without PyTorch and a TPU."""
  run_page(page, server=server, place=place, replace={})


def test_every_guide_is_run():
  source = pathlib.Path(__file__).read_text()
  guides = sorted(p.name for p in (ROOT / 'docs/guides').glob('*.md'))
  assert guides and all(f"docs/guides/{name}'" in source for name in guides)
