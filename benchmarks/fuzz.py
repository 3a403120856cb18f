"""Inputs changed at random, until one is not answered as it should be.

  python -m benchmarks.fuzz --target=images --seconds=120 --seed=0

Property: every input gives a result or a ValueError of this package; never
another exception, a crash, more than `--limit` seconds or `--memory_mb` more
memory than at the start. A child process does the work, so that a crash of a
decoder is an outcome like any other; input n of a seed is always the same, and
`--only=n` runs it alone, with its traceback. Prints a table and a JSON line;
`--out` adds target and seed to a result file.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any

import numpy as np

from benchmarks import fuzz_targets, result_file

_START_S = 120.0  # To import everything and make the first inputs.
_SHOWN = 20  # failures in the result


def main() -> int:
  """The command; 1 if an input was not answered as it should be."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument(
    '--target', required=True, choices=list(fuzz_targets.TARGETS)
  )
  parser.add_argument('--seconds', type=float, default=60.0)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--limit', type=float, default=20.0)
  parser.add_argument('--memory_mb', type=int, default=2048)
  parser.add_argument('--only', type=int, default=-1)
  parser.add_argument('--out', default='')
  parser.add_argument('--worker_from', type=int, default=-1)
  options = parser.parse_args()
  if options.only >= 0:
    print(answer(options.target, options.seed, options.only, verbose=True))
    return 0
  if options.worker_from >= 0:
    _work(options)
    return 0
  row = _drive(options)
  _report(row, out=options.out)
  return 1 if row['failures'] else 0


def answer(
  target: str, seed: int, number: int, *, verbose: bool = False
) -> str:
  """What input `number` gives: 'ok', 'refused: ...' or 'FAILED: ...'."""
  from simclr_jax import console
  from simclr_jax.training import checkpoint

  rng = np.random.default_rng([seed, number])
  with tempfile.TemporaryDirectory() as folder:
    try:
      fuzz_targets.TARGETS[target](rng, pathlib.Path(folder))
    except checkpoint.DamagedCheckpoint as error:
      # Its second line is the first reason.
      return f'refused: {_kind(str(error).splitlines()[1], folder)}'
    except Exception as error:
      if verbose:
        traceback.print_exc()
      if isinstance(error, ValueError) and (
        console.raised_here(error) or _of_target(error)
      ):
        return f'refused: {_kind(str(error), folder)}'
      frame = traceback.extract_tb(error.__traceback__)[-1]
      place = f'{os.path.basename(frame.filename)}:{frame.lineno}'
      text = _kind(str(error), folder)
      return f'FAILED: {type(error).__name__} at {place}: {text}'
  return 'ok'


def _of_target(error: BaseException) -> bool:
  frame = traceback.extract_tb(error.__traceback__)[-1]
  return os.path.samefile(frame.filename, fuzz_targets.__file__)


def _kind(text: str, folder: str) -> str:
  """A message without what differs from input to input."""
  text = ' '.join(text.replace(folder, 'FOLDER').split())
  return re.sub(r'[0-9]+', '#', text.encode('ascii', 'replace').decode())[:100]


def _work(options: argparse.Namespace) -> None:
  """Answers one input after another, a line each, until it is killed."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  # Imports and prepares what all inputs need.
  fuzz_targets.warm_up(options.target)
  answer(options.target, options.seed, options.worker_from)
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  limit = pages * resource.getpagesize() + (options.memory_mb << 20)
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  number = options.worker_from
  while True:
    print(json.dumps([number, None]), file=answers, flush=True)
    found = answer(options.target, options.seed, number)
    print(json.dumps([number, found]), file=answers, flush=True)
    number += 1


def _drive(options: argparse.Namespace) -> dict[str, Any]:
  """Runs workers until the time is over; the result."""
  outcomes: collections.Counter[str] = collections.Counter()
  examples: dict[str, int] = {}
  start = time.monotonic()
  number, count = 0, 0
  while time.monotonic() - start < options.seconds:
    for at, found in _one_worker(options, number, start + options.seconds):
      outcomes[found] += 1
      examples.setdefault(found, at)
      number, count = at + 1, count + 1
  failures = {k: n for k, n in outcomes.items() if k.startswith('FAILED')}
  return {
    'target': options.target,
    'seed': options.seed,
    'seconds': round(time.monotonic() - start),
    'inputs': count,
    'accepted': outcomes['ok'],
    'refused': count - outcomes['ok'] - sum(failures.values()),
    'distinct_outcomes': len(outcomes),
    'failures': [
      {'what': k, 'count': n, 'example': examples[k]}
      for k, n in sorted(failures.items())[:_SHOWN]
    ],
  }


def _one_worker(options: argparse.Namespace, first: int, until: float) -> Any:
  """(number, outcome) until a worker dies, hangs or the time is over."""
  command = [sys.executable, '-m', 'benchmarks.fuzz', *sys.argv[1:]]
  worker = subprocess.Popen(
    [*command, f'--worker_from={first}'],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '3'},
  )
  assert worker.stdout
  number, wait = first, _START_S
  buffer = b''
  try:
    while time.monotonic() < until:
      ready, _, _ = select.select([worker.stdout], [], [], wait)
      if not ready:
        yield number, f'FAILED: no answer within {wait:g} s'
        return
      piece = os.read(worker.stdout.fileno(), 1 << 16)
      if not piece:
        code = worker.wait()
        if wait != options.limit:
          raise RuntimeError(f'a worker ended with {code} before it began')
        yield number, f'FAILED: the process ended with {code}'
        return
      *lines, buffer = (buffer + piece).split(b'\n')
      wait = options.limit
      for line in lines:
        number, found = json.loads(line)
        if found is not None:
          yield number, found
  finally:
    worker.kill()
    worker.wait()
    worker.stdout.close()


def _report(row: dict[str, Any], *, out: str) -> None:
  print(
    f'{row["target"]}: {row["inputs"]} inputs in {row["seconds"]} s, '
    f'{row["accepted"]} accepted, {row["refused"]} refused, '
    f'{row["distinct_outcomes"]} distinct outcomes, '
    f'{sum(f["count"] for f in row["failures"])} failed'
  )
  for failure in row['failures']:
    print(
      f'  {failure["count"]:6} {failure["what"]} (--only={failure["example"]})'
    )
  rows = [row]
  if out and pathlib.Path(out).exists():
    kept = json.loads(pathlib.Path(out).read_text())['rows']
    key = (row['target'], row['seed'])
    rows = [r for r in kept if (r['target'], r['seed']) != key] + rows
  result_file.report('fuzz', rows, out=out)


if __name__ == '__main__':
  sys.exit(main())
