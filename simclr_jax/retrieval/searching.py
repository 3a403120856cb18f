"""Queries to a set of embeddings: by picture, or by rows of the set."""

from __future__ import annotations

from collections.abc import Sequence
import os
from typing import NamedTuple

from absl import logging
import jax
import numpy as np
from PIL import Image

from simclr_jax import config as config_lib
from simclr_jax.evaluation import encoder as encoder_lib
from simclr_jax.retrieval import (
  encoding,
  indexes,
  pictures,
  sheets,
  spaces,
  transforms,
  views,
)
from simclr_jax.retrieval.embedding_set import EmbeddingSet
from simclr_jax.training import checkpoint
from simclr_jax.training import mesh as mesh_lib

TRANSFORMS_FOLDER = 'transforms'
_BATCH = 64  # query pictures at a time


class Queries(NamedTuple):
  """What is searched for.

  Attributes:
    names: For people.
    vectors: f32 [Q, D], as stored in the set.
    own: int64 [Q], the query's own position in the set, -1 for other pictures.
    images: Thumbnails of the first of them, as many as were asked for.
  """

  names: list[str]
  vectors: np.ndarray
  own: np.ndarray
  images: list[Image.Image]


class Hit(NamedTuple):
  """A picture of the set that was found."""

  position: int
  id: int
  path: str
  label: int | None
  similarity: float


def open_view(
  embeddings: EmbeddingSet,
  *,
  output: str = '',
  metric: str = 'cosine',
  transform: str = '',
) -> views.View:
  """How a set is searched; a transform is fitted on it once and kept with it.

  Args:
    embeddings: Set.
    output: '' for h where the set has it.
    metric: One of views.METRICS.
    transform: '', or e.g. 'whitening:64'.

  Raises:
    ValueError: If the set has no such output, or the transform is impossible or
      was fitted on other embeddings.
  """
  view = views.View(output or embeddings.outputs[0], metric)
  views.check(view, embeddings)
  if not transform:
    return view
  kind, dim = transforms.parse(transform)
  name = f'{view.name}-{kind}{dim}.npz'
  path = embeddings.folder / TRANSFORMS_FOLDER / name
  digest = embeddings.identity.digest
  fitted = None
  if path.exists():
    fitted = transforms.load(path, of=digest, earlier=embeddings.earlier)
  if fitted is None:
    fitted = transforms.fit(
      view.bank(embeddings).chunks(),
      kind=kind,
      dim=dim,
      where=f'of {embeddings.folder}',
    )
    transforms.save(fitted, path, of=digest)
    logging.info(
      'fitted %s on %d embeddings: %d of %d directions, %.1f %% of the '
      'variance -> %s',
      kind, len(embeddings), dim, len(fitted.mean), 100 * fitted.kept, path,
    )  # fmt: skip
  if (fitted.kind, fitted.dim) != (kind, dim):
    raise ValueError(f'{path} holds {fitted.kind}:{fitted.dim}; delete it')
  return views.View(view.output, view.metric, fitted)


def queries_from_files(
  files: Sequence[str],
  embeddings: EmbeddingSet,
  *,
  output: str,
  checkpoint_path: str = '',
  loader: str = '',
  num_shown: int = 0,
) -> Queries:
  """Encodes pictures with the encoder that made the set.

  Args:
    files: Pictures.
    embeddings: Set to be searched.
    output: 'h' or 'z'.
    checkpoint_path: Where the checkpoint lies now; '' for where it was.
    loader: Who decodes; '' for that of the checkpoint.
    num_shown: So many of the first will be looked at.

  Raises:
    ValueError: If a picture cannot be read, the checkpoint is not there, or it
      is not the one that made the set.
  """
  source = pictures.source_of(files, embeddings.bits)
  space = _open_space(embeddings, checkpoint_path)
  config = config_lib.replace(
    space.config,
    data={'loader': loader or space.config.data.loader},
    eval={'batch_size': min(len(files), _BATCH)},
  )
  found = []
  with encoder_lib.frozen(space.encoder):
    for encoded in encoding.encode(space.encoder, source, config):
      kept = encoding.stored(
        encoded,
        names=(output,),
        normalized=embeddings.identity.normalized,
        dtype=embeddings.identity.dtype,
      )
      found.append(kept[output].astype(np.float32))
  return Queries(
    names=list(files),
    vectors=np.concatenate(found),
    own=np.full(len(files), -1, np.int64),
    images=[
      pictures.thumbnail(
        pictures.pixels_of_file(path, embeddings.bits), side=sheets.SIDE
      )
      for path in files[:num_shown]
    ],
  )


