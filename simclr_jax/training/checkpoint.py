"""Checkpoints: saved whole, restored strictly, read past damage loudly.

A step is a folder WORKDIR/checkpoints/<step> with four items: `state` (every
array of the training state), `encoder` (params and batch_stats, what evaluation
reads), `passport` and `manifest` (JSON). The only file that imports Orbax.
"""

from __future__ import annotations

from collections.abc import (
  Callable,
  Collection,
  Iterator,
  Mapping,
  Sequence,
)
import contextlib
import gc
import json
import os
from typing import Any, TypeVar

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from simclr_jax import processes
from simclr_jax.config import CheckpointConfig
from simclr_jax.training import choice, damage, settled, storage
from simclr_jax.training import loaded as loaded_lib
from simclr_jax.training import manifest as manifest_lib
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import place as place_lib
from simclr_jax.training import steps as steps_lib

PyTree = Any
T = TypeVar('T')
# Upper bound on the errors of one save: Orbax runs about five threads and each
# may raise.
_MOST_ERRORS = 10
# What callers need of the parts that know nothing of Orbax.
CheckpointMismatch = manifest_lib.CheckpointMismatch
DamagedCheckpoint = steps_lib.DamagedCheckpoint
UnreadableNow = steps_lib.UnreadableNow
SaveFailed = storage.SaveFailed
Restored = loaded_lib.Restored
LoadedEncoder = loaded_lib.LoadedEncoder
LoadedState = loaded_lib.LoadedState
FINISHED = steps_lib.FINISHED
FOLDER = steps_lib.FOLDER
fingerprint = manifest_lib.fingerprint
list_steps = steps_lib.list_steps
steps_to_load = choice.steps_to_load
wait_for_new_step = steps_lib.wait_for_new_step


