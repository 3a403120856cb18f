"""A data set to a folder of embeddings; see `computing.py` for how."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import jax
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import data, models, processes
from simclr_jax.data.source import Source
from simclr_jax.retrieval import (
  completion,
  computing,
  embedding_files,
  inputs,
  opening,
  spaces,
)
from simclr_jax.retrieval.identity import DTYPES, OUTPUTS, Identity
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib

SHARD_ROWS = 20_000


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
  stop_fn: computing.StopFn = lambda: False,
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
    computing.Stopped: If `stop_fn` said so.
    ValueError: If `out` holds something else, no picture can be read, or a
      vector is not finite.
  """
  out = pathlib.Path(os.path.realpath(out))
  with processes.together():
    check_out(out, found.config.data.path)
    # One looks, before any process leaves its cache there.
    if jax.process_index() == 0:
      embedding_files.check_free(out)
  with opening.workdir(out) as looked:
    with processes.together():
      source = data.make_source(found.config.data, found.split, workdir=looked)
    space = open_space(loaded, kind=kind)
    identity = identify(space, source, options)
    check_processes(source, identity)
    about = describe(space, found, source)
    computing.claim(out, identity, about)
    opening.keep(looked, out)
  return computing.compute(
    space, source, identity, about=about, found=found, out=out, stop_fn=stop_fn
  )


def open_space(loaded: checkpoint.LoadedEncoder, *, kind: str) -> spaces.Space:
  """Space of a checkpoint on the devices of this process."""
  mesh = mesh_lib.make_mesh(jax.local_devices())
  return spaces.make_space(loaded, mesh=mesh, kind=kind)


def check_processes(source: Source, identity: Identity, **more: str) -> None:
  """Raises unless all processes embed the same; collective."""
  processes.check_same(
    {'pictures': source.fingerprint, 'embeddings': identity.digest, **more},
    consequence='they would not embed the same pictures with the same encoder',
  )


def check_out(out: pathlib.Path, path: str) -> None:
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


def identify(space: spaces.Space, source: Source, options: Options) -> Identity:
  """What a set of these pictures is of."""
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


def describe(
  space: spaces.Space, found: inputs.Input, source: Source
) -> dict[str, Any]:
  """What a set says of itself beside its identity."""
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
