"""A run killed at random moments until it ends, again and again.

  python -m benchmarks.soak --kills=50 --processes=1,2 --seed=0

A small run of the real command (40 steps, a checkpoint every 5, kNN every 8) is
killed (SIGKILL, SIGTERM, two SIGTERMs; start-up, steps, saves, deletions,
evaluations; with several processes one of them or all) and started again until
it has ended, then the next one begins, until there were so many kills. After
each kill every checkpoint has to be readable and none may be lost; at the end
the state has to equal that of an uninterrupted run bit for bit, every line of
the metrics too, every example has to have been trained on in its turn, once,
and nothing may lie about. What a process trains on is noted by
`benchmarks.soak_child` as it happens. Prints a table and a JSON line; exit code
1 if anything was not so.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import pathlib
import random
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

from benchmarks import result_file, soak_checks, soak_lives

# Exit codes that a process may end with, by what was sent to it.
_BY_SIGNAL = {
  # -15: before the handlers are there. 0 and 75: it was about to end.
  'SIGKILL': {-9},
  'SIGTERM': {75, 0, -15},
  'SIGTERM twice': {75, 0, -15, 143},
}
# Of a process that was not the target, besides.
_BYSTANDER = {69, 75, 0}
# Of a process that ended by a signal before the soak had sent one.
_FROM_ELSEWHERE = {-9, -15, 75}


def main() -> int:
  """The command; 1 if anything was not as it should be."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--kills', type=int, default=50)
  parser.add_argument('--processes', default='1,2')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--limit', type=float, default=1500.0, help='Seconds of killing for each.'
  )
  parser.add_argument('--keep', default='', help='Folder for all that is left.')
  parser.add_argument('--out', default='')
  options = parser.parse_args()
  rows = []
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(options.keep or temporary)
    for number in map(int, options.processes.split(',')):
      rows.append(
        soak(
          folder / f'{number}-processes',
          processes=number,
          kills=options.kills,
          seed=options.seed,
          limit=options.limit,
        )
      )
      _print_row(rows[-1])
  result_file.report('soak', rows, out=options.out)
  return 1 if any(row['problems'] for row in rows) else 0


def soak(
  folder: pathlib.Path, *, processes: int, kills: int, seed: int, limit: float
) -> dict[str, Any]:
  """Runs and kills; a row of the result.

  Args:
    folder: For workdirs and logs.
    processes: Of every life.
    kills: Wanted.
    seed: Of the plans.
    limit: Seconds after which nothing is killed any more.
  """
  begin = time.monotonic()
  rng = random.Random(f'{seed}-{processes}')
  cache = str(folder / 'compiled')
  straight = soak_lives.Run(
    folder / 'straight', processes=processes, cache=cache
  )
  death = straight.live(None)
  if set(death.codes) != {0}:
    raise RuntimeError(
      f'the uninterrupted run ended with {death.codes}: '
      + straight.log().read_text(errors='replace')[-3000:]
    )
  tally = Tally()
  deadline = time.monotonic() + limit
  while len(tally.kills) < kills and time.monotonic() < deadline:
    tally.rounds += 1
    run = soak_lives.Run(
      folder / f'round-{tally.rounds}', processes=processes, cache=cache
    )
    run.start_s = straight.start_s
    _one_round(run, rng, tally, kills=kills, deadline=deadline)
    tally.note(f'round {tally.rounds}', soak_checks.at_end(run, straight))
  return {
    'processes': processes,
    'devices': 2,
    'seed': seed,
    'rounds': tally.rounds,
    'lives': tally.lives,
    'kills': len(tally.kills),
    'by_moment': dict(collections.Counter(k.moment for k in tally.kills)),
    'by_signal': dict(collections.Counter(k.signal for k in tally.kills)),
    'one_process_of_several': sum(k.target >= 0 for k in tally.kills),
    'signals_from_elsewhere': tally.from_elsewhere,
    'exit_codes': {str(k): n for k, n in sorted(tally.codes.items())},
    'died_with_a_checkpoint_half_written': tally.half_written,
    'steps_taken_again': tally.again,
    'longest_end_seconds': round(tally.longest, 1),
    'checkpoints_read_back': tally.read_back,
    'problems': tally.problems,
    'seconds': round(time.monotonic() - begin),
  }


