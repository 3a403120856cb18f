"""The pretraining command, noting what it trains on; started by soak.

Nothing of the command is replaced but the place where batches reach the loop
and the evaluation: both also write a line to $SOAK_RECORD, at once, so that it
is there whatever happens to the process. No TensorBoard, whose import takes
longer than a run.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import os
import time
from typing import Any
import zlib

from absl import app, flags
import jax
import numpy as np

from simclr_jax import flag_errors
from simclr_jax import main as command
from simclr_jax.training import feeding
from simclr_jax.training import metrics as metrics_lib

_LIFE = int(os.environ['SOAK_LIFE'])
_FILE = os.open(
  os.environ['SOAK_RECORD'], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666
)


def note(event: str, **facts: Any) -> None:
  """Appends a line by one write."""
  facts |= {'life': _LIFE, 'event': event, 'time': time.time()}
  line = json.dumps(facts) + '\n'
  os.write(_FILE, line.encode())


def checksum(views: jax.Array) -> int:
  """CRC-32 of this process's rows of a batch, as they lie on its devices."""
  shards = sorted(views.addressable_shards, key=lambda s: s.index[0].start or 0)
  value = 0
  for shard in shards:
    value = zlib.crc32(np.ascontiguousarray(shard.data).tobytes(), value)
  return value


def recorded_feed(run: Any, *, start_step: int) -> Iterator[Any]:
  """The batches of `feeding.train_feed`, noted when the loop takes them."""
  note('start', step=start_step)
  batches = _train_feed(run, start_step=start_step)
  for step, (batch, index) in enumerate(batches, start=start_step + 1):
    views = checksum(batch['views'])
    note('batch', step=step, index=[int(i) for i in index], views=views)
    yield batch, index


def recorded_evaluation(run: Any, workdir: str) -> Any:
  """The command's evaluation, noted at its begin and its end."""
  evaluate_fn = _make_evaluate_fn(run, workdir)
  if evaluate_fn is None:
    return None

  def evaluate(run: Any, state: Any, stop_fn: Any) -> Any:
    note('evaluate', step=int(state.step))
    values = evaluate_fn(run, state, stop_fn)
    note('evaluated', step=int(state.step), values=values)
    return values

  return evaluate


_train_feed, feeding.train_feed = feeding.train_feed, recorded_feed
_make_evaluate_fn = command.make_evaluate_fn
command.make_evaluate_fn = recorded_evaluation
metrics_lib._make_tensorboard = lambda workdir: None

if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(command.main, flags_parser=flag_errors.parse)
