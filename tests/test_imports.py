"""Imports go downward, as docs/design.md says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
import os
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / 'simclr_jax'

# A part may import parts of a lower rank, and itself.
RANKS = {
  'chips': 0,
  'command_flags': 0,
  'command_help': 0,
  'command_parser': 0,
  'compilation_cache': 0,
  'config': 0,
  'config_checks': 0,
  'console': 0,
  'durations': 0,
  'flag_errors': 0,
  'flag_hints': 0,
  'flag_spelling': 0,
  'home': 0,
  'loss_choice': 0,
  'memory': 0,
  'multi_process': 0,
  'out_file': 0,
  'paths': 0,
  'processes': 0,
  'progress_bar': 0,
  'resolve': 0,
  'writes': 0,
  'retries': 0,
  'section_flags': 0,
  'data': 1,
  'augmentation': 2,
  'models': 1,
  'losses': 1,
  'objectives': 2,
  'training': 3,
  'evaluation': 4,
  'finetuning': 5,
  'importers': 5,
  'exporters': 6,
  'retrieval': 5,
  'planning': 4,
  'cards': 5,
  'reports': 6,
  'commands': 7,
}
ROOT_FILES = (
  'chips',
  'command_flags',
  'command_help',
  'command_parser',
  'compilation_cache',
  'config',
  'config_checks',
  'console',
  'durations',
  'flag_errors',
  'flag_hints',
  'flag_spelling',
  'home',
  'loss_choice',
  'memory',
  'multi_process',
  'out_file',
  'paths',
  'processes',
  'progress_bar',
  'resolve',
  'writes',
  'retries',
  'section_flags',
)
FORBIDDEN_PARTS = {
  'augmentation': ('models', 'losses'),
  'evaluation': ('objectives',),
  'retrieval': ('importers', 'objectives'),
}
TF_MODULES = ('tensorflow', 'tensorflow_datasets')
FORBIDDEN_MODULES = {
  'chips': ('jax', 'flax', 'optax', 'numpy'),
  'config': ('jax', 'flax', 'optax', 'numpy'),
  'config_checks': ('jax', 'flax', 'optax', 'numpy'),
  'durations': ('jax', 'flax', 'optax', 'numpy'),
  'home': ('jax', 'flax', 'optax', 'numpy'),
  'paths': ('jax', 'flax', 'optax', 'numpy'),
  'loss_choice': ('jax', 'flax', 'optax', 'numpy'),
  'memory': ('jax', 'flax', 'optax', 'numpy'),
  'resolve': ('jax', 'flax', 'optax', 'numpy'),
  'writes': ('jax', 'flax', 'optax', 'numpy'),
  'retries': ('jax', 'flax', 'optax', 'numpy'),
  'data': ('jax', 'flax', 'optax', 'orbax'),
  'augmentation': ('flax', 'optax', 'orbax'),
}
LOSSES_MAY_IMPORT = {'jax', 'simclr_jax'}
MAY_IMPORT_TF = ('data/lazy_tf.py', 'exporters/', 'importers/')
MAY_IMPORT_ORBAX = ('training/checkpoint.py',)


def _imported(tree: ast.AST) -> Iterator[str]:
  """Full names of all modules (and of what is taken from them)."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'relative imports hide what is imported'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Call) and (
      ast.unparse(node.func).endswith('import_module')
      and node.args
      and isinstance(node.args[0], ast.Constant)
    ):
      yield str(node.args[0].value)


def _part(relative: str) -> str:
  """The part of the package that 'training/step.py' or 'main.py' is in."""
  top = relative.split('/')[0].removesuffix('.py')
  return top if '/' in relative or top in ROOT_FILES else 'commands'


