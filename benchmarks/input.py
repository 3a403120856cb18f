"""What the host can feed: pairs of views a second, of each input pipeline.

  python -m benchmarks.input --out=docs/results/input_cpu.json

The pipelines take turns in one run, several rounds of a few seconds: a plain
tf.data transcription of the paper's pipeline (`plain_pipeline.py`), then what
`config.data.loader` and `augment_on` choose between. At 32 px pictures are
CIFAR-like (32 x 32 PNG; colour strength 0.5, no blur), at 224 px ImageNet-like
(JPEG, 500 x 375, quality 90; strength 1, blur). A pair is one picture with its
two views; what hybrid leaves to the accelerator is not in its time.

Rates are per second of CPU time (of this process and its workers) and by the
clock; a ratio is the median over the rounds of one round's ratio to the
baseline, so that other work on the machine weighs on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import gc
import os
import statistics
import time
from typing import Any, NamedTuple

from absl import app, flags
import numpy as np

from benchmarks import plain_pipeline, result_file
from simclr_jax import config as config_lib
from simclr_jax import console
from simclr_jax.data import pipeline
from simclr_jax.data.source import Example, Source
from simclr_jax.planning.host_input import cpu_seconds, make_pictures

_OUT = flags.DEFINE_string('out', '', 'JSON file for the result.')
_SIZES = flags.DEFINE_list('sizes', ['32', '224'], 'Sides of the views.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Turns of each pipeline.')
_SECONDS = flags.DEFINE_float('seconds', 3.0, 'Least time of a turn.')
_WORKERS = flags.DEFINE_integer(
  'workers',
  os.cpu_count() or 1,
  'Worker processes of the opencv loader; 0 is threads of this process, which '
  'Python lets take turns only where pictures are small.',
)
BASELINE = 'plain tf.data'
# Name -> (loader, augment_on).
PIPELINES = {
  'tf, host': ('tf', 'host'),
  'tf, hybrid': ('tf', 'hybrid'),
  'opencv, host': ('opencv', 'host'),
  'opencv, hybrid': ('opencv', 'hybrid'),
}


class Case(NamedTuple):
  """What is read and made at a size.

  Attributes:
    pictures: Encoded.
    augment: The recipe.
    batch_size: Images.
    text: For people.
  """

  pictures: list[bytes]
  augment: config_lib.AugmentConfig
  batch_size: int
  text: str


class Turn(NamedTuple):
  """One turn of a pipeline, in pairs a second."""

  per_cpu_second: float
  per_second: float


def make_case(side: int) -> Case:
  """Pictures and recipe for views of this side."""
  if side <= 32:
    augment = config_lib.AugmentConfig(jitter_strength=0.5, blur_prob=0.0)
    pictures = make_pictures(1024, (side, side), image_format='PNG')
    text = f'PNG, {side} x {side}'
    return Case(pictures, augment, 256, text)
  pictures = make_pictures(96, (500, 375), image_format='JPEG')
  mean = np.mean([len(p) for p in pictures]) / 1024
  text = f'JPEG quality 90, 500 x 375, {mean:.0f} KB on average'
  return Case(pictures, config_lib.AugmentConfig(), 32, text)


def open_pipeline(name: str, case: Case, *, side: int) -> Iterator[Any]:
  """Endless batches."""
  if name == BASELINE:
    return plain_pipeline.plain_batches(
      case.pictures,
      size=side,
      batch_size=case.batch_size,
      strength=case.augment.jitter_strength,
      blur=case.augment.blur_prob > 0,
    )
  loader, augment_on = PIPELINES[name]
  make: Callable[..., Iterator[Any]] = {
    'host': pipeline.train_batches,
    'hybrid': pipeline.crop_batches,
  }[augment_on]
  pictures = case.pictures
  source = Source(
    name='pictures',
    num_examples=len(pictures),
    num_classes=0,
    encoded=True,
    read=lambda i: Example(pictures[i], -1),
    example_id=str,
    fingerprint='',
  )
  # tf.data finds out by itself how many calls to run at once.
  workers = _WORKERS.value if loader == 'opencv' else 0
  data = config_lib.DataConfig(
    image_size=side, loader=loader, num_workers=workers
  )
  return make(
    source,
    data=data,
    augment=case.augment,
    batch_size=case.batch_size,
    seed=0,
  )


def take_turn(batches: Iterator[Any], *, batch_size: int) -> Turn:
  """Runs for a while from a steady state."""
  # Until AUTOTUNE has grown to what the machine has.
  start = time.perf_counter()
  while time.perf_counter() - start < _SECONDS.value / 2:
    next(batches)
  cpu, start, count = cpu_seconds(), time.perf_counter(), 0
  while time.perf_counter() - start < _SECONDS.value:
    next(batches)
    count += batch_size
  wall, cpu = time.perf_counter() - start, cpu_seconds() - cpu
  return Turn(count / cpu, count / wall)


def measure(side: int) -> list[dict[str, Any]]:
  """All pipelines at one size, a row for each."""
  case = make_case(side)
  names = [BASELINE, *PIPELINES]
  turns: dict[str, list[Turn]] = {name: [] for name in names}
  for _ in range(_ROUNDS.value):
    for name in names:
      # A new one each time: one that waits would go on filling its buffers, in
      # the time of the others.
      batches = open_pipeline(name, case, side=side)
      turns[name].append(take_turn(batches, batch_size=case.batch_size))
      del batches
      gc.collect()
      time.sleep(0.5)
  what = {'image_size': side, 'pictures': case.text}
  return [{**what, **summarise(name, turns)} for name in names]


def summarise(name: str, turns: dict[str, list[Turn]]) -> dict[str, Any]:
  """Medians over the rounds."""
  mine, base = turns[name], turns[BASELINE]
  return {
    'pipeline': name,
    'pairs_per_cpu_second': round(
      statistics.median(t.per_cpu_second for t in mine), 1
    ),
    'pairs_per_second': round(statistics.median(t.per_second for t in mine), 1),
    'cpu_ratio': round(
      statistics.median(
        t.per_cpu_second / b.per_cpu_second
        for t, b in zip(mine, base, strict=True)
      ),
      2,
    ),
    'wall_ratio': round(
      statistics.median(
        t.per_second / b.per_second for t, b in zip(mine, base, strict=True)
      ),
      2,
    ),
  }


def print_table(rows: list[dict[str, Any]]) -> None:
  """For people."""
  print(
    f'{"px":>4}  {"pipeline":<16}{"pairs/CPU-s":>12}{"pairs/s":>10}'
    f'{"CPU ratio":>11}{"wall ratio":>12}'
  )
  for row in rows:
    print(
      f'{row["image_size"]:>4}  {row["pipeline"]:<16}'
      f'{row["pairs_per_cpu_second"]:>12.0f}{row["pairs_per_second"]:>10.0f}'
      f'{row["cpu_ratio"]:>10.2f}x{row["wall_ratio"]:>11.2f}x'
    )


def main(argv: list[str]) -> None:
  """Measures, prints, writes."""
  del argv
  console.start()
  rows = [row for side in _SIZES.value for row in measure(int(side))]
  print(f'hardware: {result_file.hardware()}')
  print_table(rows)
  result_file.report('input', rows, out=_OUT.value)


if __name__ == '__main__':
  app.run(main)
