"""Pictures added to a finished set: only those are embedded.

The new ones become a member of their own (`members.py`), beside the old: they
are computed as any set is, resumable and by any number of processes, and count
from the moment embeddings.json names them. A set says what it is of, so a
picture that is gone, has changed or has another label is refused: its embedding
would be that of something else.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shutil
from typing import Any

from absl import logging
import jax

from simclr_jax import processes
from simclr_jax.data.names import printable
from simclr_jax.data.source import Source
from simclr_jax.data.sources import folder as folder_source
from simclr_jax.retrieval import (
  atomic,
  completion,
  computing,
  embedding,
  embedding_files,
  inputs,
  members,
  opening,
  shards,
)
from simclr_jax.retrieval.embedding_set import EmbeddingSet
from simclr_jax.training import checkpoint, provenance

_SHOWN = 5  # names in a message
_ROWS = 8192  # names read at a time


def add(
  loaded: checkpoint.LoadedEncoder,
  found: inputs.Input,
  *,
  out: pathlib.Path,
  options: embedding.Options,
  kind: str = 'checkpoint',
  stop_fn: computing.StopFn = lambda: False,
) -> completion.Embedded:
  """Embeds the pictures of a folder that a set does not hold yet; collective.

  Args:
    loaded: Checkpoint that made the set.
    found: The folder, with the checkpoint's config.
    out: Folder of the set.
    options: As they were; others are refused.
    kind: See `spaces.make_space`.
    stop_fn: Asked after each batch.

  Raises:
    computing.Stopped: If `stop_fn` said so; the same call continues.
    ValueError: If the set is not finished, was made otherwise, or holds a
      picture that is not in the folder any more as it was.
  """
  out = pathlib.Path(os.path.realpath(out))
  with processes.together():
    embedding.check_out(out, found.config.data.path)
    if found.config.data.source != 'folder':
      raise ValueError(
        f'--add: {found.config.data.source} has no pictures that come and go '
        'by name, as a folder has; embed into a new --out'
      )
    before = EmbeddingSet(out)
    if jax.process_index() == 0:
      # `publish` locks it; after hours of work is too late to find it is not.
      with open(out / embedding_files.STARTED, 'r+b'):
        pass
  with opening.workdir(out) as looked:
    with processes.together():
      new = find_new(before, found, workdir=looked)
    space = embedding.open_space(loaded, kind=kind)
    identity = embedding.identify(space, new, options)
    embedding.check_processes(new, identity, set=before.identity.digest)
    with processes.together():
      embedding_files.check_same(
        before.identity, identity, out, ignore=('source', 'num_examples')
      )
    opening.keep(looked, out)
  identity = dataclasses.replace(
    identity, first_id=before.identity.num_examples
  )
  about = embedding.describe(space, found, new)
  bad = [*new.skipped]
  computed = 0
  if new.num_examples:
    number = len(before.members)
    target = out / members.folder_name(number, identity)
    computing.claim(target, identity, about)
    added = computing.compute(
      space,
      dataclasses.replace(new, skipped=()),
      identity,
      about=about,
      found=found,
      out=target,
      stop_fn=stop_fn,
    )
    computed = added.num_computed
    with processes.together():
      if jax.process_index() == 0:
        publish(before, EmbeddingSet(target), about, num_bad=len(bad))
        embedding_files.remove_unfinished(out)
  num_rows = 0
  with processes.together():
    if jax.process_index() == 0:
      after = EmbeddingSet(out)
      num_rows = len(after)
      bad += [(b.path, b.reason) for each in after.bad() for b in each]
      if new.num_examples:  # Else embeddings.json counts those of before.
        embedding_files.write_skipped(out, bad)
  num_rows = processes.from_first(num_rows)
  return completion.Embedded(out, num_rows, tuple(bad), computed)


def find_new(
  before: EmbeddingSet, found: inputs.Input, *, workdir: pathlib.Path
) -> Source:
  """Pictures of a folder that a set does not hold; there may be none.

  Args:
    before: Set.
    found: The folder.
    workdir: Where the results of looking at it are kept.

  Raises:
    ValueError: If a picture of the set is gone, has changed, or has another
      class: names them.
  """
  split = before.stated('input').get('split')
  if split != found.split:
    raise ValueError(
      f'{before.folder} was made with --split={split}, not {found.split}: give '
      'the same, or embed into a new --out'
    )
  names = _names(before)

  def divide(whole: Source) -> list[list[int]]:
    _check_classes(before, whole)
    rows: dict[str, collections.deque[int]] = {}
    for i in range(whole.num_examples):
      name = computing.relative(whole.example_id(i), found.base)
      rows.setdefault(shards.stored_name(name), collections.deque()).append(i)
    old, gone = [], []
    for known in names:
      here = []
      for name in known:
        if rows.get(name):
          here.append(rows[name].popleft())
        else:
          gone.append(name)
      old.append(here)
    if gone:
      which = f'{len(gone)} pictures ({_list(gone)})'
      raise _stale(before, whole, which, 'are not there any more')
    return [*old, sorted(i for left in rows.values() for i in left)]

  *old, new = folder_source.make_parts(
    found.config.data, found.split, divide, workdir=workdir
  )
  for member, part in zip(before.members, old, strict=True):
    if part.fingerprint != member.identity.source:
      # File times are a hint alone: some copies keep them, some edits too.
      newer = _newer(before, part)
      hint = f' (written since: {_list(newer)})' if newer else ''
      raise _stale(
        before, part, f'pictures{hint}', 'have changed, or their class has'
      )
  return new


def _names(embeddings: EmbeddingSet) -> list[list[str]]:
  """Names of a member's pictures in the order of their ids, by member."""
  known: dict[int, str] = {}
  for rows in embeddings.chunks(_ROWS, ('path',)):
    known.update(zip(rows.id.tolist(), rows.path, strict=True))
  found = []
  for member, bad in zip(embeddings.members, embeddings.bad(), strict=True):
    first = member.identity.first_id
    for each in bad:
      known[first + each.id] = shards.stored_name(each.path)
    ids = range(first, first + member.identity.num_examples)
    if absent := [i for i in ids if i not in known]:
      raise ValueError(f'{member.folder} does not say what {absent[0]} is')
    found.append([known[i] for i in ids])
  return found


