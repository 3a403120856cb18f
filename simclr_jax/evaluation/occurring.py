"""Classes that occur among labels, and what an accuracy says with few of them.

Labels number the classes; which of them occur is another question. With five
or fewer, top-5 accuracy is 100 % by counting; with one, every accuracy is.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses

import numpy as np

_SHOWN = 5  # Classes of a list in a message.


class NoAccuracy(ValueError):
  """Labels from which no accuracy can follow: none, or of one class."""


@dataclasses.dataclass(frozen=True)
class Occurring:
  """Labels of a training set and of a test split.

  Attributes:
    num_train_classes, num_test_classes: Classes that occur.
    notes: Consequences for an accuracy, for people.
  """

  num_train_classes: int
  num_test_classes: int
  notes: tuple[str, ...]

  @property
  def allows_top5(self) -> bool:
    """Whether top-5 accuracy says something."""
    return min(self.num_train_classes, self.num_test_classes) > 5


def find(train_n: Iterable[int], test_n: np.ndarray) -> Occurring:
  """What occurs among labels; those below 0 are none.

  Args:
    train_n: Labels, or classes, of the training set.
    test_n: Labels of the test split, at least one.

  Raises:
    NoAccuracy: If the training set has fewer than two classes.
  """
  train = {int(label) for label in np.unique(np.asarray(list(train_n)))} - {-1}
  require_two(train)
  test_n = test_n[test_n >= 0]
  test = {int(label) for label in np.unique(test_n)}
  notes = []
  if len(test) == 1:
    notes.append(
      f'all {len(test_n):,} test images are of one class ({min(test)}): a '
      'classifier that always answers it is right in 100 %'
    )
  if absent := sorted(test - train):
    count = int(np.isin(test_n, absent).sum())
    notes.append(
      f'{count:,} of {len(test_n):,} test images are of '
      f'{classes_text(len(absent))} without a training example '
      f'({_listed(absent)}): they count as wrong whatever the encoder does'
    )
  return Occurring(len(train), len(test), tuple(notes))


def require_two(classes: Iterable[int]) -> None:
  """Raises NoAccuracy unless there are two classes to tell apart."""
  classes = list(classes)
  if len(classes) == 1:
    raise NoAccuracy(
      f'all labelled training images are of one class ({classes[0]}): the '
      'accuracy would be the share of that class in the test split, 100 % '
      'where it has no other, whatever the encoder does; use training images '
      'of two classes or more'
    )


def unlabelled_notes(*splits: tuple[str, int, int]) -> tuple[str, ...]:
  """Says how many examples have a label where not all of a split have one.

  Args:
    *splits: (name, labels, examples) of each.
  """
  return tuple(
    f'{labels:,} of {examples:,} images of {name} have a label; the others are '
    'left out'
    for name, labels, examples in splits
    if labels < examples
  )


def classes_text(number: int) -> str:
  """'1 class', '2 classes'."""
  return f'{number:,} class' + ('' if number == 1 else 'es')


def _listed(classes: list[int]) -> str:
  shown = ', '.join(str(label) for label in classes[:_SHOWN])
  return shown + (', ...' if len(classes) > _SHOWN else '')
