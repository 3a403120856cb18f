"""Warnings: alarms of the run, recipe advice, what was skipped or lacks."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses

from simclr_jax import losses, models, resolve
from simclr_jax.data.names import printable
from simclr_jax.finetuning import derive
from simclr_jax.planning import advice, topology
from simclr_jax.reports import document, kinds
from simclr_jax.reports.run_data import RunData, finite
from simclr_jax.training import alarms, checkpoint

_PREFIX = 'alarm_'


def section(run: RunData) -> document.Section:
  """Always there: that there is nothing to warn of is worth a line."""
  kind = kinds.of(run)
  facts = None if kind.no_advice else _facts(run)
  found = (*_progress(run), *_pictures(run), *_alarms(run, kind))
  if facts is not None:
    found += tuple(
      f'{item.field}: {item.text}.' for item in advice.find(run.config, facts)
    )
  text = (
    'What the run itself, its metrics and its recipe give reason to look at.'
  )
  if not found:
    text = 'None: no alarm in the metrics.' if run.records else 'None.'
    if facts is not None:
      text = 'None: no alarm in the metrics, and no rule of recipe advice '
      text += 'applies.'
  notes = []
  if not run.records:
    notes.append('Alarms were not looked for: there are no metrics.')
  if kind.no_advice:
    notes.append(f'Recipe advice was not asked: {kind.no_advice}.')
  elif facts is None:
    notes.append(
      'Recipe advice was not asked: the passport lacks derived numbers that it '
      'needs (it is of an older version).'
    )
  return document.Section('Warnings', text, warnings=found, notes=tuple(notes))


def _progress(run: RunData) -> Iterator[str]:
  total = run.derived.get('total_steps')
  finished = (run.workdir / checkpoint.FINISHED).exists()
  if judged := finite(run.series(derive.HOLDOUT_METRIC)):
    # Of equal ones the newest, as everywhere.
    best = max(judged, key=lambda point: (point[1], point[0]))
    if best[0] != run.loaded.step:
      yield (
        f'The holdout speaks for step {best[0]:,} (top-1 {best[1]:.1%}), this '
        f'page is of step {run.loaded.step:,}: --step=best shows the other.'
      )
  # Of a run that a holdout has ended, or whose best step is shown.
  chosen = finished and bool(judged)
  if total and run.loaded.step < total and not chosen:
    yield (
      f'This checkpoint is of step {run.loaded.step:,} of {total:,}: the run '
      'had not finished, and the learning rate had not come to its end.'
    )
  for file in sorted(run.workdir.glob('failure-step-*.json')):
    yield (
      f'The run met numbers that are not finite: {file.name} in the workdir '
      'names the batch.'
    )
  skipped = [value for _, value in run.series('skipped_steps')]
  if skipped and skipped[-1]:
    yield (
      f'{skipped[-1]:.0f} steps were undone because their numbers were not '
      "finite (train.on_non_finite = 'skip')."
    )


def _pictures(run: RunData) -> Iterator[str]:
  if skipped := run.train.skipped:
    path, reason = skipped[0]
    yield (
      f'{len(skipped):,} training pictures cannot be read and are left out, '
      f'e.g. {printable(path)} ({printable(reason)}).'
    )


def _alarms(run: RunData, kind: kinds.PageKind) -> Iterator[str]:
  """What the lines of metrics.jsonl show now, and what was said in the run.

  The run watches every step, the file holds some of them: an alarm that lies
  between its lines is named by the columns alarm_*.
  """
  expectation = alarms.Expectation(
    chance=_chance(run) if kind.contrasts else None,
    dim=models.embedding_dim(run.config.model),
    warmup_steps=int(run.derived.get('warmup_steps', 0)),
    contrasts=kind.contrasts,
  )
  watch, heard = alarms.Alarms(expectation), set()
  for record in run.records:
    yield from watch.observe(
      record['step'], {k: v for k, v in record.items() if k != 'step'}
    )
    heard.update(watch.active)
  names = {k for r in run.records for k in r if k.startswith(_PREFIX)}
  for name in sorted(names):
    if name.removeprefix(_PREFIX) not in heard:
      steps = [step for step, _ in run.series(name)]
      yield (
        f'During the run the alarm {name.removeprefix(_PREFIX)!r} was raised, '
        f'between steps {steps[0]:,} and {steps[-1]:,} of the logged ones.'
      )


def _chance(run: RunData) -> float:
  return losses.chance_loss(run.config.train.batch_size, run.config.loss.scale)


def _facts(run: RunData) -> advice.Facts | None:
  """For those rules of `simclr_jax.plan` that need no plan."""
  names = {field.name for field in dataclasses.fields(resolve.Resolved)}
  if not names <= run.derived.keys():
    return None
  software = run.passport.get('software', {})
  return advice.Facts(
    resolved=resolve.Resolved(**{name: run.derived[name] for name in names}),
    topology=topology.local(
      str(software.get('device_kind', '')),
      platform=str(software.get('backend', 'cpu')),
      num_devices=int(software.get('num_devices', 1)),
      num_hosts=int(run.derived['num_hosts']),
      memory_per_device=None,
    ),
  )
