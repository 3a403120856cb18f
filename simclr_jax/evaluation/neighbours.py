"""Exact nearest neighbours by cosine similarity, with the bank in chunks.

The queries lie sharded over the mesh; chunks of the bank pass by all of them
while each query keeps its best k so far. So nothing of size queries x bank ever
exists: a device holds its queries, one chunk, and a block of similarities.

Of equally similar bank rows the one with the lower index is nearer, whatever
the chunk size and the number of devices.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any, NamedTuple, Protocol

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from simclr_jax.data.progress import Progress

# Queries whose similarities to a chunk exist at a time on a device.
_BLOCK = 256
_EPSILON = 1e-12  # Official l2_normalize: rsqrt(max(sum of squares, 1e-12)).


class Bank(Protocol):
  """Rows of vectors that are read in order; an array is one."""

  def __len__(self) -> int: ...

  def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class Neighbours(NamedTuple):
  """The k nearest bank rows of each query, nearest first.

  Attributes:
    similarity_Qxk: Cosine, or the product that was asked for; f32.
    index_Qxk: Row of the bank, i32.
  """

  similarity_Qxk: np.ndarray
  index_Qxk: np.ndarray


def nearest_neighbours(
  bank_nxD: np.ndarray | Bank,
  queries_QxD: np.ndarray,
  *,
  k: int,
  chunk_size: int,
  mesh: Mesh,
  normalize: bool = True,
) -> Neighbours:
  """Exact cosine neighbours.

  Args:
    bank_nxD: f32, the same on every host; any norms. In host memory, or read
      chunk by chunk.
    queries_QxD: f32, likewise; spread over the mesh's axis 'data'.
    k: Neighbours of each query.
    chunk_size: Bank rows on each device at a time.
    mesh: One axis 'data'.
    normalize: Compare directions; False compares by the plain inner product,
      where long vectors win.

  Raises:
    ValueError: If k is larger than the bank.
  """
  num_bank, num_queries = len(bank_nxD), len(queries_QxD)
  if k > num_bank:
    raise ValueError(
      f'k = {k} is larger than the bank of {num_bank} training examples; '
      f'lower knn.ks to at most {num_bank}'
    )
  chunk_size = min(chunk_size, num_bank)
  block, num_padded = blocks(num_queries, mesh)
  put = functools.partial(put_queries, size=num_padded, mesh=mesh)
  queries = put(queries_QxD)
  best = (
    put(np.full((num_padded, k), -np.inf, np.float32)),
    put(np.zeros((num_padded, k), np.int32)),
  )
  merge_fn = _make_merge_fn(mesh, block, normalize)
  progress = Progress('Compared with', num_bank, unit='rows of the bank')
  for start in range(0, num_bank, chunk_size):
    rows = bank_nxD[start : start + chunk_size]
    # Chunks of one shape: the last is padded with rows that never match.
    chunk = np.pad(rows, [(0, chunk_size - len(rows)), (0, 0)])
    offsets = np.array([start, len(rows)], np.int32)
    best = merge_fn(queries, best, *_put_replicated((chunk, offsets), mesh))
    progress.add(len(rows))
  similarity, index = to_host(best)
  return Neighbours(similarity[:num_queries], index[:num_queries])


@functools.lru_cache(maxsize=8)
def _make_merge_fn(
  mesh: Mesh, block: int, normalize: bool
) -> Callable[..., Any]:
  """Compiled update of every query's best k by one chunk of the bank."""
  scale = _normalize if normalize else lambda x_nxD: x_nxD

  def merge(
    queries_qxD: jax.Array,
    best: tuple[jax.Array, jax.Array],
    chunk_CxD: jax.Array,
    offsets: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    chunk_CxD = scale(chunk_CxD)
    start, num_valid = offsets
    position_C = jnp.arange(chunk_CxD.shape[0], dtype=jnp.int32)

    def merge_block(inputs: Any) -> tuple[jax.Array, jax.Array]:
      queries_bxD, similarity_bxk, index_bxk = inputs
      new_bxC = jnp.dot(
        scale(queries_bxD),
        chunk_CxD.T,
        precision=jax.lax.Precision.HIGHEST,
      )
      new_bxC = jnp.where(position_C < num_valid, new_bxC, -jnp.inf)
      index_bxC = jnp.broadcast_to(start + position_C, new_bxC.shape)
      # Earlier rows stand first and top_k is stable: ties go to the lower
      # index, whatever the chunks.
      pool = jnp.concatenate([similarity_bxk, new_bxC], axis=1)
      pool_index = jnp.concatenate([index_bxk, index_bxC], axis=1)
      kept, where = jax.lax.top_k(pool, similarity_bxk.shape[1])
      return kept, jnp.take_along_axis(pool_index, where, axis=1)

    blocks = jax.tree.map(
      lambda x: x.reshape(-1, block, x.shape[-1]), (queries_qxD, *best)
    )
    merged = jax.lax.map(merge_block, blocks)
    return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), merged)

  mapped = jax.shard_map(
    merge,
    mesh=mesh,
    in_specs=(P('data'), P('data'), P(), P()),
    out_specs=P('data'),
  )
  return jax.jit(mapped, donate_argnums=1)


def _normalize(x_nxD: jax.Array) -> jax.Array:
  squares = jnp.sum(jnp.square(x_nxD), axis=-1, keepdims=True)
  return x_nxD * jax.lax.rsqrt(jnp.maximum(squares, _EPSILON))


def blocks(num_queries: int, mesh: Mesh) -> tuple[int, int]:
  """(queries of a block, queries padded to whole blocks on every device)."""
  block = min(_BLOCK, -(-num_queries // mesh.size))
  per_round = block * mesh.size
  return block, -(-num_queries // per_round) * per_round


def put_queries(rows: np.ndarray, size: int, mesh: Mesh) -> jax.Array:
  """Rows sharded over the mesh, padded with zeros to `size` rows."""
  padded = np.pad(rows, [(0, size - len(rows)), (0, 0)])
  return jax.make_array_from_callback(
    padded.shape, NamedSharding(mesh, P('data')), lambda index: padded[index]
  )


def _put_replicated(tree: Any, mesh: Mesh) -> Any:
  sharding = NamedSharding(mesh, P())
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(
      x.shape, sharding, lambda index: x[index]
    ),
    tree,
  )


def to_host(tree: Any) -> Any:
  """NumPy arrays with the rows of all hosts."""
  if jax.process_count() > 1:
    return multihost_utils.process_allgather(tree, tiled=True)
  return jax.tree.map(np.asarray, tree)


def without_itself(index_Qxk: np.ndarray, rows_Q: np.ndarray) -> np.ndarray:
  """[Q,k-1] neighbours that are not the query.

  Found by its row: with copies of a picture in the data set, the query need not
  be its own nearest, nor among the k at all; then the farthest is left out.
  """
  other_Qxk = index_Qxk != rows_Q[:, None]
  order = np.argsort(~other_Qxk, axis=1, kind='stable')
  return np.take_along_axis(index_Qxk, order, axis=1)[:, :-1]
