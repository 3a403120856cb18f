"""Histograms of similarities: two views of a picture, and different pictures.

Computed for the report from the checkpoint, because metrics.jsonl holds their
means alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from simclr_jax.data import pipeline
from simclr_jax.evaluation import neighbours
from simclr_jax.reports import document, figures, kinds
from simclr_jax.reports.run_data import RunData

# Pictures: 2 * 256 views have 130,560 negative pairs.
NUM_PICTURES = 256
_HEADING = 'Similarities'
_POSITIVE = 'two views of a picture'
_SAME, _OTHER = 'two pictures, same class', 'two pictures, other class'
_NEGATIVE = 'two pictures'


def section(run: RunData) -> document.Section | document.Missing:
  """Histograms for z and for h."""
  kind = kinds.of(run)
  count = min(NUM_PICTURES, run.train.num_examples)
  if count < 2:
    return document.Missing(_HEADING, 'there is only one training picture')
  outputs, labels = _encode_views(run, count)
  pictures = []
  for name in kind.outputs if run.config.model.head != 'none' else ('h',):
    groups = cosines(outputs[name], labels if run.train.num_classes else None)
    pictures.append(
      document.Picture(
        f'similarities-{name}',
        figures.to_png(
          figures.histograms(groups, title=f'cosines of {name}', label='cosine')
        ),
        alt=_describe(name, groups),
        caption=_caption(groups),
      )
    )
  return document.Section(
    _HEADING,
    f'Cosines between {kind.distorted} {count} {kind.pictures}, in the '
    f'checkpoint with batch norm in inference mode{kind.on_outputs}',
    pictures=tuple(pictures),
  )


def cosines(
  rows_NxD: np.ndarray, labels_B: np.ndarray | None
) -> dict[str, np.ndarray]:
  """Cosines of pairs of rows, by what the pair is.

  Args:
    rows_NxD: N = 2B embeddings; rows 2i and 2i+1 are the views of picture i.
    labels_B: Classes of the pictures, -1 for none; None without any.

  Returns:
    Name -> cosines; every unordered pair once.
  """
  norms = np.linalg.norm(rows_NxD, axis=1, keepdims=True)
  units = rows_NxD / np.maximum(norms, 1e-12)
  all_NxN = units @ units.T
  picture_N = np.arange(len(units)) // 2
  first, second = np.triu_indices(len(units), k=1)
  same_picture = picture_N[first] == picture_N[second]
  values = all_NxN[first, second]
  groups = {_POSITIVE: values[same_picture]}
  if labels_B is None:
    labels_B = np.full(len(units) // 2, -1)
  label_N = np.repeat(labels_B, 2)
  known = (label_N[first] >= 0) & (label_N[second] >= 0) & ~same_picture
  same_class = label_N[first] == label_N[second]
  groups[_SAME] = values[known & same_class]
  groups[_OTHER] = values[known & ~same_class]
  groups[_NEGATIVE] = values[~known & ~same_picture]
  return {name: found for name, found in groups.items() if len(found)}


def separation(groups: Mapping[str, np.ndarray]) -> float:
  """Probability that a pair of views is more alike than two pictures.

  The area under the ROC curve; 1/2 where the encoder cannot tell.
  """
  positives = np.sort(groups[_POSITIVE])
  negatives = np.concatenate([v for k, v in groups.items() if k != _POSITIVE])
  below = np.searchsorted(positives, negatives, side='left')
  ties = np.searchsorted(positives, negatives, side='right') - below
  higher = len(positives) - below - ties / 2
  return float(higher.sum() / (len(positives) * len(negatives)))


def _encode_views(
  run: RunData, count: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """h and z [2 * count, ...] of views in training's order, and labels."""
  # Batches of the size of an evaluation's: no program is compiled for these.
  num_rows = run.config.eval.batch_size
  num_rows += -num_rows % len(run.mesh.local_devices)
  batch_size = max(1, min(num_rows // 2, count))
  batches = pipeline.train_batches(
    run.train,
    data=run.config.data,
    augment=run.config.augment,
    batch_size=batch_size,
    seed=run.config.seed,
    num_steps=-(-count // batch_size),
  )
  parts: dict[str, list[np.ndarray]] = {'h': [], 'z': []}
  labels = []
  for batch in batches:
    views = batch['views'].reshape(-1, *batch['views'].shape[2:])
    missing = max(num_rows - len(views), -len(views) % run.mesh.size)
    padded = np.pad(views, [(0, missing), (0, 0), (0, 0), (0, 0)])
    encoded = neighbours.to_host(run.encoder.encode(padded))
    for name, values in parts.items():
      values.append(encoded[name][: len(views)])
    labels.append(batch['label'])
  # The last batch may begin another epoch, with pictures that were there.
  outputs = {k: np.concatenate(v)[: 2 * count] for k, v in parts.items()}
  return outputs, np.concatenate(labels)[:count]


def _caption(groups: Mapping[str, np.ndarray]) -> str:
  return (
    f'A pair of views is more alike than two pictures in '
    f'{separation(groups):.1%} of all comparisons.'
  )


def _describe(name: str, groups: Mapping[str, np.ndarray]) -> str:
  parts = ', '.join(
    f'{group} {np.mean(values):.2f} (half of them in '
    f'{np.quantile(values, 0.25):.2f} to {np.quantile(values, 0.75):.2f})'
    for group, values in groups.items()
  )
  return f'Histograms of cosines of {name}; means: {parts}.'
