"""Folders of checkpoints: which steps there are and which can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import math
import os
import sys
import time
from typing import Any, Generic, TypeVar, cast

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from simclr_jax import processes
from simclr_jax.training import manifest as manifest_lib

T = TypeVar('T')

FOLDER = 'checkpoints'
# Written into the workdir when a run is complete; ends `--follow`.
FINISHED = 'finished.json'
# Failures that another try, more memory or a permission would mend: falling
# back to an older step would throw training away.
_NOT_DAMAGE = (
  manifest_lib.CheckpointMismatch,
  MemoryError,
  PermissionError,
  jax.errors.JaxRuntimeError,
)
_NOT_DAMAGE_STATUS = (
  'PERMISSION_DENIED',
  'UNAUTHENTICATED',
  'UNAVAILABLE',
  'DEADLINE_EXCEEDED',
  'RESOURCE_EXHAUSTED',
  'CANCELLED',
)


class DamagedCheckpoint(RuntimeError):
  """No checkpoint that was asked for can be read; the message says why."""


def absolute(path: epath.PathLike) -> epath.Path:
  """TensorStore wants absolute local paths."""
  text = os.fspath(path)
  return epath.Path(text if '://' in text else os.path.abspath(text))


@dataclasses.dataclass(frozen=True)
class Found(Generic[T]):
  """What could be read, and the steps that should have been but could not."""

  value: T
  damaged: list[int]


def first_readable(
  directory: epath.Path,
  candidates: Callable[[], Sequence[int]],
  read: Callable[[int], T],
) -> Found[T] | None:
  """The first of `candidates` that `read` can read; None without candidates.

  A step that disappears meanwhile (the run that writes it keeps only the newest
  few) is no damage: a newer one exists, so the candidates are listed again.
  Every process has to call it.

  Raises:
    DamagedCheckpoint: If there are candidates and none is readable.
  """
  while True:
    reasons: dict[int, str] = {}
    vanished = False
    for step in candidates():
      value, reason = _try_read(read, step)
      if all_processes(reason is None):
        return Found(cast(T, value), list(reasons))
      vanished = not all_processes((directory / str(step)).exists())
      if vanished:
        break
      reasons[step] = reason or 'another process could not read it'
      shout(
        f'checkpoint {directory / str(step)} is DAMAGED and is not used: '
        f'{reasons[step]}'
      )
    if vanished:
      continue
    if reasons:
      lines = '\n'.join(f'  - {step}: {why}' for step, why in reasons.items())
      raise DamagedCheckpoint(
        f'no readable checkpoint in {directory}:\n{lines}\nNothing was changed '
        'or deleted. Move these folders away to start from scratch'
      )
    return None


def _try_read(
  read: Callable[[int], T], step: int
) -> tuple[T | None, str | None]:
  """(value, None), or (None, what is damaged)."""
  try:
    return read(step), None
  except Exception as error:  # Orbax raises bare Exception for damage
    if is_damage(error):
      return None, reason_of(error)
    raise


def is_damage(error: BaseException | None) -> bool:
  """Whether a failed read means that the files are not what was written."""
  while error is not None:
    if isinstance(error, _NOT_DAMAGE):
      return False
    if str(error).startswith(_NOT_DAMAGE_STATUS):
      return False
    error = error.__cause__ or error.__context__
  return True


def reason_of(error: BaseException) -> str:
  """Type and message of the first cause; TensorStore appends pages of specs."""
  while (cause := error.__cause__ or error.__context__) is not None:
    error = cause
  text = ' '.join(str(error).split('[tensorstore_spec')[0].split())
  return f'{type(error).__name__}: {text[:500]}'


def shout(message: str) -> None:
  """To the log and, whatever its level, to stderr."""
  logging.error('%s', message)
  print(f'*** {message}', file=sys.stderr, flush=True)


def all_processes(flag: bool) -> bool:
  """Whether it is true everywhere; a collective."""
  if jax.process_count() == 1:
    return flag
  return bool(np.all(multihost_utils.process_allgather(np.asarray(flag))))


@contextlib.contextmanager
def in_all_processes() -> Iterator[None]:
  """A block that succeeds in all processes or fails in all; one collective.

  Before a collective that needs what the block has read: a process that could
  not read its part of an array would leave the others waiting in it.

  Raises:
    ValueError: Where the block itself did not fail, if it did elsewhere.
  """
  failure: Exception | None = None
  try:
    yield
  except Exception as error:
    failure = error
  if all_processes(failure is None):
    return
  raise failure or ValueError('another process could not read it')


def checkpoints_folder(path: epath.PathLike) -> epath.Path:
  """Folder of checkpoints of a workdir, or `path` if it is one itself."""
  folder = absolute(path)
  if folder.name == FOLDER and not (folder / FOLDER).exists():
    return folder
  if steps_in(folder) and not (folder / FOLDER).exists():
    return folder
  return folder / FOLDER


def steps_in(folder: epath.Path) -> list[int]:
  """Complete checkpoints in exactly this folder, rising.

  Names with more than a number are unfinished (Orbax renames at the end) or
  set aside. An object store has no renaming; there a marker ends the writing.
  """
  if not folder.is_dir():
    return []
  paths = [p for p in folder.iterdir() if is_step(p.name) and p.is_dir()]
  if '://' in os.fspath(folder):
    paths = [p for p in paths if (p / 'commit_success.txt').exists()]
  return sorted(int(p.name) for p in paths)


def is_step(name: str) -> bool:
  """Whether a folder of this name is a step; '007' and '²' are not."""
  return name.isdecimal() and name.isascii() and str(int(name)) == name


def list_steps(path: epath.PathLike) -> list[int]:
  """Complete checkpoints in a workdir or folder of checkpoints, rising."""
  return steps_in(checkpoints_folder(path))


def wait_for_new_step(
  path: epath.PathLike, after: int, *, timeout: float, poll: float = 10.0
) -> Iterator[int]:
  """Yields every step after `after` as the run in `path` saves it.

  A step deleted before its turn is left out. Ends when the run has finished
  and its last step has been given, or with a warning when nothing new has come
  for `timeout` seconds. `path` need not exist yet.

  Args:
    path: Workdir or folder of checkpoints.
    after: Newest step that is not wanted; -1 for all.
    timeout: Longest wait for the next step, in seconds.
    poll: Seconds between two looks.
  """
  folder = checkpoints_folder(path)
  deadline = time.monotonic() + timeout
  while True:
    # Before the listing: the last checkpoint is complete when it appears.
    finished = (folder.parent / FINISHED).exists()
    new = [step for step in steps_in(folder) if step > after]
    late = time.monotonic() >= deadline
    # One look for all processes: they have to judge the same step next.
    finished, new, late = processes.from_first([finished, new, late])
    if new:
      after = new[0]
      yield after
      deadline = time.monotonic() + timeout
    elif finished:
      return
    elif late:
      logging.warning(
        'no checkpoint after step %d in %s within %.0f s',
        after,
        folder,
        timeout,
      )
      return
    else:
      time.sleep(poll)


class KeepBest:
  """Orbax preservation policy: the steps with the best scores.

  Orbax's own BestN reads scores from a file in every step when the manager
  opens, and one damaged file there stops the run from resuming. Steps whose
  score could not be read are kept as well: nobody deletes what may be the best.
  """

  def __init__(self, metric: str, *, num_kept: int):
    self._metric = metric
    self._num_kept = num_kept
    self._scores: dict[int, float] = {}
    self._always: set[int] = set()

  def record(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Notes the score of a step, if it has one."""
    value = score(metrics, self._metric)
    if value is not None:
      self._scores[step] = value

  def keep_always(self, step: int) -> None:
    """Notes a step whose score could not be read."""
    self._always.add(step)

  def forget(self, step: int) -> None:
    """Drops a step that was set aside."""
    self._scores.pop(step, None)
    self._always.discard(step)

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """See Orbax's PreservationPolicy; a step without the metric is no best."""
    del context
    steps = [info.step for info in checkpoints]
    scored = [(self._scores[s], s) for s in steps if s in self._scores]
    best = sorted(scored, reverse=True)[: self._num_kept]
    kept = self._always | {step for _, step in best}
    return [step in kept for step in steps]


def score(metrics: Mapping[str, Any], metric: str) -> float | None:
  """Larger is better; None if the metric is absent or not finite."""
  if metric not in metrics:
    return None
  try:
    value = float(metrics[metric])
  except (TypeError, ValueError):
    return None
  if not math.isfinite(value):
    return None
  return -value if metric == 'loss' else value
