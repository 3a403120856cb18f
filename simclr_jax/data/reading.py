"""Reading examples of a plan, and errors that name the example."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from simclr_jax import retries
from simclr_jax.data import image_header
from simclr_jax.data.names import printable
from simclr_jax.data.plan import Plan
from simclr_jax.data.source import Example, Source


class Chunk(NamedTuple):
  """Examples at some local positions, not decoded.

  Attributes:
    images: k encoded images or uint8 arrays [H, W, 3].
    labels: int32 [k].
    indices: int64 [k], places in the source.
    decided: What `Plan.decide` gives for them, [k, ...].
  """

  images: list[bytes | np.ndarray]
  labels: np.ndarray
  indices: np.ndarray
  decided: np.ndarray


def read_chunk(source: Source, plan: Plan, local: np.ndarray) -> Chunk:
  """Examples at local positions int64 [k].

  Raises:
    ValueError, retries.DataAway: If one cannot be read, or has no size in its
      header; it names the example.
  """
  indices = plan.locate(local)
  images: list[bytes | np.ndarray] = []
  labels = np.empty(len(indices), np.int32)
  sizes = np.empty((len(indices), 2), np.int64)
  for row, i in enumerate(indices.tolist()):
    image, labels[row] = read(source, i)
    images.append(image)
    sizes[row] = _image_size(source, i, image)
  return Chunk(images, labels, indices, plan.decide(local, sizes))


def read(source: Source, index: int) -> Example:
  """Reads an example, again where the operating system refuses it.

  Raises:
    retries.DataAway: If it does so for too long.
    ValueError: If what is there is no example. Both name it.
  """
  try:
    return retries.retry(
      lambda: source.read(index), what=lambda: _name(source, index)
    )
  except retries.DataAway:
    raise
  except Exception as error:
    raise ValueError(describe_failure(source, index, error=error)) from error


def describe_failure(source: Source, index: int, *, error: Exception) -> str:
  """Sentence about an example that cannot be used."""
  reason = getattr(error, 'message', str(error))
  return (
    f'{_name(source, index)} cannot be read: '
    f'{type(error).__name__}: {printable(reason)}'
  )


def _name(source: Source, index: int) -> str:
  name = printable(source.example_id(index))
  return f'example {index} of {source.name} ({name})'


def _image_size(
  source: Source, index: int, image: bytes | np.ndarray
) -> tuple[int, int]:
  if isinstance(image, np.ndarray):
    return image.shape[0], image.shape[1]
  try:
    return image_header.image_size(image)
  except ValueError as error:
    raise ValueError(describe_failure(source, index, error=error)) from error
