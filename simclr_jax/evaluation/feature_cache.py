"""Features on disk, found by what they were computed from.

WORKDIR/features/<encoder>-<examples>-<preprocessing>.npz, so that probe, kNN
and repeated commands encode a data set once. Any change of checkpoint, data or
preprocessing is another file; nothing is ever invalidated.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import importlib.util
import io
import os
from typing import IO
import uuid
import zipfile

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import source as source_lib
from simclr_jax.data.lazy_tf import tf
from simclr_jax.evaluation import encoder as encoder_lib

# Counted up when what is stored, or how it is computed, changes.
_FORMAT = 2


def entry_name(
  encoder: encoder_lib.Encoder,
  source: source_lib.Source,
  config: config_lib.Config,
) -> str:
  """File name that differs wherever the features could."""
  how = (
    _FORMAT,
    encoder.function_hash(),
    config.data.image_size,
    config.eval.crop_fraction,
    config.eval.resize,
  )
  how_hash = hashlib.sha256(repr(how).encode()).hexdigest()[:12]
  parts = (encoder.fingerprint()[:24], source.cache_key[:24], how_hash)
  return '-'.join(parts) + '.npz'


def read_entry(
  entry: epath.Path, source: source_lib.Source
) -> dict[str, np.ndarray] | None:
  """The cached arrays, or None; the same answer on every host."""
  arrays = None
  if entry.exists():
    try:
      with entry.open('rb') as file, np.load(file, allow_pickle=False) as npz:
        # Reading a member checks its CRC-32.
        arrays = {name: npz[name] for name in npz.files}
      if not {'h', 'labels'} <= arrays.keys() <= {'h', 'z', 'labels'}:
        raise ValueError(f'holds {sorted(arrays)}')
      wrong = {
        k: len(v) for k, v in arrays.items() if len(v) != source.num_examples
      }
      if wrong:
        raise ValueError(f'{wrong} rows, expected {source.num_examples}')
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as e:
      logging.warning(
        'cached features %s cannot be used (%s); computing them again', entry, e
      )
      arrays = None
  if jax.process_count() > 1:
    # One host without the file must not leave the others waiting for it in a
    # collective.
    have = multihost_utils.process_allgather(np.array(arrays is not None))
    arrays = arrays if np.all(have) else None
  if arrays is not None:
    logging.info('features of %s read from %s', source.name, entry)
  return arrays


def write_entry(entry: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes beside the entry, then renames: a reader sees all or nothing.

  Where it cannot be written (a read-only or full workdir) says so and goes on:
  what is lost is time, and the features are in memory.
  """
  if jax.process_index() != 0:
    return
  temporary = entry.parent / f'.{entry.name}.{uuid.uuid4().hex}.tmp'
  try:
    entry.parent.mkdir(parents=True, exist_ok=True)
    try:
      with temporary.open('wb') as file:
        np.savez(_Stream(file), allow_pickle=False, **arrays)
      temporary.replace(entry)
    finally:
      temporary.unlink(missing_ok=True)
  except _storage_errors(entry) as error:
    logging.warning(
      'features could not be kept as %s (%s); the next command computes them '
      'again',
      entry,
      error,
    )


class _Stream:
  """A file that can only be appended to, so that no writer seeks in it.

  Object stores ('gs://...') cannot seek while they write; a zip archive can be
  written without.
  """

  def __init__(self, file: IO[bytes]):
    self._file = file

  def write(self, content: bytes) -> int:
    self._file.write(content)
    return len(content)

  def flush(self) -> None:
    self._file.flush()

  def read(self, size: int = -1) -> bytes:
    # NumPy takes for a file what has this method, and does not call it.
    raise io.UnsupportedOperation('read')


def _storage_errors(path: epath.Path) -> tuple[type[Exception], ...]:
  """What a failed write raises; TensorFlow, if there, has its own."""
  if '://' in os.fspath(path) and importlib.util.find_spec('tensorflow'):
    return (OSError, tf.errors.OpError)
  return (OSError,)
