"""Seeded, stratified choices of training rows: few labels, and a holdout."""

from __future__ import annotations

import numpy as np

ONE_SETTING = '--probe.base_lrs=0.1 --probe.weight_decays=0'


def subset_per_class(
  labels_n: np.ndarray, *, num_per_class: int, seed: int
) -> np.ndarray:
  """Rows of `num_per_class` examples of every class, in increasing order.

  Args:
    labels_n: Classes from 0.
    num_per_class: Examples of each class that occurs.
    seed: Of the choice; the same seed gives nested subsets (the rows for 1 are
      among the rows for 10), so that label budgets can be compared.

  Raises:
    ValueError: If a class has fewer examples.
  """
  counts = np.bincount(labels_n)
  occurring = np.flatnonzero(counts)
  poor = occurring[counts[occurring] < num_per_class]
  if poor.size:
    worst = ', '.join(f'class {c} has {counts[c]}' for c in poor[:5])
    raise ValueError(
      f'probe.labels_per_class = {num_per_class}: {poor.size} of '
      f'{occurring.size} classes have fewer training examples ({worst}); use '
      f'at most {counts[occurring].min()}, or the comparison would not be '
      'balanced'
    )
  order = np.random.default_rng([seed, 1]).permutation(len(labels_n))
  chosen = [order[labels_n[order] == c][:num_per_class] for c in occurring]
  return np.sort(np.concatenate(chosen))


def holdout_split(
  labels_n: np.ndarray, *, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Stratified split of rows into (kept, held out), both increasing.

  Every class gives its share, by largest remainder so that the total is
  round(fraction * n), but never its last example.

  Args:
    labels_n: Classes from 0.
    fraction: Share held out, in (0, 1).
    seed: Of the choice.

  Raises:
    ValueError: If nothing would be held out.
  """
  counts = np.bincount(labels_n)
  room = np.maximum(counts - 1, 0)
  wanted = counts * fraction
  num_held = np.minimum(np.floor(wanted).astype(np.int64), room)
  missing = min(round(fraction * len(labels_n)), room.sum()) - num_held.sum()
  by_remainder = np.argsort(-(wanted - num_held), kind='stable')
  while missing > 0:
    for c in by_remainder:
      if missing > 0 and num_held[c] < room[c]:
        num_held[c] += 1
        missing -= 1
  if not num_held.sum():
    raise ValueError(
      f'probe.holdout_fraction = {fraction} of {len(labels_n)} labelled '
      f'examples in {np.count_nonzero(counts)} classes leaves nothing to '
      'select a setting on; give more labels, a larger fraction, or one '
      f'setting: {ONE_SETTING}'
    )
  order = np.random.default_rng([seed, 2]).permutation(len(labels_n))
  held = np.sort(
    np.concatenate(
      [order[labels_n[order] == c][:k] for c, k in enumerate(num_held)]
    )
  )
  kept = np.setdiff1d(np.arange(len(labels_n)), held, assume_unique=True)
  return kept, held


def advise(train_split: str) -> str:
  """Says how to hold a part of the training split out."""
  if '[' in train_split or '+' in train_split:
    return 'name a held-out split in config.data.test_split'
  return (
    'name a held-out split, or hold a part out: '
    f"config.data.train_split='{train_split}[:80%]' "
    f"config.data.test_split='{train_split}[80%:]'"
  )