def find_violations(relative: str, text: str) -> list[str]:
  """What the file at `relative` (to the package) may not import."""
  if relative == '__init__.py':
    return [
      f'{relative} imports {module}'
      for module in _imported(ast.parse(text))
      if module.split('.')[0] not in sys.stdlib_module_names
    ]
  part = _part(relative)
  found = []
  for module in _imported(ast.parse(text)):
    top, *rest = module.split('.')
    problem = ''
    if top == 'simclr_jax':
      other = rest[0] if rest and rest[0] in RANKS else 'commands'
      if not rest or rest[0].startswith('__'):
        other = part
      if other != part and RANKS[other] >= RANKS[part]:
        root = part in ROOT_FILES and other in ROOT_FILES
        problem = '' if root else f'{other} is not below {part}'
      elif other in FORBIDDEN_PARTS.get(part, ()):
        problem = f'{part} must not know {other}'
    elif top in FORBIDDEN_MODULES.get(part, ()):
      problem = f'{part} does without {top}'
    elif top in TF_MODULES and not relative.startswith(MAY_IMPORT_TF):
      problem = 'TensorFlow comes through data/lazy_tf.py'
    elif top == 'orbax' and not relative.startswith(MAY_IMPORT_ORBAX):
      problem = 'Orbax stays in training/checkpoint.py'
    elif part == 'losses' and top not in LOSSES_MAY_IMPORT:
      if top not in sys.stdlib_module_names:
        problem = 'losses import only jax'
    if part == 'losses' and top == 'simclr_jax' and rest[:1] != ['losses']:
      problem = 'losses see arrays, not the rest of the package'
    if problem:
      found.append(f'{relative} imports {module}: {problem}')
  return found


def _files() -> list[pathlib.Path]:
  return sorted(PACKAGE.rglob('*.py'))


def test_imports_go_downward():
  violations = [
    violation
    for path in _files()
    for violation in find_violations(
      path.relative_to(PACKAGE).as_posix(), path.read_text()
    )
  ]
  assert not violations, '\n'.join(violations)


@pytest.mark.parametrize(
  'relative,text',
  [
    ('losses/nt_xent.py', 'import flax'),
    ('losses/nt_xent.py', 'import numpy as np'),
    ('losses/nt_xent.py', 'from simclr_jax import config'),
    ('data/order.py', 'import jax'),
    ('data/order.py', 'def f():\n  from flax import linen'),
    ('data/order.py', 'from simclr_jax import objectives'),
    ('data/draws.py', 'from simclr_jax import augmentation'),
    ('augmentation/views.py', 'from simclr_jax.models import model'),
    ('augmentation/views.py', 'from simclr_jax.training import mesh'),
    ('data/ops.py', 'import tensorflow as tf'),
    ('models/resnet.py', 'from simclr_jax import losses'),
    ('objectives/simclr.py', 'from simclr_jax.training import step'),
    ('evaluation/knn.py', 'from simclr_jax import objectives'),
    ('evaluation/knn.py', 'from simclr_jax.objectives.simclr import x'),
    ('evaluation/knn.py', 'import orbax.checkpoint as ocp'),
    ('training/loop.py', 'from simclr_jax import evaluation'),
    ('training/loop.py', 'from simclr_jax.main import run'),
    ('evaluation/knn.py', 'import importlib\nimportlib.import_module("orbax")'),
    ('config.py', 'import jax'),
    ('config.py', 'from simclr_jax.data import source'),
    ('importers/official.py', 'from simclr_jax import main'),
    ('importers/official.py', 'from simclr_jax import exporters'),
    ('__init__.py', 'from simclr_jax import config'),
  ],
)
def test_finds_planted_violation(relative, text):
  assert find_violations(relative, text)


@pytest.mark.parametrize(
  'relative,text',
  [
    ('main.py', 'from simclr_jax.training import loop'),
    ('importers/official.py', 'import tensorflow as tf'),
    ('training/checkpoint.py', 'import orbax.checkpoint as ocp'),
    ('evaluation/knn.py', 'from simclr_jax.training import checkpoint'),
    ('resolve.py', 'from simclr_jax import config, durations'),
    ('losses/nt_xent.py', 'import functools\nimport jax.numpy as jnp'),
  ],
)
def test_allows_downward(relative, text):
  assert not find_violations(relative, text)


def test_importing_everything_starts_no_tensorflow():
  modules = [
    '.'.join(('simclr_jax', *path.relative_to(PACKAGE).with_suffix('').parts))
    for path in _files()
  ]
  modules = [m.removesuffix('.__init__') for m in modules]
  code = f"""
import importlib, sys
for name in {modules!r}:
  importlib.import_module(name)
started = {{'tensorflow', 'tensorflow_datasets'}} & set(sys.modules)
sys.exit(f'imported {{sorted(started)}}' if started else 0)
"""
  run = subprocess.run(
    [sys.executable, '-c', code],
    cwd=PACKAGE.parent,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert run.returncode == 0, run.stderr
