"""kNN accuracy on cosine similarity, by weighted and by plain votes.

Neighbours are exact (`neighbours.py`). Of classes with equally many votes the
lower wins. A class without a vote is no prediction, also not within the top 5.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.evaluation import features as features_lib
from simclr_jax.evaluation import intervals, ranks
from simclr_jax.evaluation import neighbours as neighbours_lib
from simclr_jax.evaluation.occurring import Occurring


@dataclasses.dataclass(frozen=True)
class KnnScore:
  """Accuracy for one way to vote.

  Attributes:
    k: Neighbours that vote.
    weighting: 'exp' (weight exp(similarity / temperature)) or 'plain'.
    temperature: None for plain votes.
    top1, top5: In [0, 1]; top5 is None where five classes or fewer occur.
    top1_interval: 95 % bootstrap over test examples.
  """

  k: int
  weighting: str
  temperature: float | None
  top1: float
  top5: float | None
  top1_interval: intervals.Interval


@dataclasses.dataclass(frozen=True)
class KnnResult:
  """What kNN reports; JSON by `dataclasses.asdict`.

  Attributes:
    headline: The first k with the first temperature of the config. Never the
      best of the table: that would select on the test split.
    table: Every k x temperature, and every k with plain votes.
    layer: 'h' or 'z'.
    majority: Share of the commonest test class.
    num_classes, num_train, num_test: Sizes; num_train is the bank.
    num_train_classes, num_test_classes: Classes that occur.
    warnings: What a reader of the number has to know.
  """

  headline: KnnScore
  table: tuple[KnnScore, ...]
  layer: str
  majority: float
  num_classes: int
  num_train: int
  num_test: int
  num_train_classes: int
  num_test_classes: int
  warnings: tuple[str, ...] = ()


def knn_accuracy(
  train: features_lib.Features,
  test: features_lib.Features,
  config: config_lib.KnnConfig,
  *,
  mesh: Mesh,
) -> KnnResult:
  """kNN accuracy of test features against the bank of training features.

  Examples without a label, and a k larger than the bank, are left out, with a
  warning in the result.

  Raises:
    NoAccuracy: If labels allow none.
    ValueError: If both splits hold the same examples, or every k is larger than
      the bank.
  """
  train, test, occurring = features_lib.comparable(train, test)
  num_train = len(train.labels)
  ks = [k for k in config.ks if k <= num_train] or config.ks[:1]
  warnings = tuple(
    f'k = {k} is left out: the bank has {num_train} training examples'
    for k in config.ks
    if k not in ks
  )
  neighbours = neighbours_lib.nearest_neighbours(
    getattr(train, config.layer),
    getattr(test, config.layer),
    k=max(ks),
    chunk_size=config.chunk_size,
    mesh=mesh,
  )
  votes = [(k, t) for k in ks for t in (*config.temperatures, None)]
  rank_of_votes = _ranks(
    neighbours,
    train.labels[neighbours.index_Qxk],
    test.labels,
    votes=tuple(votes),
    num_classes=train.num_classes,
    mesh=mesh,
  )
  table = tuple(
    _score(rank_Q, vote, config.num_bootstrap, occurring)
    for rank_Q, vote in zip(rank_of_votes, votes, strict=True)
  )
  return KnnResult(
    headline=table[0],
    table=table,
    layer=config.layer,
    majority=float(np.bincount(test.labels).max() / len(test.labels)),
    num_classes=train.num_classes,
    num_train=num_train,
    num_test=len(test.labels),
    num_train_classes=occurring.num_train_classes,
    num_test_classes=occurring.num_test_classes,
    warnings=(*occurring.notes, *warnings),
  )


def _ranks(
  neighbours: neighbours_lib.Neighbours,
  classes_Qxk: np.ndarray,
  labels_Q: np.ndarray,
  *,
  votes: tuple[tuple[int, float | None], ...],
  num_classes: int,
  mesh: Mesh,
) -> list[np.ndarray]:
  """Classes ranked above the true one, [Q] for every (k, temperature)."""
  num_queries = len(labels_Q)
  block, num_padded = neighbours_lib.blocks(num_queries, mesh)
  put = functools.partial(
    neighbours_lib.put_queries, size=num_padded, mesh=mesh
  )
  rank_fn = _make_rank_fn(mesh, block, votes, num_classes)
  padded = neighbours_lib.to_host(
    rank_fn(
      put(neighbours.similarity_Qxk),
      put(classes_Qxk.astype(np.int32)),
      put(labels_Q.astype(np.int32)[:, None]),
    )
  )
  return [rank_Q[:num_queries] for rank_Q in padded]


@functools.lru_cache(maxsize=8)
def _make_rank_fn(
  mesh: Mesh,
  block: int,
  votes: tuple[tuple[int, float | None], ...],
  num_classes: int,
) -> Callable[..., Any]:
  """Compiled vote: rank of the true class, a tuple over `votes`."""

  def rank_block(inputs: Any) -> tuple[jax.Array, ...]:
    similarity_bxk, classes_bxk, label_bx1 = inputs
    found = []
    for k, temperature in votes:
      weight_bxk = jnp.ones_like(similarity_bxk[:, :k])
      if temperature is not None:
        # Relative to the nearest: the same vote, and exp cannot overflow.
        weight_bxk = jnp.exp(
          (similarity_bxk[:, :k] - similarity_bxk[:, :1]) / temperature
        )
      # Summed in one order, the same each time: a GPU's scatter-add is not, and
      # nearly equal tallies would swap places from run to run.
      is_class_bxkxK = classes_bxk[:, :k, None] == jnp.arange(num_classes)
      tally_bxK = jnp.sum(is_class_bxkxK * weight_bxk[:, :, None], axis=1)
      own_b = jnp.take_along_axis(tally_bxK, label_bx1, axis=1)[:, 0]
      rank_b = ranks.rank_of_class(tally_bxK, label_bx1)
      found.append(jnp.where(own_b > 0, rank_b, num_classes))
    return tuple(found)

  def rank(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    blocks = jax.tree.map(lambda x: x.reshape(-1, block, x.shape[-1]), arrays)
    return jax.tree.map(
      lambda x: x.reshape(-1), jax.lax.map(rank_block, blocks)
    )

  mapped = jax.shard_map(
    rank, mesh=mesh, in_specs=P('data'), out_specs=P('data')
  )
  return jax.jit(mapped)


def _score(
  rank_Q: np.ndarray,
  vote: tuple[int, float | None],
  num_bootstrap: int,
  occurring: Occurring,
) -> KnnScore:
  k, temperature = vote
  in_top5_Q = ranks.in_top5(rank_Q, occurring)
  return KnnScore(
    k=k,
    weighting='plain' if temperature is None else 'exp',
    temperature=temperature,
    top1=float(np.mean(rank_Q == 0)),
    top5=None if in_top5_Q is None else float(np.mean(in_top5_Q)),
    top1_interval=intervals.bootstrap_accuracy(
      rank_Q == 0, num_resamples=num_bootstrap
    ),
  )
