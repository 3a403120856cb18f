"""Training pictures that are there twice, or nearly, by their features."""

from __future__ import annotations

import numpy as np

from simclr_jax.evaluation import plots
from simclr_jax.reports import document, kinds
from simclr_jax.reports.run_data import (
  Judged,
  RunData,
  read_images,
  same_class,
)
from simclr_jax.retrieval import duplicates

# All pairs are compared: twice as many rows take four times as long.
MAX_ROWS = 10_000
NUM_GROUPS = 18
_SEED = 0
_HEADING = 'Near-duplicates'
_COMMANDS = 'simclr_jax.embed and simclr_jax.duplicates'


def section(
  run: RunData, judged: Judged
) -> document.Section | document.Missing:
  """Groups of training pictures that are alike, and a sheet of the closest."""
  kind = kinds.of(run)
  features = judged.features['checkpoint'].train
  total = len(features.h)
  if total < 2:
    return document.Missing(_HEADING, 'there is only one training picture')
  rows = np.arange(total)
  if total > MAX_ROWS:
    order = np.random.default_rng(_SEED).permutation(total)
    rows = np.sort(order[:MAX_ROWS])
  h, labels = features.h[rows], features.labels[rows]
  if not np.any(np.ptp(h, axis=0)):
    return document.Missing(
      _HEADING, 'all embeddings are the same: the encoder has collapsed'
    )
  found = duplicates.find_in_features(h, mesh=run.mesh)
  numbers = {
    'groups': len(found.groups),
    'pictures that repeat another': found.num_redundant,
  }
  if judged.labelled:
    numbers['groups of several classes'] = sum(
      # -1 is no label, and no class.
      len(set(labels[list(group.positions)].tolist()) - {-1}) > 1
      for group in found.groups
    )
  notes = [
    f'Names, bytes and all groups: {_COMMANDS}.'
    if total == len(rows)
    else f'Of {total:,} training pictures {len(rows):,} were drawn: of the '
    f'pairs in the whole set, about {(len(rows) / total) ** 2:.1%} are among '
    f'them. {_COMMANDS} compare all.'
  ]
  if kind.on_copies:
    notes.append(kind.on_copies)
  return document.Section(
    _HEADING,
    f'{kind.pictures.capitalize()} whose h is much closer than usual: by a '
    f'cosine of {found.threshold:.5g} or more, a tenth of the median distance '
    'between a picture and its nearest other. What such pictures share is for '
    'an eye to judge: one may be a copy of the other, a frame of the same '
    'film, or only what this encoder does not tell apart.',
    tables=(
      document.Table(
        (f'among {len(rows):,} pictures', ''),
        [
          [document.Cell(name), document.Cell(f'{number:,}')]
          for name, number in numbers.items()
        ],
      ),
    ),
    pictures=_sheet(run, judged, rows, found),
    notes=tuple(notes),
  )


def _sheet(
  run: RunData, judged: Judged, rows: np.ndarray, found: duplicates.Found
) -> tuple[document.Picture, ...]:
  """The first two members of the closest groups, side by side."""
  groups = found.groups[:NUM_GROUPS]
  if not groups:
    return ()
  pairs = rows[np.array([group.positions[:2] for group in groups])]
  images = read_images(run.train, pairs.reshape(-1), run.config)
  labels = judged.features['checkpoint'].train.labels[pairs]
  same = same_class(labels[:, 0], labels[:, 1])
  figure = plots.pair_sheet(
    images.reshape(*pairs.shape, *images.shape[1:]),
    matches=same if judged.labelled else None,
  )
  shown = f'{len(groups)} of {len(found.groups):,} groups, the closest first'
  if len(groups) == len(found.groups):
    shown = 'all groups, the closest first'
  frames = ''
  if judged.labelled:
    frames = ' Blue frames: the same class; orange: two classes.'
  return (
    document.Picture(
      'near-duplicates',
      plots.to_png(figure),
      alt=f'{len(groups)} pairs of {kinds.of(run).pictures} that are alike, '
      'side by side.',
      caption=f'Two pictures of each group: {shown}.{frames}',
      form='sheet',
    ),
  )
