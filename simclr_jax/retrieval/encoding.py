"""A source through an encoder, batch by batch, on this process' devices alone.

No collective: processes that share a data set each encode parts of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import pipeline
from simclr_jax.data.source import Example, Source
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.evaluation import features
from simclr_jax.retrieval import vectors


class NotFinite(ValueError):
  """The encoder has diverged: no picture is to blame."""


class Encoded(NamedTuple):
  """A batch, in the order of the source.

  Attributes:
    rows: int64 [n], places in the source.
    label: int64 [n], -1 for none.
    outputs: 'h' [n, D] and 'z' [n, d], f32.
  """

  rows: np.ndarray
  label: np.ndarray
  outputs: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Part:
  """Some rows of a source; can be sent to worker processes if that can."""

  source: Source
  rows: np.ndarray

  def read(self, i: int) -> Example:
    return self.source.read(int(self.rows[i]))

  def example_id(self, i: int) -> str:
    return self.source.example_id(int(self.rows[i]))


def part_of(source: Source, rows: np.ndarray) -> Source:
  """Rows int64 [n] of a source as a source, for reading alone."""
  part = _Part(source, rows)
  return dataclasses.replace(
    source,
    num_examples=len(rows),
    read=part.read,
    example_id=part.example_id,
    skipped=(),
    label_fn=None,
  )


def encode(
  encoder: encoder_lib.Encoder, source: Source, config: config_lib.Config
) -> Iterator[Encoded]:
  """Every example once, in order.

  Args:
    encoder: Its mesh holds devices of this process alone.
    source: Pictures.
    config: Its `data` and `eval` say how they are read and prepared.

  Raises:
    NotFinite: If a feature is not finite.
    ValueError: If a picture cannot be read, naming it.
  """
  if not source.num_examples:
    return
  ahead: tuple[dict[str, jax.Array], Any] | None = None
  batches = pipeline.eval_batches(
    source, data=config.data, eval_config=config.eval
  )
  expected = 0
  for batch in batches:
    batch = features.pad_rows(batch, len(encoder.mesh.local_devices))
    # Dispatched before the last one is fetched: devices work while we copy.
    dispatched = encoder.encode(batch['image']), batch
    if ahead is not None:
      yield _fetch(source, *ahead)
    ahead = dispatched
    expected += int(batch['mask'].sum())
  if ahead is not None:
    yield _fetch(source, *ahead)
  if expected != source.num_examples:
    raise RuntimeError(
      f'{expected} of {source.num_examples} examples of {source.name} came'
    )


def _fetch(
  source: Source, encoded: Mapping[str, jax.Array], batch: Any
) -> Encoded:
  mask = batch['mask']
  index = batch['index'][mask]
  outputs = {name: np.asarray(rows)[mask] for name, rows in encoded.items()}
  check_finite(
    outputs, lambda row: source.example_id(int(index[row])), name=source.name
  )
  return Encoded(index, batch['label'][mask].astype(np.int64), outputs)


def check_finite(
  outputs: Mapping[str, np.ndarray],
  name_fn: Callable[[int], str],
  *,
  name: str,
  why: str = 'the encoder has diverged',
) -> None:
  """Raises NotFinite, naming the first picture whose vector is not finite."""
  for output, rows in outputs.items():
    bad = np.flatnonzero(~np.isfinite(rows).all(-1))
    if bad.size:
      raise NotFinite(
        f'{output} of {name_fn(int(bad[0]))} ({name}) is not finite: {why}'
      )


def stored(
  encoded: Encoded, *, names: tuple[str, ...], normalized: bool, dtype: str
) -> dict[str, np.ndarray]:
  """Vectors as a set stores them.

  Raises:
    NotFinite: If one does not fit the type.
  """
  kept = {name: encoded.outputs[name] for name in names}
  if normalized:
    kept = {name: vectors.l2_normalize(rows) for name, rows in kept.items()}
  with np.errstate(over='ignore'):  # what overflows is refused just below
    kept = {name: rows.astype(dtype) for name, rows in kept.items()}
  check_finite(
    kept,
    lambda row: f'row {encoded.rows[row]}',
    name=f'as {dtype}',
    why='it is beyond 65504; use --dtype=float32, or --normalize',
  )
  return kept
