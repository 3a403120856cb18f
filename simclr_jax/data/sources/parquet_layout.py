"""Which Parquet files of a folder belong to which split, by their names alone.

The layouts of Hugging Face data sets, as they are:

  data/train-00000-of-00005.parquet     shards, in `data` or directly
  cifar10/train-00000-of-00001.parquet  a folder for each of several data sets
  train.parquet, my-test_03.parquet     the split's keyword in the name
  train/0000.parquet                    a folder named by the keyword
  unlabelled/0000.parquet               a folder of numbered files
  a.parquet, b.parquet                  no split anywhere: all is 'train'

Source: huggingface.co/docs/hub/datasets-file-names-and-splits. Unlike there
'training', 'valid' or 'dev' are not renamed: a split is called what it is
called in the file's name.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import os
import re
from typing import NamedTuple

from absl import logging

from simclr_jax import config as config_lib
from simclr_jax import retries
from simclr_jax.data import other_files, split_names
from simclr_jax.data.sources import folder_scan

_KEYWORDS = (
  'train|training|validation|valid|val|dev|test|testing|eval|evaluation'
)
_SHARD = re.compile(r'(\w+(?:\.\w+)*)-(\d+)-of-(\d+)(?:-[0-9a-f]+)?')
_KEYWORD = re.compile(rf'(?<![a-z])({_KEYWORDS})(?![a-z])', re.IGNORECASE)
_NUMBERED = re.compile(r'(?:part|data|shard|file)?[-_.]?\d+', re.IGNORECASE)
_EXTENSION = '.parquet'
_SHOWN = 5  # entries of a list in a message


class File(NamedTuple):
  """One Parquet file.

  Attributes:
    path: Relative to the root, with '/'.
    split: '' where nothing says which.
    folder: Relative folder of the data set that it is a part of.
    number: Of the shard, -1 where the name has none.
    total: Shards that the name promises, 0 where it has none.
  """

  path: str
  split: str
  folder: str
  number: int = -1
  total: int = 0


def find(path: str) -> tuple[str, dict[str, list[File]]]:
  """Root and the files of each split, in the order of their rows.

  Args:
    path: A folder, or a single file that holds a whole split.

  Raises:
    ValueError: If there is nothing, no Parquet file, more than one data set, a
      shard is missing, or `path` is one shard of several.
  """
  root, paths = _list_files(path)
  files = [parse(p) for p in paths]
  if not any(f.split for f in files):
    files = [f._replace(split='train') for f in files]
  named = [f for f in files if f.split]
  _say_left_out(root, tuple(f.path for f in files if not f.split))
  folders = sorted({f.folder for f in named})
  if len(folders) > 1:
    close = ', '.join(f or '.' for f in folders[:_SHOWN])
    raise ValueError(
      f'{root} holds {len(folders)} data sets ({close}); name one of these '
      'folders in config.data.path, else their pictures and classes would be '
      'mixed'
    )
  splits: dict[str, list[File]] = {}
  for file in sorted(named, key=lambda f: (f.number, os.fsencode(f.path))):
    splits.setdefault(file.split, []).append(file)
  for split, shards in splits.items():
    _check_complete(root, split, shards)
  return root, splits


def choose(
  data: config_lib.DataConfig, splits: dict[str, list[File]], *, split: str
) -> list[File]:
  """Files of the split that `split` is, or is a part of.

  Raises:
    ValueError: If there is none of this name; it lists those there are.
  """
  name = split.split('[')[0].strip()
  if name not in splits:
    advice = split_names.advice(data, split, splits)
    raise ValueError(
      f'split {name!r} is not in {data.path}; its files are named as '
      f"{', '.join(splits)}, and parts are such as 'train[:500]' or "
      "'train[80%:]'" + (f'; {advice}' if advice else '')
    )
  return splits[name]


# Every split that is opened looks at the files.
@functools.cache
def _say_left_out(root: str, paths: tuple[str, ...]) -> None:
  if paths:
    more = f' and {len(paths) - _SHOWN} more' if len(paths) > _SHOWN else ''
    logging.warning(
      '%s: left out, because their names say no split: %s; name them so that '
      'they do (train_%s)',
      root,
      ', '.join(paths[:_SHOWN]) + more,
      os.path.basename(paths[0]),
    )


def parse(path: str) -> File:
  """What the name of a file says, see the top of this file."""
  folder, _, name = path.rpartition('/')
  stem = os.path.splitext(name)[0]
  if match := _SHARD.fullmatch(stem):
    split, number, total = match.groups()
    return File(path, split, _data_set(folder), int(number), int(total))
  if match := _KEYWORD.search(stem):
    return File(path, match.group(1), _data_set(folder))
  above, _, last = folder.rpartition('/')
  numbered = _NUMBERED.fullmatch(stem) and last not in ('', 'data')
  if _KEYWORD.fullmatch(last) or numbered:
    return File(path, last, _data_set(above))
  return File(path, '', _data_set(folder))


def _data_set(folder: str) -> str:
  """The folder without the `data` that many data sets put their files in."""
  above, _, last = folder.rpartition('/')
  return above if last == 'data' else folder


def _list_files(path: str) -> tuple[str, list[str]]:
  """Root and the relative paths of its Parquet files, hidden ones left out."""
  if '://' in path:
    raise ValueError(
      f'config.data.path = {path!r}: Parquet files must be local or mounted; '
      'download them first (`huggingface-cli download`, `gsutil cp`)'
    )
  if retries.is_file(path):
    folder, name = os.path.dirname(path) or '.', os.path.basename(path)
    if not name.lower().endswith(_EXTENSION):
      advice = other_files.of_file(path)
      raise ValueError(
        f'config.data.path = {path!r} is no Parquet file by its name'
        + (f'; {advice}' if advice else '')
      )
    if (total := parse(name).total) > 1:
      raise ValueError(
        f'config.data.path = {path!r} is 1 of {total} files of a split; name '
        f"the folder {folder!r} (for fewer pictures: a part as 'train[:500]')"
      )
    return folder, [name]
  if not retries.is_dir(path):
    raise ValueError(
      f'config.data.path = {path!r} is neither a folder nor a Parquet file'
    )
  found = [
    name
    for name in folder_scan.walk(path)
    if name.lower().endswith(_EXTENSION)
    and not os.path.basename(name).startswith('_')
  ]
  if not found:
    there = sorted(os.listdir(path))[:_SHOWN]
    ignored = folder_scan.list_pictures(path).ignored
    advice = other_files.advise(path, ignored) or (
      'write them with python -m simclr_jax.prepare, or set another '
      'config.data.source'
    )
    raise ValueError(
      f'no {_EXTENSION} file below {path} (it holds {there}); {advice}'
    )
  return path, found


def _check_complete(root: str, split: str, files: Sequence[File]) -> None:
  """Raises if shards are missing or from different writings of a data set."""
  totals = {f.total for f in files}
  numbers = [f.number for f in files]
  if totals == {0}:
    return
  if len(totals) > 1 or len(set(numbers)) < len(numbers):
    names = ', '.join(f.path for f in files[:_SHOWN])
    raise ValueError(
      f'split {split!r} of {root} mixes files of different writings ({names}, '
      '...); remove the older ones, else pictures would be read twice'
    )
  (total,) = totals
  if missing := sorted(set(range(total)) - set(numbers)):
    raise ValueError(
      f'split {split!r} of {root} has {len(files)} of {total} files; missing '
      f'are numbers {missing[:_SHOWN]}{"..." if len(missing) > _SHOWN else ""}'
    )
