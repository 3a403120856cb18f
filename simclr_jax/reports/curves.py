"""Curves of metrics.jsonl: loss, embeddings, speed."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
import statistics

from simclr_jax.evaluation import plots
from simclr_jax.reports import document, figures, kinds, panels
from simclr_jax.reports.panels import Panel
from simclr_jax.reports.run_data import RunData, finite

# Per cent of the time.
_LONG_WAIT = 10
_DIAGNOSTICS = 'config.train.diagnostics_every = {every!r}'


def training(run: RunData) -> document.Section | document.Missing:
  """Loss, accuracy, learning rate."""
  shown = _panels(run, kinds.of(run).training)
  if not shown.pictures:
    return document.Missing(
      'Training', 'metrics.jsonl of this workdir holds no line'
    )
  return dataclasses.replace(
    shown, heading='Training', text='By optimizer step, every logged line.'
  )


def embeddings(run: RunData) -> document.Section | document.Missing:
  """What z looks like beyond the loss."""
  shown = _panels(run, panels.EMBEDDINGS)
  every = run.config.train.diagnostics_every
  if not shown.pictures:
    return document.Missing(
      'Embeddings during training',
      'metrics.jsonl holds none of '
      + ', '.join(n for p in panels.EMBEDDINGS for n in p.metrics)
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
  shown = _panels(run, panels.SPEED)
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


def _panels(run: RunData, wanted: Sequence[Panel]) -> document.Section:
  """Those that the run has numbers for; a note for each of the others."""
  pictures, notes = [], []
  for panel in wanted:
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
