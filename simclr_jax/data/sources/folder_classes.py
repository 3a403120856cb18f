"""Classes of a folder: the first level of folders that hold an image.

Those of the training split are numbered first, by the bytes of their names, and
those that only a held-out split has after them: what is held out does not
change what is trained. A name in another Unicode form (macOS may decompose
accents) is the same name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import os
import unicodedata

from absl import logging

from simclr_jax import config as config_lib
from simclr_jax import retries
from simclr_jax.data.names import printable
from simclr_jax.data.sources import folder_scan, folder_split

_SHOWN = 5  # names in a message


def find(
  data: config_lib.DataConfig, folder: str, pictures: Sequence[str]
) -> tuple[str, ...]:
  """Class names in the order of their numbers.

  Args:
    data: Reads `path`, `train_split` and `test_split`.
    folder: Of the split, below `path`.
    pictures: Paths of its images.

  Raises:
    ValueError: If an image lies in no class folder.
  """
  root = os.path.join(data.path, folder) if folder else data.path
  if loose := [path for path in pictures if '/' not in path]:
    raise ValueError(
      f"config.data.labels_from = 'folders', but {len(loose)} pictures lie "
      f'directly in {root} and so have no class, e.g. {printable(loose[0])}; '
      'move them into class folders, or read no classes: '
      '--config.data.labels_from=none'
    )
  own = {name_of(path) for path in pictures}
  train, test = (
    folder_split.parse(split).folder
    for split in (data.train_split, data.test_split)
  )
  # With '' for a split its sub-folders would be the splits themselves.
  trained = _names_in(data.path, train) if folder and train != folder else own
  others = _names_in(data.path, test) if folder and train != folder else set()
  trained = trained or own
  classes = (*_sorted(trained), *_sorted((own | others) - trained))
  if empty := _listed(n for n in subfolders(root) if name_of(n) not in classes):
    logging.warning('no class, because without an image: %s in %s', empty, root)
  if absent := _listed(n for n in classes if n not in own):
    logging.warning('no picture in %s of the classes %s', root, absent)
  if new := _listed(own - trained):
    logging.warning(
      'classes of %s that the training split does not have: %s', root, new
    )
  return classes


def name_of(path: str) -> str:
  """Class that the image at a relative path belongs to."""
  return unicodedata.normalize('NFC', path.split('/')[0])


def subfolders(folder: str) -> list[str]:
  """Names of the folders in a folder, hidden ones left out, by their bytes."""
  with os.scandir(folder) as entries:
    names = [
      entry.name
      for entry in entries
      if folder_scan.is_folder(entry) and not entry.name.startswith('.')
    ]
  return _sorted(names)


def holds_image(root: str, name: str) -> bool:
  """Whether there is an image at any depth below root/name."""
  return any(map(folder_scan.is_picture, folder_scan.walk(root, name)))


def _names_in(path: str, folder: str) -> set[str]:
  root = os.path.join(path, folder)
  if not folder or not retries.is_dir(root):
    return set()
  return {name_of(n) for n in subfolders(root) if holds_image(root, n)}


def _sorted(names: Iterable[str]) -> list[str]:
  return sorted(names, key=os.fsencode)


def _listed(names: Iterable[str]) -> str:
  found = _sorted(names)
  more = f' and {len(found) - _SHOWN} more' if len(found) > _SHOWN else ''
  return ', '.join(map(printable, found[:_SHOWN])) + more
