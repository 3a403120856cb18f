"""Eight simulated CPU devices, golden numbers, and where test data lie."""

import os

# Before anything imports JAX or TensorFlow.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Commands would otherwise fill the cache folder of whoever runs the tests.
os.environ.setdefault('JAX_ENABLE_COMPILATION_CACHE', 'false')
if 'xla_force_host_platform_device_count' not in os.environ.get(
  'XLA_FLAGS', ''
):
  os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '')
    + ' --xla_force_host_platform_device_count=8'
  )

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SHARED = pathlib.Path(
  os.environ.get(
    'SIMCLR_JAX_SHARED',
    pathlib.Path(__file__).resolve().parents[1] / '../shared',
  )
)


# What compiles or starts processes for longest, longest first: begun last, one
# of them would keep one worker busy after the others have ended.
SLOW_FILES = (
  'training/test_golden_steps.py',
  'training/test_processes_train.py',
  'training/test_step.py',
  'training/test_resume.py',
  'models/test_golden_resnet.py',
  'test_without_tensorflow.py',
  'training/test_accumulation.py',
  'finetuning/test_job.py',
  'augmentation/test_device_views.py',
  'evaluation/test_hosts.py',
)


def pytest_collection_modifyitems(items):
  """Slow files first, the rest as it was."""
  folder = pathlib.Path(__file__).resolve().parent
  ranks = {folder / name: rank for rank, name in enumerate(SLOW_FILES)}
  items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope='module', autouse=True)
def forget_programs():
  """Frees compiled programs: over all files they take gigabytes."""
  yield
  if 'jax' in sys.modules:
    sys.modules['jax'].clear_caches()


@pytest.fixture(scope='session')
def command_listing() -> dict:
  """What each command says of itself (`simclr-jax completion json`)."""
  done = subprocess.run(
    [sys.executable, '-m', 'simclr_jax', 'completion', 'json'],
    cwd=pathlib.Path(__file__).resolve().parents[1],
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.fixture(scope='session')
def golden_dir() -> pathlib.Path:
  """Folder of the official code's numbers; skips where it is absent."""
  path = SHARED / 'golden'
  if not path.is_dir():
    pytest.skip(f'golden numbers not found at {path} (set SIMCLR_JAX_SHARED)')
  return path


@pytest.fixture(scope='session')
def golden(golden_dir):
  """`golden('nt_xent')` loads golden/nt_xent.npz."""

  def load(name: str):
    return np.load(golden_dir / f'{name}.npz', allow_pickle=False)

  return load


@pytest.fixture(scope='session')
def cifar10_dir() -> str:
  """TFDS data_dir that holds cifar10; skips where it is absent."""
  path = SHARED / 'data' / 'tfds'
  if not (path / 'cifar10').is_dir():
    pytest.skip(f'CIFAR-10 not found at {path} (set SIMCLR_JAX_SHARED)')
  return str(path)
