"""Members of a set: what was embedded at first, and what was added later.

Each is a closed set in a folder of its own (the first in that of the whole), so
nothing that is there is ever written again. Those that count are listed in
embeddings.json alone, and that file is replaced in one step: a folder that it
does not name is no part of the set. Ids of a member follow those of the members
before it, so an id means the same picture for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import pathlib
import re
from typing import Any, NamedTuple

from simclr_jax.retrieval.identity import Identity, identity_from_json

GROWN = 2  # Format of the description of a set of several members.
_KEY = 'members'
_FOLDER = re.compile(r'added-(\d{5})-[0-9a-f]{8}')
_SAME = ('space', 'dims', 'dtype', 'normalized', 'num_classes', 'shard_rows')


class Member(NamedTuple):
  """A closed set.

  Attributes:
    folder: Of its files.
    identity: What it is of.
    counts: Embeddings in each of its shards.
  """

  folder: pathlib.Path
  identity: Identity
  counts: tuple[int, ...]


def folder_name(number: int, identity: Identity) -> str:
  """Of the member after `number` others."""
  return f'added-{number:05d}-{identity.digest[:8]}'


def number_of(name: str) -> int:
  """The number in a `folder_name`; 0 if it is none."""
  found = _FOLDER.fullmatch(name)
  return int(found[1]) if found else 0


def combine(identities: Sequence[Identity]) -> Identity:
  """Identity of the whole; that of a single member is its own."""
  first, *others = identities
  if not others:
    return first
  text = '\n'.join(each.digest for each in identities)
  return dataclasses.replace(
    first,
    source=hashlib.sha256(text.encode()).hexdigest(),
    num_examples=sum(each.num_examples for each in identities),
  )


def is_grown(manifest: Mapping[str, Any]) -> bool:
  """Whether embeddings.json lists members."""
  identity = manifest.get('identity')
  return isinstance(identity, dict) and identity.get('format') == GROWN


def to_json(members: Sequence[Member]) -> dict[str, Any]:
  """Entries of embeddings.json that say what the set is of.

  Versions that know nothing of members refuse the format.
  """
  whole = combine([member.identity for member in members])
  return {
    'identity': {**whole.to_json(), 'format': GROWN},
    _KEY: [
      {
        'folder': member.folder.name if number else '',
        'identity': member.identity.to_json(),
        'rows_of_shards': list(member.counts),
      }
      for number, member in enumerate(members)
    ],
  }


def from_json(
  manifest: Mapping[str, Any], *, folder: pathlib.Path, where: str
) -> tuple[Member, ...]:
  """Members of a set, checked: files come from others.

  Args:
    manifest: embeddings.json.
    folder: Of the set.
    where: Of the file, for messages.

  Raises:
    ValueError: If they are not described, of another version, do not belong
      together, or lie outside the folder.
  """
  if not is_grown(manifest):
    return (_read(manifest, folder=folder, where=where),)
  entries = manifest.get(_KEY)
  if not isinstance(entries, list) or not entries:
    raise ValueError(f'{where}: {_KEY} is damaged')
  found: list[Member] = []
  first_id = 0
  for number, entry in enumerate(entries):
    name = entry.get('folder') if isinstance(entry, dict) else None
    if (
      not isinstance(name, str)
      or number_of(name) != number
      or (bool(name) != bool(number))
    ):
      raise ValueError(
        f'{where}: {_KEY} {number} lies in {str(name)[:99]!r}, which is no '
        'folder that simclr_jax.embed --add makes'
      )
    found.append(_read(entry, folder=folder / name, where=where))
    if found[-1].identity.first_id != first_id:
      raise ValueError(
        f'{where}: ids of {_KEY} {number} do not begin with {first_id}'
      )
    first_id += found[-1].identity.num_examples
    for field in _SAME:
      if getattr(found[0].identity, field) != getattr(
        found[-1].identity, field
      ):
        raise ValueError(f'{where}: {_KEY} 0 and {number} differ in {field}')
  if to_json(found)['identity'] != manifest['identity']:
    raise ValueError(f'{where}: {_KEY} are not those that its identity is of')
  return tuple(found)


def _read(
  entry: Mapping[str, Any], *, folder: pathlib.Path, where: str
) -> Member:
  identity = identity_from_json(entry.get('identity'), where=where)
  counts = entry.get('rows_of_shards')
  if (
    not isinstance(counts, list)
    or len(counts) != identity.num_shards
    or not all(type(n) is int and 0 <= n < 2**40 for n in counts)
    or not sum(counts)
  ):
    raise ValueError(f'{where}: rows_of_shards is damaged')
  return Member(folder, identity, tuple(counts))
