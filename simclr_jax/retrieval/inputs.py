"""What `--input` names: a folder, files, or a data set by name."""

from __future__ import annotations

from collections.abc import Mapping
import os
import re
from typing import Any, NamedTuple

from simclr_jax import config as config_lib
from simclr_jax import data, paths, retries, section_flags
from simclr_jax.data import other_files
from simclr_jax.data.sources import folder_scan

_NAMED = ('digits', 'procedural')
_TFDS_NAME = re.compile(r'[a-z0-9_]+(/[\w.-]+)?(:[\w.*]+)?')
_OF_FILE = {'.npz': 'arrays', '.parquet': 'parquet'}
_OF_FOLDER = {'.npz': 'arrays', '.npy': 'arrays', '.parquet': 'parquet'}
_RUN = 'run'
_PREPARES = ('image_size', 'canvas_size')  # Fields that change images.
# Fields that only some kinds of sources read.
_READ_BY = {
  'labels_from': ('folder',),
  'label_key': ('tfds', 'parquet', 'arrays'),
  'image_key': ('tfds', 'parquet'),
  'bits': ('folder', 'tfds', 'parquet'),
  'data_dir': ('tfds',),
}


class Input(NamedTuple):
  """A data set to embed.

  Attributes:
    config: The checkpoint's, with this data set in its section `data`.
    split: Of the data set; '' is all of a folder.
    base: Names of pictures are stored relative to this folder; '' for none.
  """

  config: config_lib.Config
  split: str
  base: str


def find_input(
  text: str,
  trained: config_lib.Config,
  *,
  split: str = '',
  batch_size: int = 0,
  changes: Mapping[str, Any] | None = None,
  moved: Mapping[str, Any] | None = None,
) -> Input:
  """The data set that `text` names.

  Args:
    text: A folder of pictures, of Parquet files or of arrays; a single .npz or
      .parquet; the name of a TFDS data set; 'digits' or 'procedural'; 'run' for
      the data of the checkpoint. KIND:VALUE where that is ambiguous.
    trained: Config of the checkpoint: preprocessing is never asked for again.
    split: '' is all of a folder, and for 'run' its training split.
    batch_size: Pictures at a time; 0 for those of the config.
    changes: Fields of `config.data` that are about reading alone.
    moved: Fields of `config.data` for 'run' that say where its data are now.

  Raises:
    ValueError: If nothing is there, what is there could be two things, or a
      split is missing.
  """
  moved = dict(moved or {})
  refused = [name for name in moved if text != _RUN or name in _PREPARES]
  if refused:
    raise ValueError(
      f'--data.{refused[0]}={moved[refused[0]]}: --data says, for --input=run, '
      'where the data of the run are now; other data go to --input, and the '
      'size of the images belongs to the checkpoint'
    )
  if text == _RUN:
    trained = section_flags.apply(trained, {'data': moved})
    given = {'train_split': split or trained.data.train_split}
    kind = trained.data.source
  else:
    kind, value = _divide(text)
    given = _given(kind, value, split)
  _check_read(kind, changes or {})
  # Bad pictures are listed and counted; no share of them spoils the others.
  reading = {'max_bad_fraction': 1.0, 'test_split': '', **(changes or {})}
  config = config_lib.replace(
    trained,
    data={**given, **reading},
    eval={'batch_size': batch_size or trained.eval.batch_size},
    # A run's monitor wants a test split, which these data need not have.
    monitor={'knn_every': '0 steps'},
    checkpoint={'best_metric': 'loss'},
  )
  base = os.path.realpath(config.data.path) if kind == 'folder' else ''
  return Input(config, config.data.train_split, base)


def _check_read(kind: str, changes: Mapping[str, Any]) -> None:
  """Raises if a field is given that nobody would read."""
  for name, kinds in _READ_BY.items():
    if name in changes and kind not in kinds:
      raise ValueError(
        f'--{name}={changes[name]} is for --input of the kind '
        f'{" or ".join(kinds)}; of {kind} it would change nothing'
      )


def _divide(text: str) -> tuple[str, str]:
  """Kind of source and what it is given."""
  kind, colon, value = text.partition(':')
  if colon and kind in data.SOURCES and value:
    return kind, paths.read(value, remote=False)
  if text in _NAMED and not os.path.exists(text):
    return text, ''
  if retries.is_file(text):
    extension = os.path.splitext(text)[1].lower()
    if extension not in _OF_FILE:
      advice = other_files.of_file(text)
      raise ValueError(
        f'--input={text} is a file; a folder of pictures, an .npz of arrays or '
        'a .parquet of pictures is wanted' + (f'; {advice}' if advice else '')
      )
    return _OF_FILE[extension], os.path.abspath(text)
  if retries.is_dir(text):
    return _kind_of_folder(text), os.path.abspath(text)
  if _TFDS_NAME.fullmatch(text):
    return 'tfds', text
  raise ValueError(
    f'--input={text} is no file or folder, and no name of a data set; give a '
    'folder of pictures, or KIND:VALUE with a KIND of '
    f'{", ".join(data.SOURCES)} (tfds:cifar10)'
  )


def _kind_of_folder(path: str) -> str:
  listing = retries.open_data(lambda: folder_scan.list_pictures(path))
  kinds = {_OF_FOLDER[e] for e in listing.ignored if e in _OF_FOLDER}
  if listing.pictures:
    kinds.add('folder')
  if len(kinds) == 1:
    return kinds.pop()
  if kinds:
    options = ' or '.join(f'--input={kind}:{path}' for kind in sorted(kinds))
    raise ValueError(
      f'--input={path} holds several kinds of files, and to take one silently '
      f'would leave out the others: say {options}'
    )
  advice = other_files.advise(path, listing.ignored)
  raise ValueError(
    f'--input={path} holds neither pictures '
    f'({", ".join(folder_scan.EXTENSIONS)}) nor .parquet, .npz or .npy; a TFDS '
    f'data set is named: --input=tfds:NAME --data_dir={path}'
    + (f'; {advice}' if advice else '')
  )


def _given(kind: str, value: str, split: str) -> dict[str, Any]:
  """Fields of `config.data` that say which data set."""
  if not split and kind != 'folder':
    raise ValueError(
      f'--split is empty; a data set of kind {kind} is embedded split by split '
      '(--split=train, --split=train[:1000])'
    )
  fields = {
    'source': kind,
    'name': '',
    'path': '',
    'labels_from': 'none',
    'image_key': 'image',
    'label_key': 'label',
    'train_split': split,
  }
  if kind == 'tfds':
    fields['name'] = value
  elif kind not in _NAMED:
    fields['path'] = os.path.abspath(value)
  return fields