class Checkpointer:
  """Saves and restores the checkpoints of one run.

  The newest `keep_latest` and the `keep_best` best are kept, so the newest is
  never deleted whatever the metric does. Every process has to make the same
  calls.
  """

  def __init__(self, directory: epath.PathLike, config: CheckpointConfig):
    """Opens, and creates, the folder of checkpoints (may be gs://...)."""
    self._place = place_lib.Place(directory)
    self._directory = self._place.directory
    self._config = config
    self._writing: int | None = None  # Step of a save that may still fail.
    self._settling = contextlib.ExitStack()  # Open while a save is written.
    self._num_bytes = 0  # Of the newest save, before it is compressed.
    self._reloaded = True  # Orbax' list, after the newest save that failed.
    self._place.purge()
    self._best = steps_lib.KeepBest(
      config.best_metric, num_kept=config.keep_best
    )
    for step in steps_lib.steps_in(self._directory):
      try:
        _, manifest = _read_json_items(self._directory / str(step))
      except Exception as error:
        path, reason = self._directory / str(step), damage.reason_of(error)
        # Without its score a step could be deleted that is the best; what only
        # failed to be read now has to stop the run.
        if not damage.is_damage(error):
          raise steps_lib.unreadable(path, reason) from error
        steps_lib.shout(
          f'checkpoint {path} has no readable score and is kept, whatever it '
          f'is: {reason}'
        )
        self._best.keep_always(step)
      else:
        self._best.record(step, manifest['metrics'])
    policies = [
      preservation_policy.LatestN(n=config.keep_latest),
      self._best,
    ]
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        create=True,
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
        enable_async_checkpointing=config.asynchronous,
        # Made behind the training, folders that cannot be made leave threads
        # that wait 20 minutes for them, also when the process wants to end.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        # What a killed save left behind; finished steps are not touched.
        cleanup_tmp_directories=True,
        todelete_subdir=place_lib.DELETED,
        # Not lightweight_initialize: the time it makes up for old steps breaks
        # the first save after a preemption notice (naive datetime).
      ),
    )

  def save(
    self,
    step: int,
    state: PyTree,
    *,
    encoder: Mapping[str, PyTree],
    passport: Mapping[str, Any],
    metrics: Mapping[str, Any],
  ) -> None:
    """Saves a step; returns once the arrays may be donated.

    Waits for a save that is still being written. A save that fails leaves no
    step and changes no other one, and a later one may succeed. Every process
    raises if it fails in one.

    Args:
      step: Finished steps; later than every step in the folder.
      state: Training state, arrays only.
      encoder: {'params', 'batch_stats'}.
      passport: JSON, see training/passport.py.
      metrics: Of this step; `best_metric` need not be among them.

    Raises:
      ValueError: If the folder has this step or a later one: Orbax would
        return without having saved.
      SaveFailed: If the storage refuses it, or the save before failed.
    """
    self.wait()
    # One that failed may still be on Orbax' list.
    known = set(self._manager.all_steps()) - set(self._place.failed)
    latest = max(known, default=None)
    if latest is not None and step <= latest:
      raise ValueError(
        f'cannot save step {step}: {self._directory} already holds step '
        f'{latest}. Resume from it, or use another workdir'
      )
    if set(encoder) != {'params', 'batch_stats'}:
      raise ValueError(
        f'encoder holds {sorted(encoder)}, not params and batch_stats'
      )
    passport = json.loads(json.dumps(passport, allow_nan=False))
    manifest = manifest_lib.make_manifest(
      {'state': state, 'encoder': encoder},
      passport=passport,
      metrics={k: metrics_lib.number_for_json(v) for k, v in metrics.items()},
      best_metric=self._config.best_metric,
    )
    self._best.record(step, metrics)
    self._place.purge()
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(_to_store(state)),
      encoder=ocp.args.StandardSave(_to_store(encoder)),
      passport=ocp.args.JsonSave(passport),
      manifest=ocp.args.JsonSave(manifest),
    )

    def start() -> None:
      if not self._manager.save(step, args=items, force=True):
        raise RuntimeError(f'Orbax did not save step {step}; it gave no reason')

    self._num_bytes = _num_bytes(state) + _num_bytes(encoder)
    # Tried first, because processes of which one cannot write would wait for
    # each other.
    self._attempt(step, self._place.check)
    if self._place.failed and not self._reloaded:
      # Orbax struck off its list what the failed step would have displaced, and
      # those older steps would stay for ever.
      self._manager.reload()
      self._reloaded = True
    with contextlib.ExitStack() as stack:
      stack.enter_context(settled.settled())
      self._attempt(step, start)
      self._settling = stack.pop_all()
    self._writing = step
    if not self._config.asynchronous:
      self.wait()

  def saved_steps(self) -> list[int]:
    """Complete checkpoints, rising; waits for one still being written."""
    self.wait()
    return steps_lib.steps_in(self._directory)

  def latest_passport(self) -> dict[str, Any] | None:
    """Newest readable passport; None if there is no checkpoint.

    Raises:
      DamagedCheckpoint: If there are checkpoints and none has a readable one.
    """
    self.wait()

    def read(step: int) -> dict[str, Any]:
      return _read_json_items(self._directory / str(step))[0]

    found = steps_lib.first_readable(self._directory, self._newest_first, read)
    return found.value if found else None

  def restore_latest(self, abstract_state: PyTree) -> Restored | None:
    """The newest readable state; None if there is no checkpoint at all.

    A damaged step is reported on stderr and as an error in the log, and once an
    older one has been read it is renamed to <step>.damaged-<k>, so that the
    step can be saved again. Nothing is ever deleted.

    Args:
      abstract_state: Tree of jax.ShapeDtypeStruct with shardings; they may be
        of another mesh than the one that saved.

    Raises:
      CheckpointMismatch: If names, shapes or types differ at all.
      DamagedCheckpoint: If there are checkpoints and none is readable.
      ValueError: If a leaf of `abstract_state` has no sharding.
    """
    targets = {
      name: _target(name, leaf)
      for name, leaf in manifest_lib.flatten(abstract_state).items()
    }
    self.wait()

    def read(step: int) -> Restored:
      flat, passport = self._restore(step, targets)
      state = jax.tree.unflatten(
        jax.tree.structure(abstract_state), list(flat.values())
      )
      return Restored(state=state, step=step, passport=passport)

    found = steps_lib.first_readable(self._directory, self._newest_first, read)
    if found is None:
      return None
    self._set_aside(found.damaged)
    return found.value

  def wait(self) -> None:
    """Blocks until everything is on disk.

    Raises:
      SaveFailed: If the save that was being written failed; once.
    """
    step, self._writing = self._writing, None
    if step is None:
      return

    def finish() -> None:
      self._finish_writing()
      self._place.check()

    with self._settling:
      self._attempt(step, finish, ends=True)
    self._place.look()

  def close(self) -> None:
    """Waits, then frees threads; a save that fails now is only reported.

    No collective: one process may come here alone, because it failed.
    """
    step, self._writing = self._writing, None
    if step is not None:
      reason = None
      with self._settling:
        try:
          self._finish_writing()
        except Exception as error:
          reason = storage.explain(self._directory, error)
      if missing := self._missing_part(step):
        self._place.failed.append(step)
        steps_lib.shout(
          f'the checkpoint of step {step} was not saved: {reason or missing}'
        )
    self._manager.close()
    self._place.purge()

  def _missing_part(self, step: int) -> str | None:
    """Why a restore would not find the step; None if it would."""
    if not self._place.is_same():
      return f'{self._directory} is another folder now'
    missing = steps_lib.missing_part(self._directory / str(step))
    if missing is None:
      return None
    return storage.explain(
      self._directory, f'what was written is not whole, {missing} is missing'
    )

  def _finish_writing(self) -> None:
    """Waits for Orbax's threads; raises their first error once all are done.

    Each of them raises its own, one at each call; what is left would be taken
    for an error of the next save. The manager's own waiting ends with the first
    failure, while those that write arrays go on.
    """
    waits = [self._manager.wait_until_finished, self._manager.check_for_errors]
    if self._config.asynchronous:
      waits.insert(1, self._manager._checkpointer.wait_until_finished)
    first = None
    for wait in waits * _MOST_ERRORS:
      try:
        wait()
      except Exception as error:
        first = first or error
    if first is not None:
      raise first

  def _attempt(
    self, step: int, action: Callable[[], None], *, ends: bool = False
  ) -> None:
    """A part of a save; a collective of all processes.

    Args:
      step: That is saved.
      action: The part.
      ends: Whether it is the last one, after which a restore finds the step.

    Raises:
      SaveFailed: If it failed in one process or more.
    """
    reason = None
    try:
      action()
    except (jax.errors.JaxRuntimeError, AttributeError, TypeError, NameError):
      raise  # The devices failed, or this code did, not the storage.
    except Exception as error:  # Orbax raises ValueError for a full disk
      if not storage.is_storage_error(error):
        logging.exception('an unknown failure of a save')
      reason = storage.explain(self._directory, error)
    # Only what a restore finds is saved, whether or not Orbax complains: after
    # the step is whole, the deletion of others may fail. One process looks;
    # another could see a shared folder as it was.
    if reason is not None or ends and jax.process_index() == 0:
      missing = self._missing_part(step)
      if reason is not None and missing is None:
        logging.warning('step %d is saved, but then: %s', step, reason)
      reason = missing and (reason or missing)
    reasons = processes.gather(reason)
    failed = {k: text for k, text in enumerate(reasons) if text is not None}
    if not failed:
      if ends:  # It may have been tried again.
        self._place.failed = [s for s in self._place.failed if s != step]
      return
    self._best.forget(step)
    with contextlib.suppress(Exception):  # The first one is being reported.
      self._finish_writing()
    settled.join_threads()
    # Orbax leaves coroutines half-way; collected later, in the midst of an
    # import, they have made CPython 3.11 fail in its compiler.
    gc.collect()
    self._place.failed.append(step)
    self._reloaded = False
    self._place.purge()
    process, text = next(iter(failed.items()))
    who = '' if len(reasons) == 1 else f'{processes.name_of(process)}: '
    raise SaveFailed(
      step,
      f'the checkpoint of step {step} (up to '
      f'{storage.format_bytes(self._num_bytes)}) was not saved: {who}{text}',
    )

  def _newest_first(self) -> list[int]:
    return steps_lib.steps_in(self._directory)[::-1]

  def _restore(
    self, step: int, targets: Mapping[str, jax.ShapeDtypeStruct]
  ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """(arrays by name, in the order of `targets`; passport) of one step."""
    path = self._directory / str(step)
    with steps_lib.in_all_processes():
      passport, manifest = _read_json_items(path)
      saved = manifest['arrays']['state']
      manifest_lib.check_match(
        saved, manifest_lib.describe(targets), where=f'checkpoint {path}'
      )
    # Each reads only what its devices hold; the digests are of whole arrays.
    # By the handler: the manager has barriers, in which those would wait that
    # can read their part.
    with (
      steps_lib.in_all_processes(),
      _reading(path / 'state', saved),
      contextlib.closing(ocp.StandardCheckpointHandler()) as handler,
    ):
      state = handler.restore(
        path / 'state',
        args=ocp.args.StandardRestore(manifest_lib.nest(targets)),
      )
    flat = manifest_lib.flatten(state)
    manifest_lib.check_digests(saved, flat)
    return {name: flat[name] for name in targets}, passport

  def _set_aside(self, damaged: Sequence[int]) -> None:
    """Renames damaged steps, so that the run can save them again."""
    if not damaged:
      return
    if jax.process_index() == 0:
      for step in damaged:
        old, count = self._directory / str(step), 0
        while (new := old.with_name(f'{step}.damaged-{count}')).exists():
          count += 1
        old.rename(new)
        steps_lib.shout(f'damaged checkpoint {old} is now {new}')
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('damaged checkpoints set aside')
    for step in damaged:
      self._best.forget(step)
    self._manager.reload()


def _to_store(tree: PyTree) -> dict[str, Any]:
  return manifest_lib.nest(manifest_lib.flatten(tree))


def _num_bytes(tree: PyTree) -> int:
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _target(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
  if getattr(leaf, 'sharding', None) is None:
    raise ValueError(
      f'abstract_state.{name} has no sharding: the array would come back laid '
      'out for the devices that saved it'
    )
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _read_json_items(path: epath.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Passport and manifest of a step, as they were saved."""
  # Not by Orbax, which calls missing what it may not look at.
  passport, manifest = (
    damage.read_json(path / item / 'metadata')
    for item in ('passport', 'manifest')
  )
  manifest_lib.check_manifest(manifest, passport)
  for name in ('arrays', 'metrics'):
    if not isinstance(manifest.get(name), dict):
      raise damage.NotAsSaved(f'the manifest has no {name}')
  return passport, manifest


def load_encoder(
  path: epath.PathLike, *, step: int | str | None = None
) -> LoadedEncoder:
  """The encoder of a checkpoint, also while the run is still writing others.

  Args:
    path: Workdir, folder of checkpoints, or folder of one step.
    step: A step; 'best' by the run's own config.checkpoint.best_metric; None
      for the newest. The newest and the best fall back, loudly, to the next
      one where a checkpoint is damaged; a step asked for by number does not.

  Raises:
    ValueError: If there is no such checkpoint.
    DamagedCheckpoint: If none is readable.
  """

  def read(folder: epath.Path, number: int) -> LoadedEncoder:
    return _read_encoder(folder / str(number), number)

  return _load(path, step, read)


def _load(
  path: epath.PathLike,
  step: int | str | None,
  read: Callable[[epath.Path, int], T],
) -> T:
  """What `read` makes of the first readable step that fits `step`."""
  folder, step = choice.locate(path, step)
  seen: set[int] = set()

  def candidates() -> list[int]:
    steps = steps_lib.steps_in(folder)
    seen.update(steps)
    if step is None:
      return steps[::-1]
    if step == 'best':
      return choice.best_first(folder, steps, read_fn=_read_json_items)
    return [number for number in steps if number == step]

  found = steps_lib.first_readable(
    folder, candidates, lambda number: read(folder, number)
  )
  if found is None:
    if step in seen or step is None and seen:
      raise steps_lib.UnreadableNow(
        f'step {max(seen) if step is None else step} in {folder} was deleted '
        'while it was being read, as a run does that goes on saving; there are '
        f'steps: {steps_lib.steps_in(folder) or "none"}. Run the command again '
        'with one of these'
      )
    asked = '' if step is None else f'{step} '
    raise ValueError(
      f'no checkpoint {asked}in {folder}; there are steps: '
      f'{steps_lib.steps_in(folder) or "none"}. A workdir, its folder '
      f'{FOLDER!r} or the folder of one step is wanted'
    )
  return found.value


def _read_encoder(path: epath.Path, step: int) -> LoadedEncoder:
  passport, manifest = _read_json_items(path)
  arrays = _read_arrays(path, 'encoder', manifest)
  variables = {'params': {}, 'batch_stats': {}, **arrays}
  return LoadedEncoder(
    variables=variables,
    passport=passport,
    step=step,
    path=os.fspath(path),
    fingerprint=fingerprint(variables),
  )


def load_state(
  path: epath.PathLike, *, step: int | str | None = None
) -> LoadedState:
  """The whole training state of a checkpoint.

  For comparing, converting and going on elsewhere; a run resumes with
  `Checkpointer`. Arguments and errors as in `load_encoder`.
  """

  def read(folder: epath.Path, number: int) -> LoadedState:
    place = folder / str(number)
    passport, manifest = _read_json_items(place)
    return LoadedState(
      arrays=_read_arrays(place, 'state', manifest),
      passport=passport,
      step=number,
      path=os.fspath(place),
    )

  return _load(path, step, read)


def load_state_arrays(
  path: epath.PathLike, *, step: int | str | None = None
) -> dict[str, Any]:
  """The arrays of `load_state` as nested dicts of NumPy arrays."""
  return load_state(path, step=step).arrays


def _read_arrays(
  path: epath.Path, item: str, manifest: Mapping[str, Any]
) -> dict[str, Any]:
  """One item of a step as nested dicts of NumPy arrays, as it was saved."""
  saved = manifest['arrays'][item]
  try:
    targets = manifest_lib.nest(
      {
        # Abstract: no memory is taken for what a manifest only claims.
        name: jax.ShapeDtypeStruct(entry['shape'], np.dtype(entry['dtype']))
        for name, entry in saved.items()
      }
    )
  except (TypeError, ValueError, LookupError, AttributeError) as error:
    raise damage.NotAsSaved(f'the manifest is of no arrays: {error}') from error
  with (
    _reading(path / item, saved),
    contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler,
  ):
    arrays = handler.restore(
      path / item,
      args=ocp.args.PyTreeRestore(
        item=targets,
        restore_args=jax.tree.map(
          lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype),
          targets,
        ),
      ),
    )
  manifest_lib.check_match(
    saved, manifest_lib.describe(arrays), where=f'{item} of {path}'
  )
  manifest_lib.check_digests(saved, arrays)
  return arrays


@contextlib.contextmanager
def _reading(folder: epath.Path, names: Collection[str]) -> Iterator[None]:
  """Around Orbax's reading of the arrays in a folder.

  Raises:
    damage.NotAsSaved: If the block failed, and the file that Orbax reads first
      is not of these arrays.
  """
  list(folder.iterdir())  # Orbax calls missing what it may not look at.
  try:
    with settled.settled():
      yield
  except Exception as error:
    if not damage.is_damage(error):
      damage.check_descriptions(folder, names)
    raise
