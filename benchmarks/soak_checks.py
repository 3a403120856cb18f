"""What must be true of a run after each kill, and at its end."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from benchmarks import soak_lives
from simclr_jax.data import order
from simclr_jax.training import checkpoint as checkpoint_lib
from simclr_jax.training import manifest as manifest_lib
from simclr_jax.training import metrics as metrics_lib


def steps_on_disk(run: soak_lives.Run) -> list[int]:
  """Complete checkpoints, rising."""
  return checkpoint_lib.list_steps(run.workdir)


def after_death(run: soak_lives.Run, newest_before: int) -> list[str]:
  """Problems with what a life left behind.

  Args:
    run: Dead.
    newest_before: Newest checkpoint at the moment of the kill; 0 for none.
  """
  problems = []
  steps = steps_on_disk(run)
  if newest_before and newest_before > max(steps, default=0):
    problems.append(f'step {newest_before} was complete and is gone: {steps}')
  for step in steps:
    try:
      state = checkpoint_lib.load_state_arrays(run.workdir, step=step)
      encoder = checkpoint_lib.load_encoder(run.workdir, step=step)
    except (ValueError, checkpoint_lib.DamagedCheckpoint) as error:
      problems.append(f'step {step} cannot be read: {error}')
      continue
    if int(state['step']) != step or encoder.passport['step'] != step:
      problems.append(f'the checkpoint of step {step} is that of another one')
  return problems


def at_birth(run: soak_lives.Run, newest: int) -> list[str]:
  """Problems with where the newest life began, if it came so far."""
  starts = [
    r['step']
    for r in run.record()
    if r['life'] == run.life and r['event'] == 'start'
  ]
  if starts and starts[0] != newest:
    return [f'life {run.life} began at {starts[0]}, on disk was {newest}']
  return []


def at_end(run: soak_lives.Run, straight: soak_lives.Run) -> list[str]:
  """Problems of a finished run, by an uninterrupted one."""
  return [
    *_state(run, straight),
    *_metrics(run, straight),
    *_examples(run, straight),
    *_files(run, straight),
  ]


def _state(run: soak_lives.Run, straight: soak_lives.Run) -> list[str]:
  got, want = (
    manifest_lib.flatten(
      checkpoint_lib.load_state_arrays(r.workdir, step=soak_lives.TOTAL)
    )
    for r in (run, straight)
  )
  if got.keys() != want.keys():
    return ['the final states have other arrays']
  differ = [
    name
    for name, array in want.items()
    if got[name].dtype != array.dtype
    or np.asarray(got[name]).tobytes() != np.asarray(array).tobytes()
  ]
  return [f'the final states differ: {differ}'] if differ else []


def _metrics(run: soak_lives.Run, straight: soak_lives.Run) -> list[str]:
  """Every line once, with the same numbers (but for times)."""

  def lines(run: soak_lives.Run) -> list[dict[str, Any]]:
    records = metrics_lib.read_lines(run.workdir / metrics_lib.FILE_NAME)
    timed = ('time', 'second', 'percent', 'skipped')
    return [
      {k: v for k, v in r.items() if not any(word in k for word in timed)}
      for r in records
    ]

  got, want = lines(run), lines(straight)
  if got == want:
    return []
  other = [a for a, b in zip(got, want, strict=False) if a != b][:1]
  return [f'metrics differ: {len(got)} lines, {len(want)} wanted, at {other}']


def ancestry(run: soak_lives.Run, process: int = 0) -> list[tuple[int, int]]:
  """(life, step) of the steps that the final state is made of, rising.

  A life that starts at step s goes on from the checkpoint of s, which the
  newest life before it wrote that took step s.
  """
  records = run.record(process)
  taken: dict[int, set[int]] = {}
  begun: dict[int, int] = {}
  for r in records:
    if r['event'] == 'start':
      begun[r['life']] = r['step']
    elif r['event'] == 'batch':
      taken.setdefault(r['life'], set()).add(r['step'])
  path, step = [], soak_lives.TOTAL
  for life in sorted(taken, reverse=True):
    # A batch may have been taken whose step was not saved any more.
    if step not in taken[life]:
      continue
    path += [(life, s) for s in range(step, begun[life], -1)]
    step = begun[life]
    if step == 0:
      break
  return path[::-1]


def _examples(run: soak_lives.Run, straight: soak_lives.Run) -> list[str]:
  """Each batch on the way to the final state once, with its own examples."""
  problems = []
  batch, n = soak_lives.BATCH, soak_lives.EXAMPLES
  share = batch // run.processes
  for process in range(run.processes):
    path = ancestry(run, process)
    if [step for _, step in path] != list(range(1, soak_lives.TOTAL + 1)):
      problems.append(
        f'process {process}: the steps of the final state: {path}'
      )
      continue
    mine, theirs = (
      {(r['life'], r['step']): r for r in x.record(process) if 'views' in r}
      for x in (run, straight)
    )
    for life, step in path:
      first = (step - 1) * batch + process * share
      want = [
        int(order.permutation(soak_lives.SEED, p // n, n)[p % n])
        for p in range(first, first + share)
      ]
      if mine[life, step]['index'] != want:
        problems.append(f'process {process}, step {step}: other examples')
      if mine[life, step]['views'] != theirs[1, step]['views']:
        problems.append(f'process {process}, step {step}: other views')
  return problems


def _files(run: soak_lives.Run, straight: soak_lives.Run) -> list[str]:
  """Nothing lies about that an uninterrupted run does not leave too."""
  got, want = _listing(run.workdir), _listing(straight.workdir)
  if got == want:
    return []
  return [f'left over: {sorted(got - want)}, missing: {sorted(want - got)}']


def _listing(workdir: pathlib.Path) -> set[str]:
  """Names in the workdir and its folder of checkpoints; no array files.

  Which steps are kept may differ: a run that was stopped by a signal has saved
  steps that no other has, and one of them may have the best loss.
  """
  names = set(os.listdir(workdir))
  kept = os.listdir(workdir / 'checkpoints')
  names |= {f'checkpoints/{name}' for name in kept if not name.isdigit()}
  steps = sum(name.isdigit() for name in kept)
  if steps > 3:  # The newest two, and the best.
    names.add(f'{steps} checkpoints')
  return names
