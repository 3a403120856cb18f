"""A data set written to Parquet, whole or not at all (`simclr_jax.prepare`)."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shlex
import shutil

from absl import logging

from simclr_jax import config as config_lib
from simclr_jax import writes
from simclr_jax.data import parquet_writer
from simclr_jax.data.sources import make_source

_NAME = re.compile(r'\w+')
_PARTIAL, _DATA = '.partial', 'data'


def parse_splits(text: str, data: config_lib.DataConfig) -> dict[str, str]:
  """Name in the files -> split of the config's data set.

  Args:
    text: The flag; '' for the splits that the config names, which are called
      'train' and 'test' where they are no plain words.
    data: Whose splits.

  Raises:
    ValueError: If a name is missing, impossible or given twice.
  """
  if not text:
    pairs = [('train', data.train_split)]
    if data.test_split:
      pairs.append(('test', data.test_split))
    pairs = [(s if _NAME.fullmatch(s) else n, s) for n, s in pairs]
  else:
    entries = [entry.strip() for entry in text.split(',')]
    pairs = [
      (name.strip(), split.strip() if equals else name.strip())
      for name, equals, split in (entry.partition('=') for entry in entries)
    ]
  for name, split in pairs:
    if not _NAME.fullmatch(name):
      raise ValueError(
        f'--splits: {split!r} needs a name of letters, digits and _ for its '
        f"files, e.g. --splits='train={split}'"
      )
  if len(dict(pairs)) < len(pairs):
    raise ValueError(
      f'--splits: the names {[n for n, _ in pairs]} are not all different, so '
      'one would overwrite another'
    )
  return dict(pairs)


def run(
  config: config_lib.Config,
  out: pathlib.Path,
  *,
  splits: dict[str, str],
  shard_mb: int = 500,
  rows_per_shard: int = 0,
) -> config_lib.Config:
  """Writes the data set; gives the config that uses it.

  Raises:
    ValueError: If a split cannot be read, numbers are out of range, or `out` is
      not empty.
  """
  if shard_mb < 1 or rows_per_shard < 0:
    raise ValueError(
      f'--shard_mb={shard_mb} --rows_per_shard={rows_per_shard}: need at least '
      '1 and 0'
    )
  data = config.data
  prepared = _prepared(config, out, splits=splits)
  partial = _claim(out)
  # All of them first: one that cannot be read is known before hours of work.
  sources = {name: make_source(data, split) for name, split in splits.items()}
  try:
    with writes.to(out):
      partial.mkdir(parents=True)
      for name, source in sources.items():
        written = parquet_writer.write(
          source,
          partial,
          split=name,
          shard_bytes=shard_mb * 10**6,
          shard_rows=rows_per_shard,
          base=data.path,
          origin={
            'source': data.source,
            'name': data.name,
            'split': splits[name],
          },
        )
        _say(name, written)
      partial.rename(out / _DATA)
  except Exception:
    shutil.rmtree(partial, ignore_errors=True)  # The space may be needed.
    raise
  return prepared


def _say(name: str, written: parquet_writer.Written) -> None:
  files = f'{len(written.paths)} file{"s" if len(written.paths) > 1 else ""}'
  print(
    f'{name}: {written.num_examples} pictures in {files}, '
    f'{written.num_bytes / 1e6:.1f} MB',
    flush=True,
  )


def overrides(before: config_lib.Config, after: config_lib.Config) -> str:
  """Flags that turn the data of one config into those of another."""
  return ' '.join(
    shlex.quote(f'--config.data.{field.name}={new}')
    for field in dataclasses.fields(after.data)
    if (new := getattr(after.data, field.name))
    != getattr(before.data, field.name)
  )


def _prepared(
  config: config_lib.Config, out: pathlib.Path, *, splits: dict[str, str]
) -> config_lib.Config:
  """The config with the data that are about to be written."""
  data = config.data
  train, test = (
    next((n for n, split in splits.items() if split == wanted), '')
    for wanted in (data.train_split, data.test_split)
  )
  names = list(splits)
  train = train or ('train' if 'train' in names else names[0])
  test = test or ('test' if 'test' in names else '')
  return config_lib.replace(
    config,
    data={
      'source': 'parquet',
      'path': str(out.absolute()),
      'name': '',
      'data_dir': '',
      'labels_from': 'none',
      'image_key': 'image',
      'label_key': 'label' if data.label_key else '',
      'train_split': train,
      'test_split': '' if test == train else test,
    },
  )


def _claim(out: pathlib.Path) -> pathlib.Path:
  """Folder to write into, inside `out`; removes that of an interrupted run."""
  if ':/' in str(out):
    # A path has lost one of its slashes.
    given = re.sub(r':/+', '://', str(out), count=1)
    raise ValueError(
      f'--out={given} must be a local or mounted folder; copy it from there'
    )
  if out.exists() and not out.is_dir():
    raise ValueError(f'--out={out} is a file, not a folder')
  there = sorted(p.name for p in out.iterdir()) if out.exists() else []
  if others := [name for name in there if name != _PARTIAL]:
    raise ValueError(
      f'--out={out} is not empty (it holds {others[:5]}): name a new folder, '
      'or remove it; nothing is overwritten'
    )
  partial = out / _PARTIAL
  if partial.exists():
    logging.info('Removing %s of an interrupted run', partial)
    shutil.rmtree(partial)
  return partial
