"""Embeddings on a plane, by t-SNE.

t-SNE and not UMAP: scikit-learn is installed anyway, UMAP would bring a
compiler, and what a page can show (which pictures are neighbours) both keep
alike.
"""

from __future__ import annotations

import numpy as np
from sklearn import decomposition, manifold

from simclr_jax.data.names import printable
from simclr_jax.reports import document, figures
from simclr_jax.reports.run_data import Judged, RunData, read_images
from simclr_jax.training import ancestry

MAX_POINTS = 1500
_FEWEST = 10
_PCA_DIM = 50
_PERPLEXITY = 30.0
_NEIGHBOURS = 10
# Pictures along a side of the map, at most.
_PER_SIDE = 20
_SEED = 0
_HEADING = 'Map of embeddings'
_AXES = (
  'Axes have no meaning, nor have the sizes of clusters and the gaps between '
  'them.'
)


def section(
  run: RunData, judged: Judged
) -> document.Section | document.Missing:
  """The map as points and as pictures."""
  features = judged.features['checkpoint'].test
  total = len(features.h)
  if total < _FEWEST:
    return document.Missing(_HEADING, f'{total} pictures make no map')
  rows = np.arange(total)
  if total > MAX_POINTS:
    order = np.random.default_rng(_SEED).permutation(total)
    rows = np.sort(order[:MAX_POINTS])
  h = features.h[rows]
  if not np.any(np.ptp(h, axis=0)):
    return document.Missing(
      _HEADING, 'all embeddings are the same: the encoder has collapsed'
    )
  places, kept = project(h)
  images = read_images(judged.test, rows, run.config)
  per_side = min(_PER_SIDE, max(6, round(len(rows) ** 0.5)))
  tiles, shown = figures.picture_map(places, images, per_side=per_side)
  which = 'held-out' if judged.held_out else 'training'
  pictures = []
  notes: tuple[str, ...] = ()
  if judged.labelled:
    saw = ancestry.tell(run.passport).saw
    points, notes = _points(places, features.labels[rows], judged, saw=saw)
    pictures.append(points)
  pictures.append(
    document.Picture(
      'map-pictures',
      figures.to_png(tiles),
      alt=f'{len(shown)} {which} pictures laid out so that pictures with like '
      'features are near each other.',
      caption='The same map in pictures.' if judged.labelled else '',
      form='map',
    )
  )
  return document.Section(
    _HEADING,
    f'h of {len(rows):,} of {total:,} {which} pictures, scaled to length 1, on '
    f'a plane (t-SNE, perplexity {_perplexity(len(rows)):.3g}). Neighbours on '
    f'the map are neighbours in h to {kept:.0%} (trustworthiness, '
    f'{_NEIGHBOURS} neighbours; 50 % is chance). {_AXES}',
    pictures=tuple(pictures),
    notes=notes,
  )


def project(h_nxD: np.ndarray) -> tuple[np.ndarray, float]:
  """Places f32 [n,2], and how much of the neighbourhoods they keep (0..1)."""
  norms = np.linalg.norm(h_nxD, axis=1, keepdims=True)
  units = h_nxD / np.maximum(norms, 1e-12)
  dims = min(_PCA_DIM, *units.shape)
  reduced = decomposition.PCA(dims, random_state=_SEED).fit_transform(units)
  places = manifold.TSNE(
    perplexity=_perplexity(len(units)),
    init='pca',
    learning_rate='auto',
    random_state=_SEED,
  ).fit_transform(reduced)
  # scikit-learn asks for n_neighbors < n / 2.
  near = min(_NEIGHBOURS, (len(units) - 1) // 2)
  kept = manifold.trustworthiness(units, places, n_neighbors=near)
  return places, float(kept)


def _perplexity(count: int) -> float:
  return min(_PERPLEXITY, (count - 1) / 3)


def _points(
  places: np.ndarray, labels: np.ndarray, judged: Judged, *, saw: str
) -> tuple[document.Picture, tuple[str, ...]]:
  """The map in colours of the classes."""
  # No label is no class.
  classes, counts = np.unique(labels[labels >= 0], return_counts=True)
  chosen = classes[np.argsort(-counts, kind='stable')][: len(figures.COLOURS)]
  names = [printable(name) for name in judged.test.class_names]
  groups = {
    (names[c] if names else f'class {c}'): np.flatnonzero(labels == c)
    for c in sorted(int(c) for c in chosen)
  }
  others = np.flatnonzero(~np.isin(labels, chosen))
  notes: tuple[str, ...] = ()
  if missing := int((labels < 0).sum()):
    notes = (f'{missing:,} of {len(labels):,} on the map have no label: grey.',)
  if len(chosen) < len(classes):
    notes += (
      f'In colour: the {len(chosen)} commonest of {len(classes)} classes on '
      'the map.',
    )
  picture = document.Picture(
    'map-classes',
    figures.to_png(figures.scatter(places, groups, others=others)),
    alt=f'Map of {len(labels)} pictures in the colours of their classes: '
    + ', '.join(groups)
    + f'. {saw}',
    caption='In the colours of the classes; a name stands where its class is '
    f'densest. {saw}',
    form='map',
  )
  return picture, notes
