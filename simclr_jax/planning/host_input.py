"""What the input pipeline of a config delivers on this machine: measured."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import glob
import io
import os
import pathlib
import time
from typing import Any

import numpy as np
from PIL import Image

from simclr_jax import config as config_lib
from simclr_jax.data import background, pipeline
from simclr_jax.data.source import Example, Source
from simclr_jax.planning.split import PUBLISHED, Split

_NUM_PICTURES = 96
_BATCH = 64  # Images; enough for every worker, small enough to count in time.


@dataclasses.dataclass(frozen=True)
class InputRate:
  """A pair is one image with its two views.

  Attributes:
    pairs_per_second: By the clock, all cores at work.
    pairs_per_cpu_second: Of the processor time that was spent.
    cores: Of this machine.
    pictures: What was read.
    seconds: How long was measured.
  """

  pairs_per_second: float
  pairs_per_cpu_second: float
  cores: int
  pictures: str
  seconds: float


def measure(
  config: config_lib.Config, split: Split, *, seconds: float
) -> InputRate | None:
  """Runs the pipeline as a host of the run would, after as long a warm-up.

  Args:
    config: Reads `data` and `augment`.
    split: Its source is read if it is here, else pictures like its own are
      made.
    seconds: To measure.

  Returns:
    None for data.augment_on='device', where the host makes no views.

  Raises:
    ValueError: If the loader's packages are missing or a picture is bad.
  """
  if config.data.augment_on == 'device':
    return None
  source, text = split.source, 'the data set itself'
  if source is None:
    source, text = _synthetic(config)
  make = {
    'host': pipeline.train_batches,
    'hybrid': pipeline.crop_batches,
  }[config.data.augment_on]
  batch = min(_BATCH, config.train.batch_size, source.num_examples)
  batches = make(
    source,
    data=config.data,
    augment=config.augment,
    batch_size=batch,
    seed=config.seed,
  )
  close = getattr(batches, 'close', lambda: None)
  with contextlib.ExitStack() as stack:
    stack.callback(close)
    _take(batches, seconds=seconds)
    cpu, begin = cpu_seconds(), time.monotonic()
    count = batch * _take(batches, seconds=seconds)
    wall, cpu = time.monotonic() - begin, cpu_seconds() - cpu
  return InputRate(
    pairs_per_second=count / wall,
    pairs_per_cpu_second=count / max(cpu, 1e-9),
    cores=background.num_cores(),
    pictures=text,
    seconds=wall,
  )


def _take(batches: Iterator[Any], *, seconds: float) -> int:
  begin, count = time.monotonic(), 0
  while time.monotonic() - begin < seconds:
    next(batches)
    count += 1
  return count


def _synthetic(config: config_lib.Config) -> tuple[Source, str]:
  """Pictures of the size of the data set's, or 500 x 375 where unknown."""
  known = PUBLISHED.get(config.data.name.partition(':')[0])
  size = known.picture if known else (500, 375)
  small = max(size) <= 64
  if config.data.image_size <= 32 and known is None:
    size, small = (32, 32), True
  kind = 'PNG' if small else 'JPEG'
  pictures = make_pictures(_NUM_PICTURES, size, image_format=kind)
  kilobytes = np.mean([len(p) for p in pictures]) / 1024
  source = Source(
    name='pictures',
    # Enough for batches of the pipeline's size; the pictures take turns.
    num_examples=1024,
    num_classes=0,
    encoded=True,
    read=lambda i: Example(pictures[i % len(pictures)], -1),
    example_id=str,
    fingerprint='',
  )
  text = f'synthetic {kind}, {size[0]} x {size[1]}, {kilobytes:.0f} KB'
  return source, text


def make_pictures(
  count: int, size: tuple[int, int], *, image_format: str
) -> list[bytes]:
  """Random parts of scikit-learn's two photographs, resized and encoded."""
  from sklearn import datasets

  photos = datasets.load_sample_images().images
  rng = np.random.Generator(np.random.PCG64(0))
  encoded = []
  for number in range(count):
    photo = photos[number % len(photos)]
    height = int(rng.integers(200, photo.shape[0]))
    width = min(height * size[0] // size[1], photo.shape[1])
    top = int(rng.integers(0, photo.shape[0] - height + 1))
    left = int(rng.integers(0, photo.shape[1] - width + 1))
    part = photo[top : top + height, left : left + width]
    out = io.BytesIO()
    resized = Image.fromarray(part).resize(size, Image.Resampling.BICUBIC)
    resized.save(out, image_format, quality=90)
    encoded.append(out.getvalue())
  return encoded


def cpu_seconds() -> float:
  """CPU time of this process and its living children."""
  total, tick = 0.0, os.sysconf('SC_CLK_TCK')
  for path in glob.glob('/proc/self/task/*/children'):
    # Threads and processes may end between two looks.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
      for child in pathlib.Path(path).read_text().split():
        fields = pathlib.Path(f'/proc/{child}/stat').read_text()
        user, system = fields.rpartition(')')[2].split()[11:13]
        total += (int(user) + int(system)) / tick
  return total + time.process_time()
