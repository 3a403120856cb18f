"""A complete set of embeddings, read in pieces: it may be larger than memory.

Rows are counted by position, 0 to len(set) - 1: the pictures that have an
embedding, in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
import pathlib
from typing import Any

import numpy as np

from simclr_jax.data.sources import parquet_schema
from simclr_jax.retrieval import atomic, embedding_files, members, shards
from simclr_jax.retrieval.identity import Identity
from simclr_jax.training import damage

_PLAIN = ('id', 'path', 'label')


class EmbeddingSet:
  """See the top of this file.

  Attributes:
    folder: Of the set.
    members: Its closed parts, one where nothing was added.
    identity: What it is of, all members together.
    manifest: embeddings.json.
  """

  def __init__(self, folder: pathlib.Path):
    """Opens it.

    Raises:
      ValueError: If it is missing, unfinished, damaged or of another version.
    """
    self.folder = pathlib.Path(folder)
    file = self.folder / embedding_files.MANIFEST
    if not file.is_file():
      started = (self.folder / embedding_files.STARTED).exists()
      raise ValueError(
        f'{folder} is not finished: the same simclr_jax.embed command continues'
        if started
        else f'{folder} holds no embeddings (simclr_jax.embed writes them)'
      )
    self.manifest = atomic.read_json(file)
    self.members = members.from_json(
      self.manifest, folder=self.folder, where=str(file)
    )
    self.identity: Identity = members.combine(
      [member.identity for member in self.members]
    )
    # Shards are counted through all members.
    self._places = [
      (member, shard)
      for member in self.members
      for shard in range(member.identity.num_shards)
    ]
    counts = [n for member in self.members for n in member.counts]
    self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    # The last row group: neighbouring rows are asked for one after another.
    self._group = functools.lru_cache(maxsize=2)(self._read_group)
    self._file = functools.lru_cache(maxsize=4)(self._open)

  def __len__(self) -> int:
    return int(self._starts[-1])

  @property
  def outputs(self) -> tuple[str, ...]:
    """'h', 'z' or both."""
    return tuple(self.identity.dims)

  @property
  def class_names(self) -> tuple[str, ...]:
    """Of the labels; empty where they have no names."""
    names = self.stated('input').get('class_names')
    return tuple(map(str, names)) if isinstance(names, list) else ()

  @property
  def bits(self) -> int:
    """`config.data.bits` that its images were read with.

    Raises:
      ValueError: If the set states an impossible number.
    """
    data = self.stated('input').get('data')
    bits = data.get('bits', 16) if isinstance(data, dict) else 16
    if bits not in range(8, 17):
      raise ValueError(f'{self.folder} states bits {bits!r}; 8 to 16 are known')
    return int(bits)

  @property
  def name(self) -> str:
    """Of the data set, for people."""
    return str(self.stated('input').get('name', 'the set'))

  def stated(self, section: str) -> dict[str, Any]:
    """What embeddings.json says of 'input' or 'encoder'; {} if nothing."""
    value = self.manifest.get(section)
    return value if isinstance(value, dict) else {}

  def rows(self, start: int, stop: int, columns: Sequence[str]) -> shards.Rows:
    """Rows at positions [start, stop).

    Args:
      start: First position.
      stop: One behind the last.
      columns: Some of 'id', 'path', 'label', 'h', 'z'; others are left empty.

    Raises:
      ValueError: If a file is missing, damaged or of another set.
    """
    start, stop = max(start, 0), min(stop, len(self))
    if start >= stop:
      raise ValueError(f'rows {start} to {stop} of {len(self)}')
    parts = []
    position = start
    while position < stop:
      shard = int(np.searchsorted(self._starts, position, side='right')) - 1
      _, groups = self._file(shard)
      local = position - int(self._starts[shard])
      group = int(np.searchsorted(groups, local, side='right')) - 1
      first = int(self._starts[shard] + groups[group])
      found = self._group(shard, group, tuple(columns))
      last = min(stop - first, len(found.id))
      parts.append(shards.cut(found, position - first, last))
      position = first + last
    return parts[0] if len(parts) == 1 else shards.join(parts)

  def chunks(self, size: int, columns: Sequence[str]) -> Iterator[shards.Rows]:
    """All rows in order, at most `size` at a time."""
    for start in range(0, len(self), size):
      yield self.rows(start, start + size, columns)

  def take(self, positions: np.ndarray, columns: Sequence[str]) -> shards.Rows:
    """Rows at any positions, in the order given."""
    order = np.argsort(positions, kind='stable')
    found = [self.rows(int(p), int(p) + 1, columns) for p in positions[order]]
    back = np.argsort(order, kind='stable')
    return shards.join([found[i] for i in back])

  def find(self, ids: Sequence[int]) -> np.ndarray:
    """Positions int64 of pictures by their ids.

    Raises:
      ValueError: If there is no such id, or its picture could not be read.
    """
    first = self.identity.first_id
    known = range(first, first + self.identity.num_examples)
    positions = []
    for i in ids:
      if i not in known:
        raise ValueError(
          f'id {i} is not in {self.folder}: ids are {known.start} to '
          f'{known.stop - 1}'
        )
      before = [m for m in self.members if m.identity.first_id <= i]
      member = before[-1]
      own = i - member.identity.first_id
      local = own // member.identity.shard_rows
      shard = sum(m.identity.num_shards for m in before[:-1]) + local
      bad = sorted(b.id for b in self._shard(shard).bad)
      place = int(np.searchsorted(bad, own))
      if place < len(bad) and bad[place] == own:
        raise ValueError(f'picture {i} of {self.folder} could not be read')
      offset = own - member.identity.span(local).start - place
      positions.append(int(self._starts[shard]) + offset)
    return np.array(positions, np.int64)

  def bad(self) -> list[list[shards.Bad]]:
    """Pictures without an embedding, of each member."""
    found: list[list[shards.Bad]] = []
    for shard, (_, local) in enumerate(self._places):
      if not local:
        found.append([])
      found[-1] += self._shard(shard).bad
    return found

  @property
  def earlier(self) -> frozenset[str]:
    """Digests of the set before pictures were added to it."""
    identities = [member.identity for member in self.members]
    return frozenset(
      members.combine(identities[:count]).digest
      for count in range(1, len(identities))
    )

  def _path(self, shard: int) -> pathlib.Path:
    member, local = self._places[shard]
    return member.folder / member.identity.file_name(local)

  def _shard(self, shard: int) -> shards.Shard:
    path = self._path(shard)
    member, local = self._places[shard]
    found = shards.open_shard(path, member.identity, local)
    if found.num_rows != self._starts[shard + 1] - self._starts[shard]:
      raise ValueError(f'{path} has other rows than embeddings.json says')
    return found

  def _open(self, shard: int) -> tuple[Any, np.ndarray]:
    """Open file, and the first row of each row group."""
    path = self._shard(shard).path
    file = parquet_schema.open_file(str(path))
    sizes = [
      file.metadata.row_group(i).num_rows
      for i in range(file.metadata.num_row_groups)
    ]
    return file, np.cumsum([0, *sizes])[:-1]

  def _read_group(
    self, shard: int, group: int, columns: tuple[str, ...]
  ) -> shards.Rows:
    file, _ = self._file(shard)
    path = self._path(shard)
    member, local = self._places[shard]
    arrow_error = parquet_schema.pyarrow().ArrowException
    wanted = list(dict.fromkeys(('id', *columns)))
    try:
      table = file.read_row_group(group, columns=wanted, use_threads=False)
    except (OSError, arrow_error) as error:
      damage.raise_refusal(path, error)
      # With more than one member nobody knows which pictures it was of.
      cure = (
        'delete it, and the same simclr_jax.embed command computes it again'
      )
      if len(self.members) > 1:
        cure = 'bring it back from a copy, or embed into a new --out'
      raise ValueError(f'{path} is damaged: {error}; {cure}') from error
    rows = shards.from_table(table, path=str(path))
    shards.check_rows(rows, member.identity, local, path=str(path))
    return rows


class Column:
  """One output as a bank whose rows are read as they are needed."""

  def __init__(self, embeddings: EmbeddingSet, output: str):
    self._set, self._output = embeddings, output

  def __len__(self) -> int:
    return len(self._set)

  def __getitem__(self, rows: slice) -> np.ndarray:
    start, stop, _ = rows.indices(len(self))
    return self._set.rows(start, stop, (self._output,)).vectors[self._output]
