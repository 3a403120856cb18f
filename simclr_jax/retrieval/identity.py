"""What a set of embeddings is of: equal identities, equal contents."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
from typing import Any

FORMAT = 1
OUTPUTS = ('h', 'z')
DTYPES = ('float32', 'float16')


@dataclasses.dataclass(frozen=True)
class Identity:
  """What decides the contents of a set; another one is another set.

  Attributes:
    space: Hash of encoder and preprocessing (`spaces.Space`): only vectors of
      one space may be compared.
    source: Fingerprint of the data.
    num_examples: Rows of the source.
    dims: Output ('h', 'z') -> its width.
    dtype: 'float32' or 'float16'.
    normalized: Whether rows were divided by their norms.
    num_classes: 0 where there is no label.
    shard_rows: Rows of the source that a shard covers.
    first_id: Id of the first row; not 0 in a set that was added to another.
  """

  space: str
  source: str
  num_examples: int
  dims: Mapping[str, int]
  dtype: str
  normalized: bool
  num_classes: int
  shard_rows: int
  first_id: int = 0

  @property
  def num_shards(self) -> int:
    """Files of the whole set."""
    return -(-self.num_examples // self.shard_rows)

  def span(self, shard: int) -> range:
    """Rows of the source that a shard covers."""
    start = shard * self.shard_rows
    return range(start, min(start + self.shard_rows, self.num_examples))

  def file_name(self, shard: int) -> str:
    """Of a shard; sorted by name they are in order."""
    return f'part-{shard:05d}-of-{self.num_shards:05d}.parquet'

  def to_json(self) -> dict[str, Any]:
    """For files; `identity_from_json` reads it."""
    value = {'format': FORMAT, **dataclasses.asdict(self)}
    if not self.first_id:
      del value['first_id']  # as before there was one: digests stay
    return value

  @property
  def digest(self) -> str:
    """Hash of it."""
    text = json.dumps(self.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def identity_from_json(value: Any, *, where: str) -> Identity:
  """Checked: files come from others.

  Raises:
    ValueError: If it is no identity that this version reads.
  """
  fields = {f.name for f in dataclasses.fields(Identity)} - {'first_id'}
  if not isinstance(value, dict) or not fields <= value.keys():
    raise ValueError(f'{where} is no description of embeddings')
  if value.get('format') != FORMAT:
    raise ValueError(
      f'{where} has format {str(value.get("format"))[:20]}, this simclr_jax '
      f'reads {FORMAT}; use the version that wrote it'
    )
  first_id = value.get('first_id', 0)
  identity = Identity(
    **{name: value[name] for name in fields}, first_id=first_id
  )
  texts = (identity.space, identity.source, identity.dtype)
  dims = identity.dims
  numbers = [identity.num_examples, identity.shard_rows]
  if isinstance(dims, dict):
    numbers += dims.values()
  good = (
    all(isinstance(text, str) for text in texts)
    and isinstance(dims, dict)
    and bool(dims)
    and dims.keys() <= set(OUTPUTS)
    and all(type(n) is int and 0 < n < 2**40 for n in numbers)
    and type(first_id) is int
    and 0 <= first_id < 2**40
    and type(identity.num_classes) is int
    and identity.num_classes >= 0
    and type(identity.normalized) is bool
    and identity.dtype in DTYPES
  )
  if not good:
    raise ValueError(f'{where}: the description of the embeddings is damaged')
  return identity
