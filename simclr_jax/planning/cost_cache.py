"""What compiled steps cost, kept between calls.

JAX's own cache of programs cannot hold one for a machine that is not there, and
of the program only a few numbers are wanted. They lie in the user's cache
folder, `$XDG_CACHE_HOME/simclr_jax/plan`, one small JSON file for each step,
and can be deleted at any time. The key is the step as JAX hands it to the
compiler, the devices, and everything that reads or compiles it: a changed
config, JAX, libtpu or parser never meets an old number.
`JAX_ENABLE_COMPILATION_CACHE=false` switches this cache off, too.
"""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
from importlib import metadata
import json
import os
import pathlib
from typing import Any

from absl import logging
import jax

from simclr_jax import home

_COMPILERS = ('jax', 'jaxlib', 'libtpu', 'jax-cuda13-plugin')


def folder() -> pathlib.Path:
  """Of this user."""
  return home.cache_folder() / 'plan'


def make_key(program: str, devices: Sequence[Any]) -> str:
  """Digest of the lowered program, devices, versions, flags and our parser."""
  here = pathlib.Path(__file__).parent
  parts = [
    program,
    f'{len(devices)} x {devices[0].device_kind}',
    *(f'{name} {_version(name)}' for name in _COMPILERS),
    *(os.environ.get(name, '') for name in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')),
    *((here / name).read_text() for name in ('hlo.py', 'program.py')),
  ]
  digest = hashlib.sha256()
  for part in parts:
    digest.update(hashlib.sha256(part.encode()).digest())
  return digest.hexdigest()


def load(key: str) -> dict[str, Any] | None:
  """What was saved under the key; None if nothing was, or it is damaged."""
  if not _is_on():
    return None
  path = folder() / f'{key}.json'
  try:
    found = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    logging.warning('%s cannot be read (%s): compiling again', path, error)
    return None
  return found if isinstance(found, dict) else None


def save(key: str, cost: dict[str, Any]) -> None:
  """Keeps the numbers; a folder that cannot be written is a warning."""
  if not _is_on():
    return
  path = folder() / f'{key}.json'
  partial = path.with_suffix(f'.{os.getpid()}')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(cost))
    partial.replace(path)
  except OSError as error:
    logging.warning('%s is not kept (%s): every plan compiles', path, error)


def _is_on() -> bool:
  settings: Any = jax.config  # Its attributes have no annotations.
  return bool(settings.jax_enable_compilation_cache)


def _version(package: str) -> str:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return 'none'
