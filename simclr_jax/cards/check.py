"""Is this run what its recipe is known to give?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from etils import epath

from simclr_jax import console, processes
from simclr_jax.cards import card as card_lib
from simclr_jax.cards import curve as curve_lib
from simclr_jax.cards import expectation, lookup
from simclr_jax.cards.expectation import Expected
from simclr_jax.training import ancestry, checkpoint
from simclr_jax.training import metrics as metrics_lib
from simclr_jax.training import passport as passport_lib

# Where the commands leave results of the last checkpoint, and under which key
# the number is.
_JUDGED = {'knn_top1': 'knn', 'linear_top1': 'linear_probe'}
_PROBES = 'probe'
TITLES = {
  'contrast_loss': 'contrast loss',
  'contrast_acc': 'contrast accuracy',
  'knn_top1': 'kNN',
  'linear_top1': 'linear probe',
}


@dataclasses.dataclass(frozen=True)
class Point:
  """One number beside its expectation.

  Attributes:
    metric: Its name.
    epoch: None for the last checkpoint.
    value: Of the run.
    expected: Of the card.
    good: Whether it is as expected.
  """

  metric: str
  epoch: int | None
  value: float
  expected: Expected
  good: bool


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What came of the comparison.

  Attributes:
    card: That of the recipe; None where there is no measured one.
    points: What was compared.
    passed: None where nothing could be compared.
    notes: What was not compared and why; numbers that others published.
  """

  card: card_lib.Card | None
  points: tuple[Point, ...]
  passed: bool | None
  notes: tuple[str, ...]

  @property
  def headline(self) -> str:
    """One line."""
    if self.card is None:
      return 'recipe check: no measured card for this recipe'
    if self.passed is None:
      return f'recipe check against {self.card.name}: nothing to compare yet'
    bad = sum(not point.good for point in self.points)
    found = (
      f'all {len(self.points)} numbers as expected'
      if self.passed
      else f'{bad} of {len(self.points)} numbers are not as expected'
    )
    word = 'pass' if self.passed else 'FAIL'
    return f'recipe check against {self.card.name}: {word}, {found}'


def announce(verdict: Verdict) -> int:
  """Says how a run compares; the exit code of a command that was asked.

  Each process has read the files of the run itself; what process 0 has seen,
  and said, decides for all: on a network file system others may be behind.
  """
  if processes.own_index() == 0:
    if verdict.passed is None:
      console.say(format_verdict(verdict))
    else:
      print(format_verdict(verdict), flush=True)
  return int(processes.from_first(exit_code(verdict)))


def exit_code(verdict: Verdict) -> int:
  """0 pass, 1 fail, 2 nothing to compare with."""
  if verdict.passed is None:
    return console.EXIT_WRONG_INPUT
  return 0 if verdict.passed else console.EXIT_FAILED


def check_recipe(
  workdir: epath.PathLike,
  *,
  step: int | str | None = None,
  passport: Mapping[str, Any] | None = None,
  cards: Sequence[card_lib.Card] | None = None,
  published: Sequence[card_lib.Published] | None = None,
) -> Verdict:
  """Compares a finished (or unfinished) run with the card of its recipe.

  Args:
    workdir: Of the run.
    step: Of the checkpoint up to which it is judged, or 'best'; default: the
      newest.
    passport: That of the checkpoint, where it has been read already: a run that
      goes on saving may delete it meanwhile.
    cards: Default: those of the package.
    published: Default: those of the package.

  Raises:
    ValueError: If there is no checkpoint, one that is not of a pretraining run,
      or a metrics file that is none.
    DamagedCheckpoint: If none is readable.
  """
  workdir = epath.Path(workdir)
  if passport is None:
    passport = checkpoint.load_encoder(workdir, step=step).passport
  kind = ancestry.kind_of(passport)
  if not kind.is_pretraining:
    raise ValueError(
      f'{workdir} holds a network that was {kind.adjective}: recipe cards are '
      'of pretraining runs, and its numbers would be compared with those of '
      'another task; name the workdir of a pretraining run'
    )
  config = passport_lib.config_from_passport(passport)
  found, notes = lookup.find(
    config,
    fingerprint=passport['data']['fingerprint'],
    continues=bool(passport.get('lineage')),
    cards=cards,
  )
  if found is None:
    notes += lookup.published_of(config, published)
    return Verdict(None, (), None, tuple(notes))
  if not passport.get('derived'):
    notes.append('the passport does not say how long an epoch is: too old')
    return Verdict(found, (), None, tuple(notes))
  records = metrics_lib.read_lines(workdir / metrics_lib.FILE_NAME)
  curve = run_curve(passport, records)
  total = passport['derived']['total_steps']
  if passport['step'] < total:
    notes.append(
      f'the run is at step {passport["step"]:,} of {total:,}: compared as far '
      'as whole epochs go'
    )
  metrics = list(expectation.METRICS)
  judged = list(expectation.FINAL) if passport['step'] >= total else []
  if changed := card_lib.judging_differences(found.config, config):
    notes.append(
      'kNN and probe are not compared, they would judge otherwise: '
      + '; '.join(changed)
    )
    metrics.remove('knn_top1')
    judged = []
  final = read_final(workdir, passport['step'])
  for name in judged:
    if name not in final and any(name in run.final for run in found.runs):
      notes.append(
        f'{TITLES[name]} of the last checkpoint is not compared, there is no '
        f'(readable) result: run simclr_jax.{_JUDGED[name]} '
        f'--checkpoint={workdir} first'
      )
  at_end = {name: final[name] for name in judged if name in final}
  points = compare(found, curve, at_end, metrics=metrics)
  passed = all(point.good for point in points) if points else None
  return Verdict(found, points, passed, tuple(notes))


