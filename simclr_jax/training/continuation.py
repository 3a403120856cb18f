"""A run that goes on from another one's checkpoint, with another batch.

A workdir continues only with its own recipe. What this file allows is a new
workdir that starts from an old state: with another global batch, another length
or another learning rate, and nothing else. Training is counted in examples: the
position in the data and in the schedule are those after as many examples as the
old run has seen, so the share of the run that is done stays.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from absl import logging
import jax
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax import durations, processes, resolve
from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import manifest as manifest_lib
from simclr_jax.training import non_finite
from simclr_jax.training import passport as passport_lib
from simclr_jax.training import schedule as schedule_lib
from simclr_jax.training import steps as steps_lib
from simclr_jax.training.run import Run
from simclr_jax.training.state import TrainState

# May differ besides what may differ on resuming.
CHANGEABLE = (
  'train.batch_size',
  'train.micro_batches',
  'train.duration',
  'optim.base_lr',
  'optim.lr_scaling',
  'optim.schedule',
  'optim.warmup',
  'optim.step_milestones',
  'optim.step_gamma',
)


@dataclasses.dataclass(frozen=True)
class Continued:
  """Where a run begins that goes on from another one.

  Attributes:
    state: On the shardings of the new run, its counters translated.
    step: Finished steps, in the new run's batches.
    lineage: For the passports of the new run, oldest ancestor first.
  """

  state: TrainState
  step: int
  lineage: list[dict[str, Any]]


def continue_from(run: Run, path: str) -> Continued:
  """Loads the newest readable state of another workdir, which is only read.

  Says in the log what the change does before anything is trained. A collective
  of all processes, which fail together.

  Args:
    run: The new one.
    path: Workdir of the old one, or the folder of one of its checkpoints.

  Raises:
    ValueError: If more differs than may, if the new run would already be over,
      or if there is no checkpoint.
    checkpoint.DamagedCheckpoint: If none is readable.
    processes.AgreedFailure: With several processes instead of a ValueError, or
      if they see other checkpoints there.
  """
  with processes.together():
    steps = checkpoint_lib.steps_to_load(path)
  processes.check_same(
    {'checkpoints of --continue_from': steps},
    consequence='they would start from different states; --continue_from has '
    'to name a folder that all of them see',
  )
  # Agrees by itself on what can be read.
  loaded = checkpoint_lib.load_state(path)
  with processes.together():
    return _continue(run, loaded, path)


def _continue(
  run: Run, loaded: checkpoint_lib.LoadedState, path: str
) -> Continued:
  passport = loaded.passport
  old = passport_lib.config_from_passport(passport, where=loaded.path)
  changed = check_changes(passport, run, where=loaded.path)
  step, repeated = translate(
    loaded.step,
    old_batch=old.train.batch_size,
    new_batch=run.config.train.batch_size,
  )
  if step >= run.resolved.total_steps:
    raise ValueError(
      f'{loaded.path} has seen {loaded.step * old.train.batch_size:,} '
      f'examples, which is step {step} here, and config.train.duration = '
      f'{run.config.train.duration!r} ends at step {run.resolved.total_steps}: '
      'nothing is left to train; give a longer duration'
    )
  state = _place(run, loaded, step)
  logging.info('%s', describe(run, old, passport, step=step, repeated=repeated))
  link = {
    'from': os.fspath(steps_lib.absolute(path)),
    'checkpoint': loaded.path,
    'step': loaded.step,
    'batch_size': old.train.batch_size,
    'continued_at_step': step,
    'examples_repeated': repeated,
    'changes': changed,
  }
  return Continued(
    state=state,
    step=step,
    lineage=[*passport.get('lineage', []), link],
  )


def check_lineage(passport: Mapping[str, Any], path: str | None) -> None:
  """Refuses a workdir with checkpoints that did not begin at `path`.

  The same command has to go on where it was stopped, with its flags.

  Args:
    passport: Of the newest checkpoint in the new workdir.
    path: What --continue_from says; None: nothing.
  """
  if path is None:
    return
  wanted = os.fspath(steps_lib.absolute(path))
  lineage = passport.get('lineage', [])
  if lineage and lineage[-1]['from'] == wanted:
    logging.info('already continued from %s: resuming', wanted)
    return
  begun = f'from {lineage[-1]["from"]}' if lineage else 'from scratch'
  raise ValueError(
    f'the workdir holds step {passport["step"]} of a run that began {begun}, '
    f'not from {wanted}: leave --continue_from out to resume it, or choose '
    'another --workdir'
  )


def check_changes(
  passport: Mapping[str, Any], run: Run, *, where: str
) -> list[str]:
  """The differences of the two configs, all of them allowed.

  Raises:
    ValueError: Listing those that are not.
  """
  old = passport_lib.config_from_passport(passport, where=where)
  changed = passport_lib.differences(old, run.config)
  refused = [
    d
    for d in changed
    if not passport_lib.is_harmless(d) and d.split(':', 1)[0] not in CHANGEABLE
  ]
  if passport['data']['fingerprint'] != run.source.fingerprint:
    refused.append(passport_lib.data_difference(passport, run.source))
  if refused:
    raise ValueError(
      f'{where} cannot be continued with this config: besides the batch, the '
      'length and the learning rate it changes\n'
      + '\n'.join(f'  - {d}' for d in refused)
      + f'\nMay differ: {", ".join(CHANGEABLE)}'
    )
  return changed


def translate(step: int, *, old_batch: int, new_batch: int) -> tuple[int, int]:
  """(step of the new run, examples that are trained on once more).

  The largest whole step at which no example is skipped.
  """
  examples = step * old_batch
  return examples // new_batch, examples % new_batch


def describe(
  run: Run,
  old: config_lib.Config,
  passport: Mapping[str, Any],
  *,
  step: int,
  repeated: int,
) -> str:
  """What the change does, as a block of text."""
  derived, new = passport['derived'], run.resolved
  before = dataclasses.replace(
    new,
    total_steps=derived['total_steps'],
    warmup_steps=derived['warmup_steps'],
    peak_lr=derived['peak_lr'],
  )
  old_step = passport['step']
  old_rate = float(schedule_lib.make_schedule(old.optim, before)(old_step))
  new_rate = float(run.schedule(step))
  old_batch, batch = old.train.batch_size, run.config.train.batch_size

  def row(name: str, first: Any, second: Any) -> str:
    return f'  {name:<22}{first:>14}  ->{second:>14}'

  lines = [
    f'continued from the checkpoint of step {old_step:,} with '
    f'{old_step * old_batch:,} examples seen:',
    row('global batch', f'{old_batch:,}', f'{batch:,}'),
    row('step', f'{old_step:,}', f'{step:,}'),
    row('total steps', f'{before.total_steps:,}', f'{new.total_steps:,}'),
    row(
      'done',
      f'{100 * old_step / before.total_steps:.2f}%',
      f'{100 * step / new.total_steps:.2f}%',
    ),
    row('epoch', _epoch(old_step, before, old_batch), _epoch(step, new, batch)),
    row('learning rate now', f'{old_rate:.6g}', f'{new_rate:.6g}'),
    row('peak', f'{before.peak_lr:.6g}', f'{new.peak_lr:.6g}'),
    row('warm-up steps', f'{before.warmup_steps:,}', f'{new.warmup_steps:,}'),
    row(
      'negatives per anchor',
      f'{derived["negatives_per_anchor"]:,}',
      f'{new.negatives_per_anchor:,}',
    ),
    f'  {repeated:,} examples are trained on once more, none is skipped'
    if repeated
    else '  no example is repeated or skipped',
  ]
  if old_rate != new_rate and run.config.optim.name in ('lars', 'sgd'):
    lines.append(
      '  the momentum holds updates at the old rate; they fade with '
      f'{run.config.optim.momentum:g} per step'
    )
  if batch != old_batch and _counts_steps(run.config):
    lines.append(
      '  durations in steps stay steps of the new batch: '
      f'train.duration = {run.config.train.duration!r}, optim.warmup = '
      f'{run.config.optim.warmup!r}'
    )
  return '\n'.join(lines)


def _counts_steps(config: config_lib.Config) -> bool:
  texts = (config.train.duration, config.optim.warmup)
  parsed = [durations.parse(text, share=True) for text in texts]
  return any(d.unit == 'steps' and d.amount > 0 for d in parsed)


def _epoch(step: int, resolved: resolve.Resolved, batch: int) -> str:
  return f'{step * batch / resolved.num_examples:.2f}'


def _place(
  run: Run, loaded: checkpoint_lib.LoadedState, step: int
) -> TrainState:
  """The arrays on the run's devices, with the counters of `step`.

  Only the counters that the schedule reads are translated: Adam's own says how
  many gradients its moments have seen.
  """
  abstract = run.abstract_state()
  targets = manifest_lib.flatten(abstract)
  arrays = manifest_lib.flatten(loaded.arrays)
  manifest_lib.check_match(
    manifest_lib.describe(loaded.arrays),
    manifest_lib.describe(abstract),
    where=f'checkpoint {loaded.path}',
  )
  leaves = [
    jax.make_array_from_callback(
      target.shape, target.sharding, np.asarray(arrays[name]).__getitem__
    )
    for name, target in targets.items()
  ]
  state = jax.tree.unflatten(jax.tree.structure(abstract), leaves)

  def count(old: jax.Array) -> jax.Array:
    number = np.asarray(step, old.dtype)
    return jax.make_array_from_callback(
      (), old.sharding, lambda index: number[index]
    )

  def translated(node: Any) -> Any:
    if non_finite.is_schedule_state(node):
      return node._replace(count=count(node.count))
    return node

  return state._replace(
    step=count(state.step),
    opt_state=jax.tree.map(
      translated, state.opt_state, is_leaf=non_finite.is_schedule_state
    ),
  )
