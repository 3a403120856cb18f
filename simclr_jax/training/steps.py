"""Folders of checkpoints: which steps there are and which can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import errno
import json
import logging as std_logging
import math
import os
import stat
import sys
import time
from typing import Any, Generic, TypeVar, cast

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from simclr_jax import processes, progress_bar
from simclr_jax.training import damage, literal_glob
from simclr_jax.training import manifest as manifest_lib

T = TypeVar('T')
literal_glob.install()

FOLDER = 'checkpoints'
# Written into the workdir when a run is complete; ends `--follow`.
FINISHED = 'finished.json'
# What a restore reads; Orbax merges what its threads wrote into the two
# manifests, last of all.
_PARTS = (
  'passport/metadata',
  'manifest/metadata',
  'state/manifest.ocdbt',
  'encoder/manifest.ocdbt',
)
_COMMITTED = 'commit_success.txt'
_NO_SUCH = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
# Neither damage nor of the storage: said by whoever knows more of it.
_OF_OTHERS = (
  manifest_lib.CheckpointMismatch,
  processes.AgreedFailure,
  MemoryError,
  jax.errors.JaxRuntimeError,
)


class DamagedCheckpoint(RuntimeError):
  """No checkpoint that was asked for can be read; the message says why."""


class UnreadableNow(OSError):
  """A checkpoint that may be whole, and could not be read at this time."""


class _FailedElsewhere(Exception):
  """Another process could not read its part."""


def unreadable(path: epath.Path, reason: str) -> UnreadableNow:
  """The error of a checkpoint that is not known to be damaged."""
  return UnreadableNow(
    f'checkpoint {path} cannot be read now: {reason}. It is not known to be '
    'damaged: nothing was renamed, and nothing starts from scratch. Look at '
    'rights, disk and network, then run the same command again'
  )


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
    UnreadableNow: If one cannot be read and is not known to be damaged.
  """
  while True:
    reasons: dict[int, str] = {}
    vanished = False
    for step in candidates():
      value, *mine = _try_read(read, step)
      found = processes.gather(mine)
      failed = [(kind, reason) for kind, reason in found if kind != 'read']
      if not failed:
        return Found(cast(T, value), list(reasons))
      path = directory / str(step)
      vanished = not all_processes(is_complete(path))
      if vanished:
        break
      kind, reason = max(failed)  # 'refused' in one process decides for all.
      if kind == 'refused':
        cause = value if isinstance(value, Exception) else None
        raise unreadable(path, reason) from cause
      reasons[step] = reason
      shout(f'checkpoint {path} is DAMAGED and is not used: {reason}')
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
) -> tuple[T | Exception | None, str, str]:
  """(value, 'read', ''), or (error, 'damaged' or 'refused', why)."""
  try:
    return read(step), 'read', ''
  except _OF_OTHERS:
    raise
  except _FailedElsewhere:
    return None, 'by another', 'another process could not read it'
  except Exception as error:
    kind = 'damaged' if damage.is_damage(error) else 'refused'
    return error, kind, damage.reason_of(error)


def shout(message: str) -> None:
  """One line on stderr, whatever the level of the log, and in the log."""
  logging.error('*** %s', message)
  if not _log_is_on_stderr():
    progress_bar.say(f'*** {message}')


def _log_is_on_stderr() -> bool:
  handler = logging.get_absl_handler()
  shown = logging.get_absl_logger().isEnabledFor(std_logging.ERROR)
  return (
    shown
    and handler in std_logging.root.handlers
    and handler.python_handler.stream in (sys.stderr, sys.__stderr__)
  )


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
    _FailedElsewhere: Where the block itself did not fail, if it did elsewhere.
  """
  failure: Exception | None = None
  try:
    yield
  except Exception as error:
    failure = error
  if all_processes(failure is None):
    return
  raise failure or _FailedElsewhere()


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
  set aside. A store without renaming has the folder while it is being written.
  """
  if not _is_folder(folder):
    return []
  paths = [p for p in folder.iterdir() if is_step(p.name) and is_complete(p)]
  return sorted(int(p.name) for p in paths)


def is_complete(path: epath.Path) -> bool:
  """Whether Orbax has ended the writing of the step in this folder.

  On a disk a copy may lack the marker: there only the time of the end, which
  is null until then, says that the step is unfinished.
  """
  if not _is_folder(path):
    return False
  if (path / _COMMITTED).exists():
    return True
  if '://' in os.fspath(path):
    return False
  try:
    facts = json.loads((path / '_CHECKPOINT_METADATA').read_bytes())
    return facts['commit_timestamp_nsecs'] is not None
  except (OSError, ValueError, LookupError, TypeError):
    return True


def _is_folder(path: epath.Path) -> bool:
  """As `is_dir`, which takes what the system refuses now for 'no'."""
  if '://' in os.fspath(path):
    return path.is_dir()
  try:
    return stat.S_ISDIR(os.stat(path).st_mode)
  except ValueError:
    return False
  except OSError as error:
    if error.errno in _NO_SUCH:
      return False
    raise


def missing_part(path: epath.Path) -> str | None:
  """What a restore of the step would not find, by its files; None: nothing."""
  if not _is_folder(path):
    return 'its folder'
  if not is_complete(path):
    return _COMMITTED
  return next((name for name in _PARTS if not (path / name).exists()), None)


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