def run_curve(
  passport: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
  """Means over the epochs that the checkpoint has behind it."""
  derived = passport['derived']
  per_epoch, total = derived['steps_per_epoch'], derived['total_steps']
  step = passport['step']
  curve = curve_lib.make_curve(
    [r for r in records if r['step'] <= step],
    steps_per_epoch=per_epoch,
    total_steps=total,
    average=True,
  )
  if step >= total:
    return curve
  # The mean over the beginning of an epoch is that of another time.
  return [p for p in curve if p['epoch'] * per_epoch <= step]


def read_final(workdir: epath.PathLike, step: int) -> dict[str, float]:
  """What the probe and kNN commands found for a step, as the config asks."""
  found = {}
  for metric, job in _JUDGED.items():
    file = epath.Path(workdir) / _PROBES / f'{job}-step{step}.json'
    if not file.exists():
      continue
    try:
      report = json.loads(file.read_text())
      result = report['result']
      top1 = float(result.get('headline', result)['top1'])
      overridden = report.get('overridden')
    except (KeyError, TypeError, ValueError, AttributeError):
      continue  # Damaged: as if nobody had judged this step.
    if not overridden:
      found[metric] = top1
  return found


def compare(
  card: card_lib.Card,
  curve: Sequence[Mapping[str, Any]],
  final: Mapping[str, float],
  *,
  metrics: Sequence[str] = tuple(expectation.METRICS),
) -> tuple[Point, ...]:
  """Each number of a run beside what the card lets one expect of it.

  Args:
    card: With at least two runs.
    curve: As of `run_curve`.
    final: Of the last checkpoint, as of `read_final`.
    metrics: Of the curve.
  """
  # So many chances of a false alarm, counted before they are used. The few
  # numbers of the last checkpoint, which say most, get half of them.
  count = 2 * sum(name in p for p in curve for name in metrics)
  points = []
  for name in metrics:
    expected = expectation.by_epoch(card, name, num_comparisons=max(1, count))
    for row in curve:
      if name in row and row['epoch'] in expected:
        points.append(
          _point(name, row['epoch'], float(row[name]), expected[row['epoch']])
        )
  for name, value in final.items():
    wanted = expectation.final(card, name, num_comparisons=2 * len(final))
    if wanted is not None:
      points.append(_point(name, None, value, wanted))
  return tuple(points)


def _point(
  metric: str, epoch: int | None, value: float, expected: Expected
) -> Point:
  # Comparisons with NaN are false: a loss that is none is not as expected.
  good = value >= expected.low
  if expectation.METRICS.get(metric, False):
    good = good and value <= expected.high
  return Point(metric, epoch, value, expected, good)


def format_verdict(verdict: Verdict) -> str:
  """For a terminal: a line for each metric's worst number, then the verdict."""
  lines = []
  for name, title in TITLES.items():
    points = [p for p in verdict.points if p.metric == name]
    bad = [p for p in points if not p.good]
    for point in bad[:5] or points[-1:]:
      where = 'at the end' if point.epoch is None else f'epoch {point.epoch}'
      lines.append(
        f'  {title:<18} {where:<11} {point.value:8.4f}  expected '
        f'{point.expected.low:.4f} to {point.expected.high:.4f}'
        f'{"" if point.good else "  <- not as expected"}'
      )
    if len(bad) > 5:
      lines.append(f'  {title:<18} and {len(bad) - 5} more epochs')
  lines += [f'  note: {note}' for note in verdict.notes]
  return '\n'.join([verdict.headline, *lines])
