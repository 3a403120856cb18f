"""A data set to a folder of embeddings, shard by shard, on all hosts.

Shards are rows of the source, whatever the number of hosts: process k of n
computes every n-th one that is missing, on its own devices, and no process
waits for another before the end. So a set that one machine began can be
continued by four.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import datetime
import os
import pathlib
import platform
import sys
from typing import Any, NamedTuple

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
  atomic,
  embedding_files,
  encoding,
  inputs,
  shards,
  spaces,
)
from simclr_jax.retrieval.identity import DTYPES, OUTPUTS, Identity
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib
from simclr_jax.training import passport as passport_lib

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


class Embedded(NamedTuple):
  """What lies in the folder now.

  Attributes:
    folder: Of the set.
    num_rows: Embeddings.
    bad: (path, reason) of pictures without.
    num_computed: Rows that this command computed, on all hosts; the others were
      there already.
  """

  folder: pathlib.Path
  num_rows: int
  bad: tuple[tuple[str, str], ...]
  num_computed: int


def embed(
  loaded: checkpoint.LoadedEncoder,
  found: inputs.Input,
  *,
  out: pathlib.Path,
  options: Options,
  kind: str = 'checkpoint',
  stop_fn: StopFn = lambda: False,
) -> Embedded:
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
  out = pathlib.Path(os.path.abspath(out))
  with processes.together():
    _check_local(out)
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
  missing = _missing(out, identity)
  mine = missing[jax.process_index() :: jax.process_count()]
  with encoder_lib.frozen(space.encoder):
    _write_shards(
      space, source, identity, mine=mine, found=found, out=out, stop_fn=stop_fn
    )
  return _finish(out, identity, about, source, missing=missing)


def _check_local(out: pathlib.Path) -> None:
  if ':/' in str(out):
    raise ValueError(f'--out={out} must be a local or mounted folder')
  if out.exists() and not out.is_dir():
    raise ValueError(f'--out={out} is a file, not a folder')


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
    id=good[encoded.index],
    path=[relative(part.example_id(i), base) for i in encoded.index.tolist()],
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
  """Pictures that cannot be read or decoded."""
  found = []
  for i in range(part.num_examples):
    try:
      image, _ = part.read(i)
      if not isinstance(image, np.ndarray):
        plain_image.inspect(image)
    # Pillow's decoders raise nearly every built-in exception for damaged data.
    except Exception as error:
      reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:500]
      path = relative(part.example_id(i), base)
      found.append(shards.Bad(int(good[i]), path, reason))
  return found


def _device(space: spaces.Space) -> str:
  return str(space.encoder.mesh.devices.flat[0].device_kind)


def _finish(
  out: pathlib.Path,
  identity: Identity,
  about: dict[str, Any],
  source: Source,
  *,
  missing: Sequence[int],
) -> Embedded:
  """Waits for all, then says that the set is complete."""
  with processes.together():
    pass  # every process has written its shards, or all of them fail here
  embedded: Embedded | None = None
  with processes.together():
    all_shards = [
      shards.open_shard(out / identity.file_name(k), identity, k)
      for k in range(identity.num_shards)
    ]
    num_rows = sum(shard.num_rows for shard in all_shards)
    bad = [*source.skipped]
    bad += [(b.path, b.reason) for shard in all_shards for b in shard.bad]
    if not num_rows:
      raise ValueError(
        f'no picture of {source.name} could be read; the first: {bad[0]}'
      )
    if jax.process_index() == 0:
      if bad:
        embedding_files.write_skipped(out, bad)
      result = {
        'num_rows': num_rows,
        'rows_of_shards': [shard.num_rows for shard in all_shards],
        'num_bad': len(bad),
        'devices': sorted({shard.device for shard in all_shards}),
      }
      manifest = {'identity': identity.to_json(), **about, **result}
      if missing or not (out / embedding_files.MANIFEST).exists():
        atomic.write_json(out / embedding_files.MANIFEST, manifest | _made_by())
      embedding_files.remove_unfinished(out)
    computed = sum(all_shards[k].num_rows for k in missing)
    embedded = Embedded(out, num_rows, tuple(bad), computed)
  assert embedded is not None
  return embedded


def _made_by() -> dict[str, Any]:
  return {
    'command': sys.argv,
    'created': datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
    'hardware': {
      'backend': jax.default_backend(),
      'num_devices': jax.device_count(),
      'num_processes': jax.process_count(),
    },
    'software': {
      'jax': jax.__version__,
      'python': platform.python_version(),
      'git_revision': passport_lib.git_revision(pathlib.Path(__file__).parent),
    },
  }
