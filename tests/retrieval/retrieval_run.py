"""Embeddings of small runs, with each network compiled once for a module."""

from __future__ import annotations

import functools

import pytest

from simclr_jax.retrieval import embedding, growth, inputs, spaces
from simclr_jax.training import checkpoint
from simclr_jax.training import passport as passport_lib

OPENCV = {'loader': 'opencv'}


@pytest.fixture(scope='module')
def one_compile():
  """A space is made once for each checkpoint and kind."""
  kept = {}
  make_space = spaces.make_space

  @functools.wraps(make_space)
  def cached(loaded, *, mesh, kind='checkpoint'):
    key = (loaded.fingerprint, kind, mesh)
    if key not in kept:
      kept[key] = make_space(loaded, mesh=mesh, kind=kind)
    return kept[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(spaces, 'make_space', cached)
    yield


def embed(workdir, text, out, *, split='', stop_fn=lambda: False, **options):
  """As the command, with opencv; `changes`, `kind` and `add` as there."""
  embed_fn = growth.add if options.pop('add', False) else embedding.embed
  loaded = checkpoint.load_encoder(workdir)
  changes = OPENCV | options.pop('changes', {})
  kind = options.pop('kind', 'checkpoint')
  found = inputs.find_input(
    str(text),
    passport_lib.config_from_passport(loaded.passport),
    split=split,
    batch_size=options.pop('batch_size', 0),
    changes=changes,
  )
  return embed_fn(
    loaded,
    found,
    out=out,
    options=embedding.Options(**options),
    kind=kind,
    stop_fn=stop_fn,
  )