@dataclasses.dataclass
class Tally:
  """What has happened so far; see the keys of a row."""

  rounds: int = 0
  lives: int = 0
  kills: list[soak_lives.Kill] = dataclasses.field(default_factory=list)
  codes: collections.Counter[int] = dataclasses.field(
    default_factory=collections.Counter
  )
  from_elsewhere: int = 0
  half_written: int = 0
  again: int = 0
  longest: float = 0.0
  read_back: int = 0
  problems: list[str] = dataclasses.field(default_factory=list)

  def note(self, where: str, problems: list[str]) -> None:
    """Adds problems, and says them at once."""
    for problem in problems:
      self.problems.append(f'{where}: {problem}')
      print(f'*** {self.problems[-1]}', file=sys.stderr, flush=True)


def _one_round(
  run: soak_lives.Run,
  rng: random.Random,
  tally: Tally,
  *,
  kills: int,
  deadline: float,
) -> None:
  """Lives until the run has ended."""
  newest = 0
  while True:
    kill = None
    if len(tally.kills) < kills and time.monotonic() < deadline:
      kill = soak_lives.draw_kill(rng, run.processes)
    before = newest
    death = run.live(kill)
    where = f'round {tally.rounds}, life {run.life}, {kill}, {death.codes}'
    tally.lives += 1
    tally.codes.update(death.codes)
    if death.killed and kill is not None:
      tally.kills.append(kill)
      tally.longest = max(tally.longest, death.seconds)
    folder = run.workdir / 'checkpoints'
    if folder.is_dir():
      names = os.listdir(folder)
      tally.half_written += any('orbax-checkpoint-tmp' in n for n in names)
    if not death.killed and set(death.codes) & _FROM_ELSEWHERE:
      # On a shared machine; the restart has to stand that as well.
      tally.from_elsewhere += 1
    else:
      tally.note(where, _endings(kill if death.killed else None, death))
    tally.note(where, soak_checks.at_birth(run, before))
    tally.note(where, soak_checks.after_death(run, max(before, death.newest)))
    steps = soak_checks.steps_on_disk(run)
    tally.read_back += len(steps)
    newest = max(steps, default=0)
    taken = [
      r['step']
      for r in run.record()
      if r['life'] == run.life and r['event'] == 'batch'
    ]
    if set(death.codes) == {0}:
      return
    tally.again += max(0, max(taken, default=newest) - newest)
    print(f'{where}: {before} -> {newest}', file=sys.stderr, flush=True)


def _endings(
  kill: soak_lives.Kill | None, death: soak_lives.Death
) -> list[str]:
  """Problems with how the processes of a life ended."""
  problems = [f'process {k} did not end by itself' for k in death.hung]
  for k, code in enumerate(death.codes):
    if k in death.hung:
      continue
    allowed = {0}
    if kill is not None:
      hit = kill.target in (-1, k)
      allowed = _BY_SIGNAL[kill.signal] if hit else set()
      if len(death.codes) > 1:
        allowed = allowed | _BYSTANDER
    if code not in allowed:
      problems.append(f'process {k} ended with {code}, allowed: {allowed}')
  return problems


def _print_row(row: dict[str, Any]) -> None:
  print(f'\n{row["processes"]} process(es)')
  for name, value in row.items():
    if name not in ('processes', 'problems'):
      print(f'  {name.replace("_", " "):<38} {value}')
  print(f'  {"problems":<38} {len(row["problems"])}')
  for problem in row['problems']:
    print(f'    {problem}')


if __name__ == '__main__':
  sys.exit(main())
