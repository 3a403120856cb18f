"""Which pictures a classifier is fitted to, and on which its step is chosen."""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epath
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import part
from simclr_jax.data.source import Source
from simclr_jax.evaluation import occurring, splits
from simclr_jax.finetuning.config import LabelsConfig


@dataclasses.dataclass(frozen=True)
class Labelled:
  """Labelled pictures, divided.

  Attributes:
    whole: The training split that they come from.
    fit: To train on.
    holdout: To choose a step on; None without.
    fit_rows, holdout_rows: Their places in `whole`, rising.
    classes: Those that `fit` has labels of.
    num_known: Examples of `whole` that have a label.
  """

  whole: Source
  fit: Source
  holdout: Source | None
  fit_rows: np.ndarray
  holdout_rows: np.ndarray
  classes: tuple[int, ...]
  num_known: int

  @property
  def num_labels(self) -> int:
    """All that are used, to train or to choose."""
    return len(self.fit_rows) + len(self.holdout_rows)

  @property
  def notes(self) -> tuple[str, ...]:
    """Says how many of all have a label, where not all have one."""
    whole = self.whole
    return occurring.unlabelled_notes(
      (whole.name, self.num_known, whole.num_examples)
    )

  @property
  def rows(self) -> np.ndarray:
    """All that are used, rising."""
    return np.sort(np.concatenate([self.fit_rows, self.holdout_rows]))


def divide(
  source: Source,
  labels: LabelsConfig,
  *,
  workdir: epath.PathLike | None = None,
) -> Labelled:
  """The labels that a config asks for, stratified and seeded.

  Args:
    source: Training split.
    labels: Which.
    workdir: Where the labels of all pictures are kept, see `part.read_labels`.

  Raises:
    NoAccuracy: If there are no labels, or they are of one class.
    ValueError: If a class has fewer than asked for.
  """
  if not source.num_classes:
    raise occurring.NoAccuracy(
      f'{source.name} has no labels, and a classifier needs some (for a '
      'folder that has a folder for each class: '
      'config.data.labels_from=folders)'
    )
  everything = np.arange(source.num_examples)
  nothing = np.zeros(0, np.int64)
  takes_all = labels.fraction == 1 and not labels.per_class
  if takes_all and not labels.holdout_fraction and part.are_complete(source):
    # Reading all labels of a large data set takes minutes.
    classes = tuple(range(source.num_classes))
    occurring.require_two(classes)
    return Labelled(
      whole=source,
      fit=source,
      holdout=None,
      fit_rows=everything,
      holdout_rows=nothing,
      classes=classes,
      num_known=source.num_examples,
    )
  label_n = part.read_labels(source, workdir=workdir)
  rows = choose(label_n, labels, num_classes=source.num_classes)
  fit_rows, holdout_rows = rows, nothing
  if labels.holdout_fraction:
    kept, held = _hold_out(label_n[rows], labels)
    fit_rows, holdout_rows = rows[kept], rows[held]
  classes = tuple(np.unique(label_n[fit_rows]).tolist())
  occurring.require_two(classes)
  return Labelled(
    whole=source,
    fit=part.take(source, fit_rows, name=f'{len(fit_rows)} labels'),
    holdout=part.take(
      source, holdout_rows, name=f'holdout of {len(holdout_rows)}'
    )
    if labels.holdout_fraction
    else None,
    fit_rows=fit_rows,
    holdout_rows=holdout_rows,
    classes=classes,
    num_known=int((label_n >= 0).sum()),
  )


def describe(pictures: Labelled, labels: LabelsConfig) -> dict[str, Any]:
  """For the passport: enough to find the same pictures again."""
  return {
    'labels': config_lib.to_dict(labels),
    'num_fit': len(pictures.fit_rows),
    'num_holdout': len(pictures.holdout_rows),
    'num_classes': len(pictures.classes),
    'classes_without_label': sorted(
      set(range(pictures.whole.num_classes)) - set(pictures.classes)
    ),
    'whole': pictures.whole.name,
    'whole_fingerprint': pictures.whole.fingerprint,
  }


def choose(
  label_n: np.ndarray, labels: LabelsConfig, *, num_classes: int
) -> np.ndarray:
  """Rows of the chosen labels, rising.

  A share is rounded in every class, and no class gets less than one. Within a
  class there is one seeded order: more labels of a seed hold those of fewer.

  Args:
    label_n: -1 where there is none: never chosen.
    labels: How many.
    num_classes: One without any label is left out.

  Raises:
    NoAccuracy: If there is no label at all.
    ValueError: If a class has fewer labels than asked for.
  """
  counts = np.bincount(label_n[label_n >= 0], minlength=num_classes)
  needed = max(labels.per_class, 1)
  if not counts.sum():
    raise occurring.NoAccuracy(
      f'none of the {len(label_n):,} training images has a label, and a '
      'classifier needs some'
    )
  poor = np.flatnonzero((counts > 0) & (counts < needed))
  if poor.size:
    worst = ', '.join(f'class {c} has {counts[c]}' for c in poor[:5])
    raise ValueError(
      f'{poor.size} of {(counts > 0).sum()} classes have fewer than {needed} '
      f'labelled images in the training split ({worst}): the comparison would '
      'not be balanced. Use another split, or at most '
      f'{counts[counts > 0].min()} labels of each class '
      '(--config.labels.per_class; in label_efficiency --labels)'
    )
  wanted = _numbers(counts, labels)
  order = np.random.default_rng([labels.seed, 3]).permutation(len(label_n))
  ordered = label_n[order]
  chosen = [order[ordered == c][:k] for c, k in enumerate(wanted)]
  return np.sort(np.concatenate(chosen))


def _hold_out(
  label_n: np.ndarray, labels: LabelsConfig
) -> tuple[np.ndarray, np.ndarray]:
  try:
    return splits.holdout_split(
      label_n, fraction=labels.holdout_fraction, seed=labels.seed
    )
  except ValueError as error:
    raise ValueError(
      f'config.labels.holdout_fraction = {labels.holdout_fraction:g} of '
      f'{len(label_n)} labels holds nothing out (no class gives its last one); '
      'take more labels, a larger fraction, or 0 and the last step'
    ) from error


def _numbers(counts: np.ndarray, labels: LabelsConfig) -> np.ndarray:
  """How many of each class."""
  if labels.per_class:
    return np.full(len(counts), labels.per_class)
  rounded = np.floor(counts * labels.fraction + 0.5).astype(np.int64)
  return np.maximum(rounded, 1)
