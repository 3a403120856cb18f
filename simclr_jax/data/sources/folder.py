"""Your own pictures: a folder, flat or nested, labelled or not.

JPEG, PNG, WebP, BMP and the first frame of GIF, of any size and colour mode.
Before the first step every file is decoded once (`folder_scan.py`); those that
cannot be read are counted, listed in the workdir and left out.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
import functools
import hashlib
import os
from typing import NamedTuple

from absl import logging
from etils import epath
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import retries, writes
from simclr_jax.data import (
  cache,
  deep_images,
  other_files,
  plain_image,
  split_names,
)
from simclr_jax.data.names import printable
from simclr_jax.data.source import NO_LABEL, Example, Source
from simclr_jax.data.sources import folder_classes, folder_scan, folder_split

SKIPPED_FILE = 'skipped_files.txt'
_SHOWN = 5  # entries of a list in a message


class _Pictures(NamedTuple):
  """Those of a split that can be read, with their classes."""

  name: str
  root: str
  files: list[folder_scan.File]
  labels: list[int]
  classes: tuple[str, ...]
  skipped: tuple[tuple[str, str], ...]
  bits: int


def make(
  data: config_lib.DataConfig,
  split: str,
  *,
  workdir: epath.PathLike | None = None,
) -> Source:
  """Source of the pictures below a folder.

  The order is that of the paths' bytes. With several hosts each checks all
  files.

  Args:
    data: Reads `path`, `labels_from`, `bits`, `max_bad_fraction` and, because
      the classes of both splits are numbered together, `train_split` and
      `test_split`.
    split: Sub-folder of `path`, or '' for all of it; with a part such as
      '[:80%]' behind it, see `folder_split`.
    workdir: Where `skipped_files.txt` and the results of the check are kept.

  Raises:
    ValueError: If the folder is missing, holds the workdir or the other split,
      has no picture that can be read, too many that cannot, or pictures without
      a class where classes are wanted.
  """
  return _source_of(_look(data, split, workdir))


def make_parts(
  data: config_lib.DataConfig,
  split: str,
  divide_fn: Callable[[Source], Sequence[Sequence[int]]],
  *,
  workdir: epath.PathLike | None = None,
) -> list[Source]:
  """Sources of parts of a folder, each as if there were no other pictures.

  So a part has the fingerprint that a folder of these pictures alone has.

  Args:
    data: As for `make`.
    split: As for `make`.
    divide_fn: Source of all -> for each part its rows, rising.
    workdir: As for `make`.
  """
  pictures = retries.open_data(lambda: _look(data, split, workdir))
  return [
    _source_of(
      pictures._replace(
        files=[pictures.files[i] for i in rows],
        labels=[pictures.labels[i] for i in rows],
      )
    )
    for rows in divide_fn(_source_of(pictures))
  ]


def _look(
  data: config_lib.DataConfig, split: str, workdir: epath.PathLike | None
) -> _Pictures:
  """Checks every file; see `make`."""
  part = folder_split.parse(split)
  root = _find_root(data, split)
  _check_outside(root, workdir)
  listing = folder_scan.list_pictures(root)
  classes: tuple[str, ...] = ()
  if data.labels_from == 'folders':
    classes = folder_classes.find(data, part.folder, listing.pictures)
  files = folder_scan.scan(
    root, listing.pictures, cache_folder=cache.folder(workdir)
  )
  chosen = folder_split.choose(part, listing.pictures)
  readable = [f for f, take in zip(files, chosen, strict=True) if take]
  readable = [f for f in readable if not f.reason]
  skipped = tuple((_join(root, f.path), f.reason) for f in files if f.reason)
  logging.info('%s', describe(root, files, ignored=listing.ignored))
  if workdir:
    _write_skipped(workdir, root, skipped)
  _check(data, root, files=files, skipped=skipped, ignored=listing.ignored)
  if split == data.train_split and data.test_split:
    _say_left_out(data)
  if not readable:
    raise ValueError(
      f'split {split!r} takes none of the {len(files)} pictures in {root}; '
      'name a larger share'
    )
  numbers = {name: number for number, name in enumerate(classes)}
  labels = [
    numbers[folder_classes.name_of(f.path)] if classes else NO_LABEL
    for f in readable
  ]
  name = _join(data.path, split)
  deep_images.check_range(name, _highest(readable), bits=data.bits)
  return _Pictures(name, root, readable, labels, classes, skipped, data.bits)


def _source_of(pictures: _Pictures) -> Source:
  root, labels = pictures.root, pictures.labels
  paths = [f.path for f in pictures.files]
  plain = np.array([f.plain for f in pictures.files], bool)

  def read(i: int) -> Example:
    with open(os.path.join(root, paths[i]), 'rb') as file:
      encoded = file.read()
    if not plain[i]:
      encoded = plain_image.to_plain(encoded, pictures.bits)
    return Example(encoded, labels[i])

  return Source(
    name=pictures.name,
    num_examples=len(paths),
    num_classes=len(pictures.classes),
    encoded=True,
    read=read,
    example_id=lambda i: _resolve(_join(root, paths[i])),
    fingerprint=_fingerprint(pictures),
    class_names=pictures.classes,
    skipped=pictures.skipped,
    label_fn=lambda i: labels[i],
  )


def _check_outside(root: str, workdir: epath.PathLike | None) -> None:
  """Raises if the run would write its own pictures among those it reads."""
  if workdir is None or '://' in os.fspath(workdir):
    return
  inside = os.path.relpath(os.path.realpath(workdir), os.path.realpath(root))
  parts = inside.split(os.sep)
  # Hidden folders are not read.
  if parts[0] != os.pardir and not any(p[:1] == '.' for p in parts if p != '.'):
    raise ValueError(
      f'the workdir {os.fspath(workdir)} lies in the pictures {root}: those of '
      'its report would be trained on; choose another --workdir'
    )


def describe(
  root: str,
  files: Sequence[folder_scan.File],
  *,
  ignored: dict[str, int],
) -> str:
  """Report of a checked folder, several lines."""
  readable = [f for f in files if not f.reason]
  lines = [
    f'Pictures in {root}: {len(files)} found, {len(readable)} readable, '
    f'{len(files) - len(readable)} skipped'
  ]
  reasons = collections.Counter(_kind(f.reason) for f in files if f.reason)
  lines += [f'  skipped {n}: {reason}' for reason, n in reasons.most_common()]
  if readable:
    formats = collections.Counter(f.format for f in readable)
    lines.append(f'  formats: {_counts(formats)}')
    for side in ('width', 'height'):
      pixels = [getattr(f, side) for f in readable]
      lines.append(
        f'  {side}: {min(pixels)} to {max(pixels)} px, median '
        f'{np.median(pixels):g}'
      )
    converted = sum(not f.plain for f in readable)
    lines.append(f'  converted while reading (slower): {converted}')
  if ignored:
    lines.append(f'  not pictures by their extension: {_counts(ignored)}')
  return '\n'.join(lines)


def _kind(reason: str) -> str:
  """Reason without the numbers that differ from file to file."""
  return ''.join('#' if c.isdigit() else c for c in reason).replace('##', '#')


def _counts(counts: dict[str, int]) -> str:
  rows = collections.Counter(counts).most_common(2 * _SHOWN)
  rest = len(counts) - len(rows)
  return ', '.join(f'{name} {n}' for name, n in rows) + (
    f' and {rest} more' if rest else ''
  )


def _join(root: str, path: str) -> str:
  return os.path.join(root, path) if path else root


def _resolve(path: str) -> str:
  """Where a file really lies: one name for it, whatever links lead there."""
  if os.path.islink(path):
    return os.path.realpath(path)
  folder, name = os.path.split(path)
  return os.path.join(_resolve_folder(folder), name)


# Looks at every part of a path, which is too slow for each of a million files.
@functools.lru_cache(maxsize=2**16)
def _resolve_folder(folder: str) -> str:
  return os.path.realpath(folder)


def _find_root(data: config_lib.DataConfig, split: str) -> str:
  part = folder_split.parse(split)
  root = _join(data.path, part.folder)
  if '://' in root:
    raise ValueError(
      f'config.data.path = {data.path!r}: a folder must be local or mounted; '
      'for remote storage prepare a TFDS data set'
    )
  if retries.is_file(root):
    advice = other_files.of_file(root)
    raise ValueError(
      f'{root} is not a folder but a file; config.data.path must name a folder '
      'of images' + (f'; {advice}' if advice else '')
    )
  if not retries.is_dir(root):
    field = 'config.data.path' if not part.folder else 'the split'
    there = ''
    if os.path.isdir(data.path):
      names = folder_classes.subfolders(data.path)
      there = (
        f'; {data.path} has the sub-folders {names[:_SHOWN]}'
        if names
        else (f'; {data.path} has no sub-folders')
      )
      if advice := split_names.advice(data, split, names):
        there += f'; {advice}'
    raise ValueError(
      f'{root} is not a folder; {field} must name one (for a folder a split is '
      f"a sub-folder, or '' for all of config.data.path, or a part such as "
      f"'[:80%]'){there}"
    )
  held_out = _join(data.path, folder_split.parse(data.test_split).folder)
  if not split and data.test_split and retries.is_dir(held_out):
    raise ValueError(
      f"split '' takes all of {data.path}, also {held_out}, which "
      'config.data.test_split holds out: the evaluation would be on images '
      'that were trained on; name a sub-folder in config.data.train_split, or '
      "set config.data.test_split=''"
    )
  return root


def check_split(data: config_lib.DataConfig, split: str) -> None:
  """Raises ValueError where there is no such split."""
  _find_root(data, split)


def _say_left_out(data: config_lib.DataConfig) -> None:
  """Warns of images beside the folders of the splits."""
  named = {
    folder_split.parse(split).folder.split('/')[0]
    for split in (data.train_split, data.test_split)
  }
  if '' in named:
    return
  folders = [
    f'{name}/'
    for name in folder_classes.subfolders(data.path)
    if name not in named and folder_classes.holds_image(data.path, name)
  ]
  with os.scandir(data.path) as entries:
    loose = sum(folder_scan.is_picture(e.name) for e in entries if e.is_file())
  if loose:
    folders.append(f'{loose} images directly in it')
  if folders:
    logging.warning(
      '%s: left out, because no split names them: %s; move them into a folder '
      'that config.data.train_split or test_split names (%s)',
      data.path,
      printable(', '.join(folders[:_SHOWN]))
      + (f' and {len(folders) - _SHOWN} more' if len(folders) > _SHOWN else ''),
      ', '.join(sorted(named)),
    )


def _write_skipped(
  workdir: epath.PathLike, root: str, skipped: Sequence[tuple[str, str]]
) -> None:
  """Lists skipped files below `root`, keeping the lines of other folders."""
  path = epath.Path(workdir) / SKIPPED_FILE
  lines = []
  if path.exists():
    lines = [
      line
      for line in path.read_text().splitlines()
      if not line.startswith(os.path.join(root, ''))
    ]
  elif not skipped:
    return
  lines += [f'{printable(name)}\t{reason}' for name, reason in skipped]
  try:
    writes.whole(path, ''.join(f'{line}\n' for line in lines))
  except OSError as error:  # The log has said how many there are.
    logging.warning('the skipped files are not listed: %s', error)


def _check(
  data: config_lib.DataConfig,
  root: str,
  *,
  files: Sequence[folder_scan.File],
  skipped: Sequence[tuple[str, str]],
  ignored: dict[str, int],
) -> None:
  examples = '\n'.join(
    f'  {printable(path)}: {reason}' for path, reason in skipped[:_SHOWN]
  )
  advice = other_files.advise(root, sorted(ignored, key=lambda e: -ignored[e]))
  if len(skipped) == len(files):
    others = f'; other files: {_counts(ignored)}' if ignored else ''
    raise ValueError(
      f'no picture that can be read in {root} ({len(files)} files end in '
      f'{", ".join(folder_scan.EXTENSIONS)}{others})\n{advice}\n'
      f'{examples}'.rstrip()
    )
  images = {e: n for e, n in ignored.items() if e in other_files.IMAGES}
  if images:
    logging.warning(
      '%s: %s are left out; %s',
      root,
      _counts(images),
      other_files.advise(root, images),
    )
  if len(skipped) > data.max_bad_fraction * len(files):
    raise ValueError(
      f'{len(skipped)} of {len(files)} pictures in {root} cannot be read, more '
      f'than config.data.max_bad_fraction = {data.max_bad_fraction:g}; repair '
      f'or remove them, or raise it to train without them. The first:\n'
      f'{examples}'
    )


def _highest(files: Sequence[folder_scan.File]) -> np.ndarray:
  return np.array([f.highest for f in files], np.int64)


def _fingerprint(pictures: _Pictures) -> str:
  """Hash of names, contents and labels; the same wherever the folder lies."""
  digest = hashlib.sha256()
  digest.update(deep_images.tag(_highest(pictures.files), pictures.bits))
  for file, label in zip(pictures.files, pictures.labels, strict=True):
    digest.update(os.fsencode(file.path))
    digest.update(f'\0{file.size} {file.crc} {label}\n'.encode())
  return digest.hexdigest()
