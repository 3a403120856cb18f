"""Photographs of a report: pairs of views, and nearest neighbours."""

from __future__ import annotations

import numpy as np

from simclr_jax.data import pipeline
from simclr_jax.evaluation import neighbours, plots
from simclr_jax.reports import document, kinds, learnt
from simclr_jax.reports.run_data import (
  Judged,
  RunData,
  pick_queries,
  read_images,
  same_class,
)
from simclr_jax.training import ancestry

NUM_PAIRS = 15
NUM_QUERIES = 8
NUM_NEIGHBOURS = 6


def views(run: RunData) -> document.Section:
  """Contact sheet of what training sees."""
  kind = kinds.of(run)
  shown = kind.views
  assert shown is not None  # Else the section is left out.
  count = min(NUM_PAIRS, run.train.num_examples)
  batches = pipeline.train_batches(
    run.train,
    data=run.config.data,
    augment=run.config.augment,
    batch_size=count,
    seed=run.config.seed,
    num_views=shown.num_views,
    num_steps=1,
  )
  batch = next(batches)
  originals = read_images(run.train, batch['index'], run.config)
  png = plots.to_png(plots.view_sheet(originals, batch['views']))
  notes: tuple[str, ...] = ()
  if run.config.data.augment_on != 'host':
    notes = (
      'Drawn by the host, from the same random numbers as in training (data.'
      f'augment_on = {run.config.data.augment_on!r}): equal up to rounding.',
    )
  return document.Section(
    shown.heading,
    shown.text,
    pictures=(
      document.Picture(
        'views',
        png,
        alt=f'{count} {kind.pictures}, {shown.alt}',
        form='sheet',
        in_folder=True,
      ),
    ),
    notes=notes,
  )


def nearest(run: RunData, judged: Judged) -> document.Section:
  """Pictures and their neighbours, by the encoder and by a random one."""
  same, names = not judged.held_out, learnt.titles(run)
  told, kind = ancestry.tell(run.passport), kinds.of(run)
  bank = judged.features['checkpoint'].test
  rows = pick_queries(bank.labels, count=NUM_QUERIES)
  count = min(NUM_NEIGHBOURS, run.train.num_examples - same)
  images: dict[str, np.ndarray] = {}
  matches: dict[str, np.ndarray] = {}
  for encoder in ('checkpoint', 'random_init'):
    both = judged.features[encoder]
    index = neighbours.nearest_neighbours(
      both.train.h,
      both.test.h[rows],
      k=count + same,
      chunk_size=run.config.knn.chunk_size,
      mesh=run.mesh,
    ).index_Qxk
    if same:
      index = neighbours.without_itself(index, rows)
    found = read_images(run.train, index.reshape(-1), run.config)
    title = names[encoder]
    images[title] = found.reshape(*index.shape, *found.shape[1:])
    matches[title] = same_class(
      both.train.labels[index], both.test.labels[rows, None]
    )
  figure = plots.neighbour_sheet(
    read_images(judged.test, rows, run.config),
    images,
    matches=matches if judged.labelled else None,
  )
  frames, shares = '', ''
  if judged.labelled:
    frames = ' Blue frames: the same class; orange: another.'
    frames += f' {told.saw}'
    known = {title: _share(match) for title, match in matches.items()}
    told_shares = ', '.join(
      f'{share:.0%} ({title})'
      for title, share in known.items()
      if not np.isnan(share)
    )
    shares = f' Of the same class: {told_shares}' if told_shares else ''
  return document.Section(
    'Nearest neighbours',
    f'{"Training" if same else "Held-out"} pictures and the '
    f'{"other " if same else ""}{kind.pictures} closest to them by the '
    f'cosine of their features, nearest first.{frames}',
    pictures=(
      document.Picture(
        'neighbours',
        plots.to_png(figure),
        alt=f'{len(rows)} pictures, each with its {count} nearest '
        f'{kind.pictures} by the {names["checkpoint"]} encoder and by a random '
        f'one.{shares}.',
        form='sheet',
        in_folder=True,
      ),
    ),
  )


def _share(match: np.ndarray) -> float:
  """Of True among what is not None; NaN where nothing is known."""
  known = match[match != np.array(None)].astype(float)
  return float(known.mean()) if known.size else float('nan')
