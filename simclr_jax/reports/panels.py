"""Which curves a page draws, and the levels that they are compared with."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math

from simclr_jax import losses, models
from simclr_jax.reports import figures
from simclr_jax.reports.run_data import RunData


@dataclasses.dataclass(frozen=True)
class Panel:
  """One plot of the page.

  Attributes:
    title: Of the plot, and in its alt text.
    metrics: Name in metrics.jsonl -> label of its line ('' for a single one).
    reference: RunData -> a level to compare with, or None.
    percent: Whether the values are shares.
    from_zero: Whether the axis starts at 0.
    caption: Under the plot.
  """

  title: str
  metrics: dict[str, str]
  reference: Callable[[RunData], figures.Reference | None] | None = None
  percent: bool = False
  from_zero: bool = False
  caption: str = ''


def _chance_loss(run: RunData) -> figures.Reference:
  chance = losses.chance_loss(
    run.config.train.batch_size, run.config.loss.scale
  )
  scale = '2 ' if run.config.loss.scale == 'official' else ''
  return figures.Reference(chance, f'all alike, {scale}log(2B-1)', below=True)


def _guessing(run: RunData) -> figures.Reference:
  return figures.Reference(1 / run.config.train.batch_size, 'guessing, 1/B')


def _evenly_spread(run: RunData) -> figures.Reference:
  # E exp(-2 |u - v|^2) = E exp(-4 + 4 u.v) for independent u, v on the sphere;
  # u.v is close to normal with variance 1/d.
  dim = models.embedding_dim(run.config.model)
  return figures.Reference(-4 + 8 / dim, 'evenly spread', below=False)


def _width(run: RunData) -> figures.Reference:
  dim = models.embedding_dim(run.config.model)
  return figures.Reference(dim, 'width of z', below=True)


def _equal_weights(run: RunData) -> figures.Reference:
  negatives = 2 * (run.config.train.batch_size - 1)
  return figures.Reference(max(1, negatives // 100) / negatives, 'all the same')


def _num_classes(run: RunData) -> int:
  return int(run.passport['data'].get('num_classes') or 0)


def _undecided(run: RunData) -> figures.Reference | None:
  # Cross-entropy of any target that sums to one with K equal probabilities:
  # also with mixed or smoothed labels, or a teacher's.
  if not (classes := _num_classes(run)):
    return None
  return figures.Reference(math.log(classes), 'undecided, log K', below=True)


def _guessing_a_class(run: RunData) -> figures.Reference | None:
  if not (classes := _num_classes(run)):
    return None
  return figures.Reference(1 / classes, 'guessing, 1/K')


_LEARNING_RATE = Panel('learning rate', {'learning_rate': ''}, from_zero=True)
_GRADIENT = Panel('norm of the gradient', {'grad_norm': ''}, from_zero=True)
CONTRASTIVE = (
  Panel(
    'contrastive loss',
    {'contrast_loss': ''},
    reference=_chance_loss,
    caption='The dashed line is the loss of embeddings that tell nothing '
    'apart.',
  ),
  Panel(
    'contrastive accuracy',
    {'contrast_acc': ''},
    reference=_guessing,
    percent=True,
    from_zero=True,
    caption='How often the other view is the nearest of all in the batch.',
  ),
  _LEARNING_RATE,
  Panel(
    'online head, top-1',
    {'online_top1': ''},
    percent=True,
    from_zero=True,
    caption='A linear classifier trained beside the encoder, on augmented '
    'training pictures: a pulse, no accuracy to report.',
  ),
  _GRADIENT,
)
CLASSIFIER = (
  Panel(
    'cross-entropy',
    {'loss': 'training batches', 'holdout_nll': 'holdout'},
    reference=_undecided,
    from_zero=True,
    caption='The dashed line is that of a classifier to which all K classes '
    'are equally likely.',
  ),
  Panel(
    'top-1',
    {'train_top1': 'training batches', 'holdout_top1': 'holdout'},
    reference=_guessing_a_class,
    percent=True,
    from_zero=True,
    caption='Training batches are distorted (and perhaps mixed); the holdout '
    'is labels that were not trained on, and chooses the step.',
  ),
  _LEARNING_RATE,
  _GRADIENT,
)
STUDENT = (
  Panel(
    'cross-entropy',
    {
      'loss': 'the whole loss',
      'teacher_entropy': "the teacher's entropy",
      'label_loss': 'with true labels',
      'holdout_nll': 'holdout',
    },
    reference=_undecided,
    from_zero=True,
    caption='With the predictions of the teacher, whose entropy it cannot fall '
    'below. The dashed line: all K classes are equally likely.',
  ),
  Panel(
    'agreement with the teacher',
    {'teacher_agreement': ''},
    reference=_guessing_a_class,
    percent=True,
    from_zero=True,
    caption='Share of a training batch that both put into the same class.',
  ),
  Panel(
    'top-1',
    {
      'train_top1': 'training pictures with a label',
      'holdout_top1': 'holdout',
    },
    reference=_guessing_a_class,
    percent=True,
    from_zero=True,
  ),
  _LEARNING_RATE,
  _GRADIENT,
)
EMBEDDINGS = (
  Panel(
    'mean cosine of pairs',
    {
      'positive_similarity': 'two views of a picture',
      'negative_similarity': 'two pictures',
    },
    caption='The gap is what the loss opens; none means collapse.',
  ),
  Panel(
    'alignment',
    {'alignment': ''},
    from_zero=True,
    caption='Mean squared distance of two views; 0 is perfect.',
  ),
  Panel(
    'uniformity',
    {'uniformity': ''},
    reference=_evenly_spread,
    caption='Lower is more evenly spread; 0 is collapsed.',
  ),
  Panel(
    'effective rank of z',
    {'effective_rank': ''},
    reference=_width,
    from_zero=True,
    caption='How many dimensions the embeddings really use.',
  ),
  Panel(
    'weight of the hardest 1 % of negatives',
    {'hardest_negative_weight': ''},
    reference=_equal_weights,
    percent=True,
    from_zero=True,
    caption='Near 100 % the loss sees a few negatives only: a temperature '
    'that is too low, or pictures that are there twice.',
  ),
)
SPEED = (
  Panel('images per second', {'images_per_second': ''}, from_zero=True),
  Panel(
    'wait for input',
    {'input_wait_percent': ''},
    from_zero=True,
    caption='Per cent of the time in which the devices had no batch.',
  ),
  Panel(
    'model FLOP/s, % of the published peak',
    {'mfu_percent': ''},
    from_zero=True,
  ),
)
