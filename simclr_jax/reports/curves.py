"""Curves of metrics.jsonl: loss, embeddings, speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import math
import statistics

from simclr_jax import losses, models
from simclr_jax.evaluation import plots
from simclr_jax.reports import document, figures
from simclr_jax.reports.run_data import RunData, finite

# Per cent of the time.
_LONG_WAIT = 10
_DIAGNOSTICS = 'config.train.diagnostics_every = {every!r}'


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


def _chance_loss(run: RunData) -> figures.Reference | None:
  if run.config.objective != 'simclr':
    return None
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


TRAINING = (
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
  Panel('learning rate', {'learning_rate': ''}, from_zero=True),
  Panel(
    'online head, top-1',
    {'online_top1': ''},
    percent=True,
    from_zero=True,
    caption='A linear classifier trained beside the encoder, on augmented '
    'training pictures: a pulse, no accuracy to report.',
  ),
  Panel('norm of the gradient', {'grad_norm': ''}, from_zero=True),
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


def training(run: RunData) -> document.Section | document.Missing:
  """Loss, accuracy, learning rate."""
  shown = _panels(run, TRAINING)
  if not shown.pictures:
    return document.Missing(
      'Training', 'metrics.jsonl of this workdir holds no line'
    )
  return dataclasses.replace(
    shown, heading='Training', text='By optimizer step, every logged line.'
  )


def embeddings(run: RunData) -> document.Section | document.Missing:
  """What z looks like beyond the loss."""
  shown = _panels(run, EMBEDDINGS)
  every = run.config.train.diagnostics_every
  if not shown.pictures:
    return document.Missing(
      'Embeddings during training',
      'metrics.jsonl holds none of '
      + ', '.join(n for p in EMBEDDINGS for n in p.metrics)
      + f' ({_DIAGNOSTICS.format(every=every)})',
    )
  return dataclasses.replace(
    shown,
    heading='Embeddings during training',
    text='Of z on training batches, scaled to length 1. Alignment and '
    'uniformity as in Wang and Isola 2020.',
  )


def speed(run: RunData) -> document.Section | document.Missing:
  """Throughput and who waited for whom."""
  shown = _panels(run, SPEED)
  if not shown.pictures:
    return document.Missing(
      'Speed', 'metrics.jsonl holds no images_per_second: the run was too short'
    )
  software = run.passport.get('software', {})
  devices = (
    f'{software.get("num_devices", "?")} x '
    f'{software.get("device_kind", "unknown device")}'
  )
  waits = [value for _, value in finite(run.series('input_wait_percent'))]
  late = statistics.median(waits[len(waits) // 2 :]) if waits else 0.0
  warnings: tuple[str, ...] = ()
  if late > _LONG_WAIT:
    warnings = (
      f'In the second half of the run the devices waited {late:.0f} % of the '
      'time for pictures: more data.num_workers, or data.augment_on = '
      "'hybrid' or 'device', would make the run faster.",
    )
  return dataclasses.replace(
    shown,
    heading='Speed',
    text=f'On {devices}. Without evaluations, saves and compiling.',
    warnings=warnings,
  )


def combined(run: RunData) -> bytes | None:
  """Loss, accuracy and learning rate in one picture, for a README."""
  needed = ('contrast_loss', 'contrast_acc', 'learning_rate')
  if not all(run.series(name) for name in needed):
    return None
  return plots.to_png(
    plots.training_curves(
      run.records,
      batch_size=run.config.train.batch_size,
      scale=run.config.loss.scale,
    )
  )


def _panels(run: RunData, panels: Sequence[Panel]) -> document.Section:
  """Those that the run has numbers for; a note for each of the others."""
  pictures, notes = [], []
  for panel in panels:
    lines = [
      figures.Line(label, points)
      for name, label in panel.metrics.items()
      if (points := finite(run.series(name)))
    ]
    if not lines:
      names = ', '.join(panel.metrics)
      notes.append(f'No plot of {panel.title}: {names} was not logged.')
      continue
    reference = panel.reference(run) if panel.reference else None
    figure = figures.curve(
      lines,
      title=panel.title,
      reference=reference,
      from_zero=panel.from_zero,
      percent=panel.percent,
    )
    pictures.append(
      document.Picture(
        name='-'.join(panel.metrics),
        png=figures.to_png(figure),
        alt=_describe(panel, lines, reference),
        caption=panel.caption,
      )
    )
  return document.Section('', pictures=tuple(pictures), notes=tuple(notes))


def _describe(
  panel: Panel,
  lines: Sequence[figures.Line],
  reference: figures.Reference | None,
) -> str:
  """The plot in a sentence or two."""
  factor, unit = (100, ' %') if panel.percent else (1, '')
  parts = []
  for line in lines:
    (first, begin), (last, end) = line.points[0], line.points[-1]
    lowest = factor * min(value for _, value in line.points)
    highest = factor * max(value for _, value in line.points)
    name = f'{panel.title}, {line.label}' if line.label else panel.title
    parts.append(
      f'{name}: {factor * begin:.3g}{unit} at step {first:,}, '
      f'{factor * end:.3g}{unit} at step {last:,}; between {lowest:.3g} and '
      f'{highest:.3g}.'
    )
  if reference is not None and math.isfinite(reference.value):
    parts.append(
      f'Dashed: {reference.label}, {factor * reference.value:.3g}{unit}.'
    )
  text = ' '.join(parts)
  return text[:1].upper() + text[1:]