def _check_classes(before: EmbeddingSet, whole: Source) -> None:
  names = before.class_names
  if bool(before.identity.num_classes) != bool(whole.num_classes):
    has = 'labels' if before.identity.num_classes else 'no labels'
    raise ValueError(
      f'{before.folder} was made with {has}; give the same --labels_from'
    )
  if names == whole.class_names:
    return
  odd = sorted(set(names) ^ set(whole.class_names))
  raise ValueError(
    f'{before.folder} numbers the classes of {len(names)} folders, and there '
    f'are {len(whole.class_names)} now ({_list(odd)}): a number would mean '
    'another class; embed into a new --out'
  )


def _newer(before: EmbeddingSet, part: Source) -> list[str]:
  """Pictures that were written after the set."""
  made = os.path.getmtime(before.folder / embedding_files.MANIFEST)
  names = []
  for i in range(part.num_examples):
    with contextlib.suppress(OSError):
      if os.path.getmtime(name := part.example_id(i)) > made:
        names.append(name)
  return names


def _stale(
  before: EmbeddingSet, source: Source, which: str, what: str
) -> ValueError:
  return ValueError(
    f'{which} of {before.folder} {what}: their embeddings would be '
    f'found although {source.name} does not hold such a picture. --add takes '
    'new ones alone; put them back, or embed into a new --out'
  )


def _list(names: Sequence[str]) -> str:
  more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
  return ', '.join(map(printable, names[:_SHOWN])) + more


def publish(
  before: EmbeddingSet,
  added: EmbeddingSet,
  about: dict[str, Any],
  *,
  num_bad: int,
) -> None:
  """Makes a finished set a member of another, in one step.

  Args:
    before: The set, as it was when the pictures to add were looked for.
    added: In a folder of it.
    about: For people and later commands.
    num_bad: Pictures of the folder that could not be read.

  Raises:
    ValueError: If another command has added to it since: both would have given
      the same ids to different pictures.
  """
  out = before.folder
  with open(out / embedding_files.STARTED, 'r+b') as file:
    # Where a file system has no locks, the window is a few milliseconds.
    with contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_EX)
    now = EmbeddingSet(out)
    if added.identity in [member.identity for member in now.members]:
      return  # The same command, twice at once.
    if now.identity != before.identity:
      raise ValueError(
        f'another command has added to {out} meanwhile; give the same command '
        'again'
      )
    whole = (*before.members, *added.members)
    bad = sum(map(len, before.bad())) + sum(map(len, added.bad()))
    devices = {
      str(device)
      for each in (before, added)
      for device in each.manifest.get('devices', [])
    }
    manifest = {
      **members.to_json(whole),
      **about,
      'num_rows': len(before) + len(added),
      'num_bad': num_bad + bad,
      'devices': sorted(devices),
      **provenance.made_by(),
    }
    atomic.write_json(out / embedding_files.MANIFEST, manifest)
  _remove_left_over(out, whole)


def _remove_left_over(
  out: pathlib.Path, whole: Sequence[members.Member]
) -> None:
  """Removes what killed commands began to add, of which the set has less."""
  kept = {member.folder.name for member in whole}
  for path in out.glob('added-*'):
    if path.name in kept or not 0 < members.number_of(path.name) < len(whole):
      continue
    if not embedding_files.is_being_written(path):
      logging.info('%s was never finished and is removed', path)
      shutil.rmtree(path, ignore_errors=True)
