"""A data set to a folder of embeddings, shard by shard, on all hosts.

Shards are rows of the source, whatever the number of hosts: process k of n
computes every n-th one that is missing, on its own devices, and no process
waits for another before the end. So a set that one machine began can be
continued by four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import data, models, processes
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
from simclr_jax.retrieval.identity import DTYPES, OUTPUTS, Identity
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib

SHARD_ROWS = 20_000
StopFn = Callable[[], bool]


class Stopped(Exception):
  """A signal came; what is complete stays."""


@dataclasses.dataclass(frozen=True)
class Options:
  """How embeddings are stored.

  Attributes:
    outputs: Some of 'h' and 'z'.
    dtype: 'float32' or 'float16'.
    normalize: Divide each by its norm.
    shard_rows: Rows of the source to a file: what is lost when a process is
      killed.
  """

  outputs: tuple[str, ...] = ('h',)
  dtype: str = 'float32'
  normalize: bool = False
  shard_rows: int = SHARD_ROWS

  def __post_init__(self) -> None:
    known = set(self.outputs) <= set(OUTPUTS)
    if (
      not self.outputs
      or not known
      or len(set(self.outputs)) < len(self.outputs)
    ):
      raise ValueError(
        f'--outputs={",".join(self.outputs)}: some of {", ".join(OUTPUTS)}, '
        'each once'
      )
    if self.dtype not in DTYPES:
      raise ValueError(f'--dtype={self.dtype}: one of {", ".join(DTYPES)}')
    if not 1 <= self.shard_rows <= 10**8:
      raise ValueError(
        f'--shard_rows={self.shard_rows}: a number from 1 to 100,000,000 is '
        'wanted'
      )


def embed(
  loaded: checkpoint.LoadedEncoder,
  found: inputs.Input,
  *,
  out: pathlib.Path,
  options: Options,
  kind: str = 'checkpoint',
  stop_fn: StopFn = lambda: False,
) -> completion.Embedded:
  """Embeds every picture of a data set exactly once; collective.

  Args:
    loaded: Checkpoint.
    found: Data set, from `inputs.find_input` with the checkpoint's config.
    out: Folder; one that holds a part of the same embeddings is completed.
    options: How they are stored.
    kind: See `spaces.make_space`.
    stop_fn: Asked after each batch.

  Raises:
    Stopped: If `stop_fn` said so.
    ValueError: If `out` holds something else, no picture can be read, or a
      vector is not finite.
  """
  out = pathlib.Path(os.path.realpath(out))
  with processes.together():
    _check_out(out, found.config.data.path)
    # One looks, before any process leaves its cache there.
    if jax.process_index() == 0:
      embedding_files.check_free(out)
  with processes.together():
    source = data.make_source(found.config.data, found.split, workdir=out)
  space = spaces.make_space(
    loaded, mesh=mesh_lib.make_mesh(jax.local_devices()), kind=kind
  )
  identity = _identify(space, source, options)
  processes.check_same(
    {'pictures': source.fingerprint, 'embeddings': identity.digest},
    consequence='they would not embed the same pictures with the same encoder',
  )
  about = _about(space, found, source)
  with processes.together():
    if jax.process_index() == 0:
      embedding_files.claim(out, identity, about)
    out.mkdir(parents=True, exist_ok=True)
  missing = _missing(out, identity)
  mine = missing[jax.process_index() :: jax.process_count()]
  with encoder_lib.frozen(space.encoder):
    _write_shards(
      space, source, identity, mine=mine, found=found, out=out, stop_fn=stop_fn
    )
  return completion.finish(out, identity, about, source, missing=missing)


def _check_out(out: pathlib.Path, path: str) -> None:
  """Raises unless `out` is, or can be, a folder beside the data in `path`."""
  if ':/' in str(out):
    raise ValueError(f'--out={out} must be a local or mounted folder')
  if out.exists() and not out.is_dir():
    raise ValueError(f'--out={out} is a file, not a folder')
  root = pathlib.Path(os.path.realpath(path))
  if path and root.is_dir() and root in (out, *out.parents):
    raise ValueError(
      f'--out={out} lies in {root}, which is being embedded: the embeddings '
      'would be among its files; choose another --out'
    )


def _identify(
  space: spaces.Space, source: Source, options: Options
) -> Identity:
  config = space.config
  model = models.make_model(
    config.model, image_size=config.data.image_size, num_classes=0
  )
  side = config.data.image_size + 2 * space.encoder.input_form.pad
  image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
  shapes = jax.eval_shape(
    lambda v, x: model.apply(v, x, train=False), space.encoder.variables, image
  )
  widths = {'h': shapes.h.shape[-1], 'z': shapes.z.shape[-1]}
  return Identity(
    space=space.hash,
    source=source.fingerprint,
    num_examples=source.num_examples,
    dims={name: widths[name] for name in OUTPUTS if name in options.outputs},
    dtype=options.dtype,
    normalized=options.normalize,
    num_classes=source.num_classes,
    shard_rows=options.shard_rows,
  )


def _about(
  space: spaces.Space, found: inputs.Input, source: Source
) -> dict[str, Any]:
  section = config_lib.to_dict(found.config)['data']
  return {
    'encoder': dict(space.description),
    'input': {
      'name': source.name,
      'split': found.split,
      'base': found.base,
      'class_names': list(source.class_names),
      'data': section,
    },
  }


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
    id=good[encoded.rows],
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
