"""One life of a run after the other: started, watched, killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOTAL, BATCH, EXAMPLES = 40, 32, 256
EVALUATE_EVERY, SAVE_EVERY, SEED = 8, 5, 0
_FLAGS = (
  f'--config={ROOT / "configs" / "smoke.py"}',
  f'--config.train.duration={TOTAL} steps',
  f'--config.train.batch_size={BATCH}',
  f'--config.seed={SEED}',
  '--config.data.source=procedural',
  f'--config.data.train_split=train[:{EXAMPLES}]',
  '--config.data.test_split=test[:64]',
  '--config.data.loader=opencv',
  '--config.data.image_size=8',
  '--config.model.width=0.0625',
  '--config.model.head_dim=16',
  '--config.optim.warmup=4 steps',
  '--config.train.log_every=1 steps',
  '--config.train.diagnostics_every=10 steps',
  f'--config.checkpoint.every={SAVE_EVERY} steps',
  '--config.checkpoint.keep_latest=2',
  '--config.checkpoint.keep_best=1',
  '--config.checkpoint.best_metric=loss',
  f'--config.monitor.knn_every={EVALUATE_EVERY} steps',
)
# What kills wait for, and how often each is chosen.
MOMENTS = {
  'start-up': 4, 'step': 6, 'save': 5, 'deletion': 2, 'evaluation': 3
}  # fmt: skip
SIGNALS = {'SIGKILL': 6, 'SIGTERM': 3, 'SIGTERM twice': 1}
# Longest time of a life, and for the processes that were not killed to notice.
LIFE_S, END_S = 600.0, 120.0


@dataclasses.dataclass(frozen=True)
class Kill:
  """A plan for one life; see `MOMENTS` and `SIGNALS`.

  Attributes:
    moment: What it waits for.
    signal: What is sent then.
    target: Index of one process, or -1 for all.
    count: Batches of this life to wait for, for 'step'.
    share: In [0, 1), how far into the moment.
  """

  moment: str
  signal: str
  target: int
  count: int
  share: float


@dataclasses.dataclass
class Death:
  """How a life ended.

  Attributes:
    killed: Whether the plan was carried out before the end.
    codes: Exit code of every process.
    seconds: From the kill to the end of the last process.
    hung: Processes that had to be killed in the end.
    newest: Checkpoint that was complete at the kill; 0 for none.
  """

  killed: bool
  codes: list[int]
  seconds: float
  hung: list[int]
  newest: int = 0


def draw_kill(rng: random.Random, num_processes: int) -> Kill:
  """A random plan."""
  return Kill(
    moment=rng.choices(list(MOMENTS), list(MOMENTS.values()))[0],
    signal=rng.choices(list(SIGNALS), list(SIGNALS.values()))[0],
    target=rng.randrange(-1, num_processes) if num_processes > 1 else -1,
    count=rng.randrange(1, 9),
    share=rng.random(),
  )


class Run:
  """A workdir, and the lives of the command in it."""

  def __init__(self, folder: pathlib.Path, *, processes: int, cache: str):
    """Starts nothing yet.

    Args:
      folder: For the workdir, records and logs.
      processes: Of every life.
      cache: Folder of compiled programs.
    """
    self.workdir = folder / 'run'
    self.workdir.mkdir(parents=True)
    self.folder, self.processes, self._cache = folder, processes, cache
    self.life = 0
    # Seconds from a start to its first batch, and of an evaluation.
    self.start_s, self.evaluation_s = 5.0, 0.5

  def record(self, process: int = 0) -> list[dict[str, Any]]:
    """Whole lines of what a process of all lives has noted."""
    path = self.folder / f'record-{process}.jsonl'
    text = path.read_text() if path.exists() else ''
    return [json.loads(line) for line in text.split('\n')[:-1]]

  def log(self, process: int = 0) -> pathlib.Path:
    """What a process of the newest life prints."""
    return self.folder / f'log-{self.life}-{process}.txt'

  def live(self, kill: Kill | None) -> Death:
    """Starts the command, kills it as planned, awaits its end."""
    self.life += 1
    started = time.time()
    all_ = self._start()
    try:
      killed = kill is not None and self._await(kill, all_, started)
      begin, newest = time.monotonic(), max(self.steps(), default=0)
      if killed and kill is not None:
        _send(kill, all_)
      hung = _end(all_, END_S if killed else LIFE_S)
      seconds = time.monotonic() - begin
    finally:
      for process in all_:
        if process.poll() is None:  # Else its number may be another's by now.
          os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    self._learn(started)
    codes = [process.returncode for process in all_]
    return Death(killed, codes, seconds, hung, newest)

  def steps(self) -> list[int]:
    """Complete checkpoints, rising."""
    names = _names(self.workdir / 'checkpoints')
    return sorted(int(name) for name in names if name.isdigit())

  def _start(self) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      port = free.getsockname()[1]
    all_ = []
    for k in range(self.processes):
      flags = [*_FLAGS, f'--workdir={self.workdir}']
      if self.processes > 1:
        flags += [
          f'--coordinator=127.0.0.1:{port}',
          f'--num_processes={self.processes}',
          f'--process_id={k}',
          '--init_timeout=60',
          '--peer_timeout=20',
        ]
      with open(self.log(k), 'wb') as log:
        all_.append(
          subprocess.Popen(
            [sys.executable, '-m', 'benchmarks.soak_child', *flags],
            cwd=ROOT,
            env=self._environment(k),
            start_new_session=True,
            stdout=log,
            stderr=subprocess.STDOUT,
          )
        )
    return all_

  def _environment(self, process: int) -> dict[str, str]:
    return {
      **os.environ,
      'SOAK_LIFE': str(self.life),
      'SOAK_RECORD': str(self.folder / f'record-{process}.jsonl'),
      'JAX_PLATFORMS': 'cpu',
      # The same two devices, however many processes share them.
      'XLA_FLAGS': '--xla_force_host_platform_device_count='
      f'{max(1, 2 // self.processes)}',
      'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
      'JAX_ENABLE_COMPILATION_CACHE': 'true',
      'JAX_COMPILATION_CACHE_DIR': self._cache,
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }

  def _await(
    self, kill: Kill, all_: Sequence[subprocess.Popen[bytes]], started: float
  ) -> bool:
    """Waits for the moment; False if the command ended before it."""
    wait, delay = self._moment(kill, started)
    deadline = started + LIFE_S
    while time.time() < deadline:
      if any(process.poll() is not None for process in all_):
        return False
      if wait():
        time.sleep(delay)
        return all(process.poll() is None for process in all_)
      time.sleep(0.002)
    return True

  def _moment(
    self, kill: Kill, started: float
  ) -> tuple[Callable[[], bool], float]:
    """(whether the moment has come, seconds to wait from then on)."""
    folder = self.workdir / 'checkpoints'

    def events(name: str) -> int:
      return sum(
        r['life'] == self.life and r['event'] == name for r in self.record()
      )

    def is_saving() -> bool:
      return events('batch') > 0 and any(
        'orbax-checkpoint-tmp' in name for name in _names(folder)
      )

    if kill.moment == 'start-up':
      delay = kill.share * self.start_s
      return lambda: time.time() >= started + delay, 0.0
    if kill.moment == 'step':
      return lambda: events('batch') >= kill.count, 0.1 * kill.share
    if kill.moment == 'save':
      return is_saving, 0.1 * kill.share
    if kill.moment == 'deletion':
      return lambda: bool(_names(folder / 'deleted')), 0.02 * kill.share
    delay = kill.share * self.evaluation_s
    return lambda: events('evaluate') > 0, delay

  def _learn(self, started: float) -> None:
    """How long a start and an evaluation take here, by this life."""
    times: dict[str, float] = {}
    for record in self.record():
      if record['life'] == self.life:
        times.setdefault(record['event'], record['time'])
    if 'batch' in times:
      self.start_s = times['batch'] - started
    if 'evaluated' in times:
      self.evaluation_s = times['evaluated'] - times['evaluate']


def _names(folder: pathlib.Path) -> list[str]:
  try:
    return os.listdir(folder)
  except OSError:
    return []


def _send(kill: Kill, all_: Sequence[subprocess.Popen[bytes]]) -> None:
  targets = list(all_) if kill.target < 0 else [all_[kill.target]]
  number = signal.SIGKILL if kill.signal == 'SIGKILL' else signal.SIGTERM
  for process in targets:
    process.send_signal(number)
  if kill.signal == 'SIGTERM twice':
    time.sleep(0.15 + 0.5 * kill.share)
    for process in targets:
      with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _end(all_: Sequence[subprocess.Popen[bytes]], seconds: float) -> list[int]:
  """Awaits the end of all; indices of those that had to be killed."""
  deadline, hung = time.monotonic() + seconds, []
  for k, process in enumerate(all_):
    try:
      process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      hung.append(k)
      os.killpg(process.pid, signal.SIGKILL)
  return hung