def _open_space(embeddings: EmbeddingSet, path: str) -> spaces.Space:
  """The space of a set, from the checkpoint that made it."""
  stated = embeddings.stated('encoder')
  where = path or str(stated.get('checkpoint', ''))
  step = stated.get('step')
  if not where:
    raise ValueError(
      f'{embeddings.folder} does not say which checkpoint made it; name it '
      'with --checkpoint'
    )
  # A workdir may hold newer steps than the one that made the set.
  whole = checkpoint_step(where)
  try:
    loaded = checkpoint.load_encoder(
      where, step=None if whole or type(step) is not int else step
    )
  except ValueError as error:
    raise ValueError(
      f'{error}. {embeddings.folder} was made by step {step} of it; if it has '
      'been moved, say where it is with --checkpoint'
    ) from error
  space = spaces.make_space(
    loaded,
    mesh=mesh_lib.make_mesh(jax.local_devices()),
    kind=str(stated.get('kind', 'checkpoint')),
  )
  if space.hash != embeddings.identity.space:
    raise ValueError(
      f'{loaded.path} ({space.description["fingerprint"][:12]}) is not the '
      f'encoder that made {embeddings.folder} '
      f'({str(stated.get("fingerprint"))[:12]}): vectors of two encoders mean '
      'nothing to each other. Name the right one with --checkpoint, or embed '
      'again'
    )
  return space


def checkpoint_step(path: str) -> bool:
  """Whether a path names the folder of one step."""
  return os.path.basename(os.path.normpath(path)).isdecimal()


def queries_from_rows(
  ids: Sequence[int],
  embeddings: EmbeddingSet,
  *,
  output: str,
  shown: pictures.SetPictures | None,
  num_shown: int = 0,
) -> Queries:
  """Pictures of the set itself, by their ids.

  Args:
    ids: Of the queries.
    embeddings: Set to be searched.
    output: 'h' or 'z'.
    shown: Pictures of the set; None where nobody looks at them.
    num_shown: So many of the first will be looked at.

  Raises:
    ValueError: If there is no such id.
  """
  positions = embeddings.find(ids)
  rows = embeddings.take(positions, ('path', output))
  images = []
  if shown is not None:
    for position in positions[:num_shown].tolist():
      row = embeddings.rows(position, position + 1, ('path',))
      pixels = shown.pixels(row)
      images.append(pictures.thumbnail(pixels, side=sheets.SIDE))
  return Queries(rows.path, rows.vectors[output], positions, images)


def answer(
  embeddings: EmbeddingSet,
  view: views.View,
  index: indexes.Index,
  *,
  queries: Queries,
  k: int,
) -> list[list[Hit]]:
  """The k nearest pictures of each query, never the query's own row."""
  if k < 1:
    raise ValueError(f'--k={k}: at least 1 is wanted')
  found = index.search(view.prepare(queries.vectors), k + 1)
  columns = ['path'] + (['label'] if embeddings.identity.num_classes else [])
  answers = []
  for own, positions, similarities in zip(
    queries.own, found.index_Qxk, found.similarity_Qxk, strict=True
  ):
    keep = (positions >= 0) & (positions != own)
    positions, similarities = positions[keep][:k], similarities[keep][:k]
    hits = []
    if len(positions):
      rows = embeddings.take(positions.astype(np.int64), columns)
      hits = [
        Hit(
          int(positions[i]),
          int(rows.id[i]),
          rows.path[i],
          None if rows.label is None else int(rows.label[i]),
          float(similarities[i]),
        )
        for i in range(len(positions))
      ]
    answers.append(hits)
  return answers


def to_lines(
  embeddings: EmbeddingSet,
  shown: pictures.SetPictures,
  *,
  queries: Queries,
  answers: Sequence[Sequence[Hit]],
) -> list[sheets.Line]:
  """Lines of a contact sheet: the query, then what was found."""
  names = embeddings.class_names
  lines = []
  for i, hits in enumerate(answers):
    own_label = None
    if queries.own[i] >= 0 and embeddings.identity.num_classes:
      own = embeddings.take(queries.own[i : i + 1], ('label',))
      own_label = None if own.label is None else int(own.label[0])
    tiles = [
      sheets.Tile(
        queries.images[i],
        'query' + _class(own_label, names),
        os.path.basename(queries.names[i]),
      )
    ]
    for hit in hits:
      row = embeddings.rows(hit.position, hit.position + 1, ('path',))
      mark = ''
      if own_label is not None and own_label >= 0:
        mark = 'same' if hit.label == own_label else 'other'
      tiles.append(
        sheets.Tile(
          pictures.thumbnail(shown.pixels(row), side=sheets.SIDE),
          f'{hit.similarity:.3f}{_class(hit.label, names)}',
          hit.path,
          mark,
        )
      )
    lines.append(sheets.Line(queries.names[i], tiles, is_query=True))
  return lines


def _class(label: int | None, names: Sequence[str]) -> str:
  if label is None or label < 0:
    return ''
  return f', {names[label] if label < len(names) else f"class {label}"}'
