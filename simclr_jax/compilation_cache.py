"""Compiled programs kept between runs: a second start compiles nothing.

They lie in the user's cache folder, `$XDG_CACHE_HOME/simclr_jax/xla` (default
`~/.cache/simclr_jax/xla`), and can be deleted at any time. JAX's own settings
come first: `JAX_COMPILATION_CACHE_DIR=DIR` names another folder (gs:// too),
`JAX_ENABLE_COMPILATION_CACHE=false` switches the cache off, and
`JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS` (1) is what makes an entry worth
its file. JAX's key holds program, options, devices and versions, so a changed
config, JAX or driver never meets an old program. Several processes may share
the folder: of a multi-host job the first alone writes, and an entry that cannot
be read (cut off by a crash) is reported, and its program compiled again.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform
import time
from typing import Any

from absl import logging
import jax

from simclr_jax import home

_KEEP_DAYS = 90


def enable() -> pathlib.Path | None:
  """Turns the cache on, before the first program is compiled.

  A folder that cannot be made or written costs time, not correctness: that is
  a warning.

  Returns:
    The folder; None if JAX's settings decide otherwise or there is none.
  """
  settings: Any = jax.config  # Its attributes have no annotations.
  if settings.jax_compilation_cache_dir is not None:
    return None
  if not settings.jax_enable_compilation_cache:
    return None
  try:
    folder = default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
      raise PermissionError(f'{folder} is not writable')
    _remove_old(folder)
  except OSError as error:
    logging.warning(
      'Compiled programs are not kept (%s): every start compiles again. '
      'JAX_COMPILATION_CACHE_DIR can name another folder',
      error,
    )
    return None
  jax.config.update('jax_compilation_cache_dir', str(folder))
  return folder


def default_folder() -> pathlib.Path:
  """Of this user and this kind of processor.

  A program for a CPU may use instructions that another machine lacks, and home
  folders are often shared by machines.
  """
  return home.cache_folder() / 'xla' / _processor()


def _processor() -> str:
  """Name of the processor's instruction set, such as 'x86_64-1f0c22d9'."""
  features = platform.processor()
  try:
    with open('/proc/cpuinfo', encoding='utf-8') as file:
      # 'flags' on x86, 'Features' on Arm; the same for every core.
      features = next(
        (line for line in file if line.lower().startswith(('flags', 'feat'))),
        features,
      )
  except OSError:
    pass  # No Linux.
  digest = hashlib.sha256(features.encode()).hexdigest()[:8]
  return f'{platform.machine()}-{digest}'


def _remove_old(folder: pathlib.Path) -> None:
  """Removes entries written long ago; nothing else bounds the folder."""
  oldest = time.time() - _KEEP_DAYS * 86_400
  for path in folder.glob('*-cache'):
    try:
      if path.stat().st_mtime < oldest:
        path.unlink()
    except FileNotFoundError:
      pass  # Another process was faster.
