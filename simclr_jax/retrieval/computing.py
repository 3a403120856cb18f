"""The shards of a set that are missing, computed by all processes.

Shards are rows of the source, whatever the number of hosts: process k of n
computes every n-th one that is missing, on its own devices, and no process
waits for another before the end. So a set that one machine began can be
continued by four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np

from simclr_jax import processes
from simclr_jax.data import plain_image
from simclr_jax.data.progress import Progress
from simclr_jax.data.source import Source
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.retrieval import (
  completion,
  embedding_files,
  encoding,
  inputs,
  shards,
  spaces,
)
from simclr_jax.retrieval.identity import Identity

StopFn = Callable[[], bool]


class Stopped(Exception):
  """A signal came; what is complete stays."""


def claim(out: pathlib.Path, identity: Identity, about: dict[str, Any]) -> None:
  """Makes a folder ours, or finds that it is; collective.

  Raises:
    ValueError: See `embedding_files.claim`.
  """
  with processes.together():
    if jax.process_index() == 0:
      embedding_files.claim(out, identity, about)
    out.mkdir(parents=True, exist_ok=True)


def compute(
  space: spaces.Space,
  source: Source,
  identity: Identity,
  *,
  about: dict[str, Any],
  found: inputs.Input,
  out: pathlib.Path,
  stop_fn: StopFn,
) -> completion.Embedded:
  """Computes the shards of a set that are missing, and ends it; collective.

  Args:
    space: Encoder.
    source: Pictures.
    identity: Of the set, `identify` of these two.
    about: Of the set, for people.
    found: How pictures are read.
    out: Folder that is ours.
    stop_fn: Asked after each batch.
  """
  missing = _missing(out, identity)
  mine = missing[jax.process_index() :: jax.process_count()]
  with encoder_lib.frozen(space.encoder):
    _write_shards(
      space, source, identity, mine=mine, found=found, out=out, stop_fn=stop_fn
    )
  return completion.finish(out, identity, about, source, missing=missing)


def _missing(out: pathlib.Path, identity: Identity) -> list[int]:
  """Shards that are not there, the same for every process."""
  missing = None
  with processes.together():
    if jax.process_index() == 0:
      missing = [
        shard
        for shard in range(identity.num_shards)
        if embedding_files.complete_shard(out, identity, shard) is None
      ]
      there = identity.num_shards - len(missing)
      if there:
        logging.info(
          '%d of %d shards are there already', there, identity.num_shards
        )
  return list(processes.from_first(missing))


def _write_shards(
  space: spaces.Space,
  source: Source,
  identity: Identity,
  *,
  mine: Sequence[int],
  found: inputs.Input,
  out: pathlib.Path,
  stop_fn: StopFn,
) -> None:
  progress = Progress('Embedded', sum(len(identity.span(k)) for k in mine))
  for shard in mine:
    rows = np.array(identity.span(shard), np.int64)
    bad: list[shards.Bad] = []
    while True:
      good = rows[~np.isin(rows, [b.id for b in bad])]
      part = encoding.part_of(source, good)
      try:
        with shards.shard_writer(out, identity, shard) as writer:
          writer.bad, writer.device = bad, _device(space)
          for encoded in encoding.encode(space.encoder, part, found.config):
            if stop_fn():
              raise Stopped
            writer.add(_rows(encoded, good, part, identity, base=found.base))
        break
      except encoding.NotFinite:
        raise
      except ValueError:
        # Rare, so looked for only now: a data set whose pictures were not all
        # decoded beforehand (TFDS), or a file that has changed since.
        newly = _find_bad(part, good, base=found.base)
        if not newly:
          raise
        bad = sorted([*bad, *newly])
    progress.add(len(rows))


def _rows(
  encoded: encoding.Encoded,
  good: np.ndarray,
  part: Source,
  identity: Identity,
  *,
  base: str,
) -> shards.Rows:
  return shards.Rows(
    id=identity.first_id + good[encoded.rows],
    path=[relative(part.example_id(i), base) for i in encoded.rows.tolist()],
    label=encoded.label if identity.num_classes else None,
    vectors=encoding.stored(
      encoded,
      names=tuple(identity.dims),
      normalized=identity.normalized,
      dtype=identity.dtype,
    ),
  )


def relative(path: str, base: str) -> str:
  """Path below `base` without it; anything else as it is."""
  return path.removeprefix(os.path.join(base, '')) if base else path


def _find_bad(part: Source, good: np.ndarray, *, base: str) -> list[shards.Bad]:
  """Pictures that cannot be read or decoded.

  Raises:
    OSError, MemoryError: If it is not the picture that fails but the machine
      (a disk, a mount, too many open files): the picture may be fine the next
      time, and what is noted as bad here stays so.
  """
  found = []
  for i in range(part.num_examples):
    try:
      image, _ = part.read(i)
      if not isinstance(image, np.ndarray):
        plain_image.inspect(image)
    # Pillow's decoders raise nearly every built-in exception for damaged data.
    except Exception as error:
      # Pillow's own OSErrors, of what is in a file, have no number.
      is_system = isinstance(error, OSError) and error.errno is not None
      if is_system or isinstance(error, MemoryError):
        raise
      reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:500]
      path = relative(part.example_id(i), base)
      found.append(shards.Bad(int(good[i]), path, reason))
  return found


def _device(space: spaces.Space) -> str:
  return str(space.encoder.mesh.devices.flat[0].device_kind)
