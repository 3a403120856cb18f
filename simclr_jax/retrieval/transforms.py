"""PCA and whitening, fitted on a set of embeddings and applied to queries too.

  y = (x - mean) @ matrix

PCA keeps the directions of largest variance. Whitening-k also gives them equal
variance (Su et al. 2021, 'Whitening sentence representations for better
semantics and faster retrieval', algorithm 1): directions that all pictures
share no longer drown the others.

The covariance is summed chunk by chunk in float64, so that memory is D x D
whatever the number of embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
import dataclasses
import difflib
import io
import pathlib
import zipfile

import numpy as np

from simclr_jax import writes
from simclr_jax.training import damage

# Below it, as a share of the largest, a variance is rounding.
_LEAST_VARIANCE = 1e-7
_ARRAYS = ('mean', 'matrix', 'variances')


@dataclasses.dataclass(frozen=True)
class Fitted:
  """A fitted transform.

  Attributes:
    kind: Key of TRANSFORMS.
    mean: f32 [D].
    matrix: f32 [D, k].
    variances: f64 [D], of all directions, falling.
  """

  kind: str
  mean: np.ndarray
  matrix: np.ndarray
  variances: np.ndarray

  @property
  def dim(self) -> int:
    """Width of what it gives."""
    return int(self.matrix.shape[1])

  @property
  def kept(self) -> float:
    """Share of the variance in the directions that are kept."""
    return float(self.variances[: self.dim].sum() / self.variances.sum())

  def apply(self, x_nxD: np.ndarray) -> np.ndarray:
    """Transformed rows, f32 [n, k]."""
    if x_nxD.shape[1:] != self.mean.shape:
      raise ValueError(
        f'vectors of width {x_nxD.shape[1:]} given to a transform of '
        f'{self.mean.shape}'
      )
    return (np.asarray(x_nxD, np.float32) - self.mean) @ self.matrix


def _pca(variances: np.ndarray, directions: np.ndarray) -> np.ndarray:
  del variances
  return directions


def _whitening(variances: np.ndarray, directions: np.ndarray) -> np.ndarray:
  return directions / np.sqrt(variances)


# (variances [k], directions [D, k]) -> matrix [D, k].
TRANSFORMS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  'pca': _pca,
  'whitening': _whitening,
}


def parse(text: str) -> tuple[str, int]:
  """'pca:64' as (kind, width).

  Raises:
    ValueError: If it is none.
  """
  kind, _, dim = text.partition(':')
  if kind not in TRANSFORMS:
    close = difflib.get_close_matches(kind, TRANSFORMS, n=1)
    hint = f'did you mean {close[0]!r}? ' if close else ''
    raise ValueError(
      f'--transform={text[:99]}: {hint}known: {", ".join(TRANSFORMS)}, each '
      'with a width, e.g. whitening:64'
    )
  if not dim.isdecimal() or not 0 < int(dim) < 10**6:
    raise ValueError(
      f'--transform={text[:99]}: a width is wanted, e.g. {kind}:64'
    )
  return kind, int(dim)


def fit(
  chunks: Iterable[np.ndarray], *, kind: str, dim: int, where: str = ''
) -> Fitted:
  """Fits a transform.

  Args:
    chunks: Rows [n, D], in pieces.
    kind: Key of TRANSFORMS.
    dim: Directions to keep, at most those that carry variance.
    where: Of the rows, for messages.

  Raises:
    ValueError: If fewer directions carry variance than are asked for.
  """
  count, total, squares = 0, None, None
  shift: np.ndarray | None = None
  for chunk in chunks:
    rows = np.asarray(chunk, np.float64)
    if shift is None or total is None or squares is None:
      # About a point near the mean: a large mean would eat the digits.
      shift = rows.mean(0)
      total, squares = np.zeros_like(shift), np.zeros((shift.size,) * 2)
    rows = rows - shift
    count += len(rows)
    total += rows.sum(0)
    squares += rows.T @ rows
  if shift is None or total is None or squares is None or count < 2:
    raise ValueError(f'{where}: a transform needs at least two embeddings')
  mean = total / count
  covariance = (squares - count * np.outer(mean, mean)) / (count - 1)
  variances, directions = np.linalg.eigh(covariance)
  variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1]
  rank = int(np.sum(variances > _LEAST_VARIANCE * variances[0]))
  if dim > rank:
    raise ValueError(
      f'--transform={kind}:{dim}: only {rank} of {shift.size} directions of '
      f'the {count} embeddings {where} carry variance; use {kind}:{rank} or '
      'less'
    )
  # The sign of a direction is free; here its largest entry is positive.
  largest = np.argmax(np.abs(directions), axis=0)
  signs = np.sign(directions[largest, np.arange(shift.size)])
  directions = (directions * signs)[:, :dim]
  matrix = TRANSFORMS[kind](variances[:dim], directions)
  return Fitted(
    kind,
    (shift + mean).astype(np.float32),
    matrix.astype(np.float32),
    variances,
  )


def save(fitted: Fitted, path: pathlib.Path, *, of: str) -> None:
  """Writes an .npz, whole or not at all.

  Args:
    fitted: Transform.
    path: File; its folder is made.
    of: Digest of the embeddings it was fitted on.
  """
  buffer = io.BytesIO()
  arrays = {name: getattr(fitted, name) for name in _ARRAYS}
  texts = {'kind': np.array(fitted.kind), 'of': np.array(of)}
  np.savez(buffer, allow_pickle=False, **arrays, **texts)
  writes.whole(path, buffer.getvalue())


def load(
  path: pathlib.Path, *, of: str, earlier: Collection[str] = ()
) -> Fitted | None:
  """Reads it again.

  Args:
    path: File.
    of: Digest of the embeddings.
    earlier: Digests of fewer of them.

  Returns:
    None if it was fitted on fewer.

  Raises:
    ValueError: If it is damaged, or was fitted on other embeddings.
  """
  try:
    with (
      open(path, 'rb') as file,
      np.load(file, allow_pickle=False) as npz,
    ):
      values = {name: npz[name] for name in (*_ARRAYS, 'kind', 'of')}
  except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
    damage.raise_refusal(path, error)
    raise ValueError(f'{path} is no transform: {error}; delete it') from error
  kind, fitted_on = str(values['kind']), str(values['of'])
  if fitted_on in earlier:
    return None
  if fitted_on != of:
    raise ValueError(
      f'{path} was fitted on other embeddings, perhaps of another checkpoint: '
      'its directions mean nothing here; delete it'
    )
  mean, matrix, variances = (values[name] for name in _ARRAYS)
  good = (
    kind in TRANSFORMS
    and all(a.dtype.kind == 'f' for a in (mean, matrix, variances))
    and mean.ndim == variances.ndim == 1
    and matrix.ndim == 2
    and matrix.shape[0] == len(mean) == len(variances)
    and all(np.isfinite(a).all() for a in (mean, matrix, variances))
  )
  if not good:
    raise ValueError(f'{path} is no transform; delete it')
  return Fitted(kind, mean, matrix, variances)
