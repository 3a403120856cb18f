"""Kinds of data sets; a new one is one file here and one line below."""

from __future__ import annotations

from collections.abc import Callable
import difflib
import os

from absl import logging
from etils import epath

from simclr_jax import config as config_lib
from simclr_jax import retries
from simclr_jax.data.source import Source
from simclr_jax.data.sources import (
  arrays,
  digits,
  folder,
  parquet,
  procedural,
  tfds_source,
)

SOURCES: dict[str, Callable[..., Source]] = {
  'tfds': tfds_source.make,
  'folder': folder.make,
  'parquet': parquet.make,
  'arrays': arrays.make,
  'digits': digits.make,
  'procedural': procedural.make,
}


_CHECK_SPLIT: dict[str, Callable[..., object]] = {
  'tfds': tfds_source.check_split,
  'folder': folder.check_split,
  'parquet': parquet.check_split,
  'arrays': arrays.check_split,
}


def check_held_out(data: config_lib.DataConfig) -> None:
  """Warns where nothing could be judged after hours of training.

  A run that measures no accuracy does not open its held-out split.
  """
  check = _CHECK_SPLIT.get(data.source)
  if not check or not data.test_split:
    return
  try:
    check(data, data.test_split)
  except ValueError as error:
    logging.warning(
      'config.data.test_split = %r cannot be judged on, and nothing else says '
      "so before knn, linear_probe and report do: %s ('' holds nothing out)",
      data.test_split,
      error,
    )


def make_source(
  data: config_lib.DataConfig,
  split: str,
  *,
  workdir: epath.PathLike | None = None,
) -> Source:
  """Random access to a split of the configured data set.

  Args:
    data: Which data set, `config.data`.
    split: See `config.data.train_split` for what the kinds of sources take.
    workdir: Where lists of skipped files and caches go; without one, caches go
      to the user's cache folder and the list to the log alone.

  Raises:
    ValueError: If source or split are unknown, or the data are missing,
      damaged or empty.
    retries.DataAway: If the system does not let them be read.
  """
  if data.source not in SOURCES:
    close = difflib.get_close_matches(data.source, SOURCES, n=1)
    hint = f'did you mean {close[0]!r}? ' if close else ''
    raise ValueError(
      f'config.data.source = {data.source!r} is unknown; {hint}known: '
      f'{", ".join(SOURCES)}'
    )
  make = SOURCES[data.source]
  try:
    return retries.open_data(lambda: make(data, split, workdir=workdir))
  except ValueError as error:
    if not data.path or os.path.exists(data.path):
      raise
    raise ValueError(
      f'{error}. Nothing is at {data.path}: if the images have been moved, '
      'name the new place with config.data.path=PLACE'
    ) from error
