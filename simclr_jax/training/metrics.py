"""Where numbers of a run go: JSON lines always, TensorBoard if installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import importlib.util
import json
import math
import os
import time
from typing import Any

from absl import logging
from etils import epath
import numpy as np

from simclr_jax import writes
from simclr_jax.training import events, line_file, storage
from simclr_jax.training import steps as steps_lib

FILE_NAME = 'metrics.jsonl'
# An object store has no append: the whole file is written again, so not often.
_REMOTE_FLUSH_SECONDS = 60.0
# Lines of a former life that are kept in memory.
_REMEMBERED = 200


def number_for_json(value: Any) -> float | int | str:
  """A number as JSON can hold it.

  JSON has no NaN and no infinity. They become the strings 'NaN', 'Infinity' and
  '-Infinity', which Python's `float` reads back: null would hide which of them
  it was, and a bare NaN makes other readers refuse the line.
  """
  value = np.asarray(value).item()
  if isinstance(value, float) and not math.isfinite(value):
    if math.isnan(value):
      return 'NaN'
    return 'Infinity' if value > 0 else '-Infinity'
  return value


def read_lines(path: epath.PathLike) -> list[dict[str, Any]]:
  """Records of a metrics.jsonl; [] if there is none.

  A last line that a killed run left half-written is dropped.

  Raises:
    ValueError: If any other line is not a JSON object with a step: the file
      was edited or is another one.
  """
  path = epath.Path(path)
  if not path.exists():
    return []
  lines = path.read_text().split('\n')
  records = []
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    try:
      record = json.loads(line)
      if not isinstance(record['step'], int):
        raise TypeError('step is no integer')
    except (json.JSONDecodeError, TypeError, KeyError) as error:
      # Every whole line ends in a newline, so only the text after the last one
      # can be half of a line.
      if number == len(lines):
        break
      raise ValueError(
        f'{path}, line {number} is not a metric line ({error}): {line[:80]!r}; '
        'move the file away, or repair it'
      ) from error
    records.append(record)
  return records


class MetricWriter:
  """Writes WORKDIR/metrics.jsonl, and TensorBoard events if clu is there.

  A line is {"step": ..., "time": seconds since 1970, name: value, ...};
  non-finite values are strings, see `number_for_json`. A run that resumes at
  step k drops the lines after k, which its killed predecessor wrote and which
  it writes again, so that nothing is there twice. A step may have two lines
  with other names: training metrics, then those of an evaluation. (TensorBoard
  event files cannot be cut: there, steps that ran twice show twice.)

  Only the primary process writes; elsewhere every call does nothing.

  Attributes:
    history: The newest lines that the run resumes after.
  """

  def __init__(
    self, workdir: epath.PathLike, *, primary: bool, start_step: int = 0
  ):
    """Opens the files.

    Args:
      workdir: Of the run.
      primary: Whether this process writes.
      start_step: Step of the checkpoint the run resumes from; 0 drops all
        lines.
    """
    self._primary = primary
    self._tensorboard: Any = None
    self.history: list[dict[str, Any]] = []
    if not primary:
      return
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    self._path = workdir / FILE_NAME
    self._remote = _is_remote(self._path)
    self._last_flush = time.monotonic()
    self._dirty = False
    try:
      self._text = self._keep_until(start_step)
      self._file = None if self._remote else line_file.LineFile(self._path)
    except OSError as error:
      raise storage.StorageFailed(
        f'cannot write {self._path}: {storage.explain(self._path, error)}. '
        'Nothing has been trained by this command'
      ) from error
    try:
      self._tensorboard = _make_tensorboard(workdir)
    except Exception as error:  # A broken installation is no reason either.
      self._no_more_events(error)

  def _keep_until(self, start_step: int) -> str:
    """Rewrites the file without later lines; returns what stays."""
    records = read_lines(self._path)
    kept = [r for r in records if start_step and r['step'] <= start_step]
    self.history = kept[-_REMEMBERED:]
    if len(kept) < len(records):
      logging.info(
        'dropped %d lines after step %d from %s',
        len(records) - len(kept),
        start_step,
        self._path,
      )
    text = ''.join(json.dumps(record) + '\n' for record in kept)
    if self._path.exists():
      if self._remote:
        self._path.write_text(text)  # an object is replaced as a whole
      else:
        writes.whole(self._path, text)
    return text

  def has(self, step: int, names: Iterable[str]) -> bool:
    """Whether the lines that the run resumes after hold these of a step."""
    names = set(names)
    return any(r['step'] == step and names <= set(r) for r in self.history)

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes one line.

    Args:
      step: Finished steps.
      scalars: Name -> number (Python, NumPy or JAX scalar).

    Raises:
      ValueError: If a name is 'step' or 'time', which the line has already.
    """
    if not self._primary:
      return
    if taken := {'step', 'time'} & set(scalars):
      raise ValueError(f'{sorted(taken)} are names of the line itself')
    record: dict[str, Any] = {
      'step': int(step),
      'time': round(time.time(), 3),
    }
    record |= {name: number_for_json(v) for name, v in scalars.items()}
    line = json.dumps(record, allow_nan=False) + '\n'
    if self._file is not None:
      self._file.write(line)
    else:
      self._text += line
      self._dirty = True
      if time.monotonic() - self._last_flush > _REMOTE_FLUSH_SECONDS:
        self.flush()
    values = {name: float(np.asarray(v)) for name, v in scalars.items()}
    self._to_tensorboard(lambda board: board.write_scalars(step, values))

  def flush(self) -> None:
    """Makes everything written so far durable."""
    if not self._primary:
      return
    if self._dirty:
      self._last_flush = time.monotonic()
      try:
        self._path.write_text(self._text)
        self._dirty = False
      except OSError as error:
        steps_lib.shout(
          f'cannot write {self._path}, it is tried again: '
          f'{storage.explain(self._path, error)}'
        )
    self._to_tensorboard(lambda board: board.flush())

  def close(self) -> None:
    """Flushes and closes; twice is allowed."""
    if not self._primary:
      return
    self.flush()
    self._to_tensorboard(lambda board: board.close())
    self._tensorboard = None
    if self._file is not None:
      self._file.close()
    self._primary = False

  def _to_tensorboard(self, action: Callable[[Any], None]) -> None:
    """Does something with the event file; after a failure never again.

    The numbers are in metrics.jsonl too: no reason to stop training.
    """
    if self._tensorboard is None:
      return
    try:
      action(self._tensorboard)
    except Exception as error:
      self._no_more_events(error)

  def _no_more_events(self, error: Exception) -> None:
    self._tensorboard = None
    steps_lib.shout(
      'no more TensorBoard events in this run (metrics.jsonl goes on): '
      f'{storage.explain(self._path.parent, error)}'
    )


def _is_remote(path: epath.Path) -> bool:
  return '://' in os.fspath(path)


def _make_tensorboard(workdir: epath.Path) -> Any:
  """clu's TensorBoard writer, or None without TensorFlow, clu or tensorboard.

  TensorFlow is asked for before it is imported, because importing it takes
  seconds; the lazy import then hides the accelerators from it.
  """
  needed = ('tensorflow', 'clu', 'tensorboard')
  missing = [name for name in needed if importlib.util.find_spec(name) is None]
  if missing:
    logging.info('no TensorBoard events: %s not installed', ', '.join(missing))
    return None
  from simclr_jax.data.lazy_tf import tf

  # Touching it imports it, accelerators hidden, before clu does.
  logging.info('TensorBoard events through TensorFlow %s', tf.__version__)
  from clu import metric_writers

  return events.EventWriter(
    lambda: metric_writers.SummaryWriter(os.fspath(workdir))
  )
