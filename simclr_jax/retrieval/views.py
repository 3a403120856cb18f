"""How stored vectors are compared: which output, transformed how, by what."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses

import numpy as np

from simclr_jax.retrieval import vectors
from simclr_jax.retrieval.embedding_set import Column, EmbeddingSet
from simclr_jax.retrieval.transforms import Fitted

# Inner products both; `cosine` divides by the norms first. With the plain
# product long vectors win, whatever they show.
METRICS = ('cosine', 'dot')
CHUNK = 8192  # rows read at a time


@dataclasses.dataclass(frozen=True)
class View:
  """See the top of this file.

  Attributes:
    output: 'h' or 'z'.
    metric: One of METRICS.
    transform: Applied to bank and queries alike; None for none.
  """

  output: str = 'h'
  metric: str = 'cosine'
  transform: Fitted | None = None

  @property
  def name(self) -> str:
    """For files, e.g. 'h-cosine-pca64'."""
    parts = [self.output, self.metric]
    if self.transform is not None:
      parts.append(f'{self.transform.kind}{self.transform.dim}')
    return '-'.join(parts)

  def prepare(self, x_nxD: np.ndarray) -> np.ndarray:
    """Stored vectors as they are compared, f32 [n, d], by inner product.

    Normalised before and after the transform (Jegou and Chum 2012), so that its
    mean and directions are not those of the longest vectors.
    """
    x_nxD = np.asarray(x_nxD, np.float32)
    if self.metric == 'cosine':
      x_nxD = vectors.l2_normalize(x_nxD)
    if self.transform is not None:
      x_nxD = self.transform.apply(x_nxD)
      if self.metric == 'cosine':
        x_nxD = vectors.l2_normalize(x_nxD)
    return x_nxD

  def bank(self, embeddings: EmbeddingSet) -> Prepared:
    """A set's rows, prepared as they are read."""
    return Prepared(self, embeddings)


class Prepared:
  """Rows of a set as a view compares them; a `neighbours.Bank`."""

  def __init__(self, view: View, embeddings: EmbeddingSet):
    self._view, self._column = view, Column(embeddings, view.output)

  def __len__(self) -> int:
    return len(self._column)

  def __getitem__(self, rows: slice) -> np.ndarray:
    return self._view.prepare(self._column[rows])

  def chunks(self) -> Iterator[np.ndarray]:
    """All of them in order."""
    for start in range(0, len(self), CHUNK):
      yield self[start : start + CHUNK]


def check(view: View, embeddings: EmbeddingSet) -> None:
  """Raises ValueError if the set cannot be looked at so."""
  if view.metric not in METRICS:
    raise ValueError(f'--metric={view.metric}: one of {", ".join(METRICS)}')
  if view.output not in embeddings.outputs:
    raise ValueError(
      f'{embeddings.folder} holds {", ".join(embeddings.outputs)}, not '
      f'{view.output!r}; embed again with --outputs=h,z'
    )
