"""Starts commands as several processes over loopback, each bounded and named.

The real command in processes of their own; only TensorFlow is hidden, whose
import would take longer than the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
_START = """
import runpy, sys
from tests import without_tensorflow
without_tensorflow.hide()
{before}
runpy.run_module({module!r}, run_name='__main__', alter_sys=True)
"""
# A run in miniature: 128 examples of 16 pixels. Smaller batches are chaotic:
# one rounding on the other side of a ReLU's zero shows in the fourth step.
TINY = (
  f'--config={ROOT / "configs" / "smoke.py"}',
  '--config.data.source=procedural',
  '--config.data.train_split=train[:128]',
  '--config.data.test_split=test[:19]',
  '--config.data.loader=opencv',
  '--config.data.image_size=16',
  '--config.augment.blur_prob=0.0',
  '--config.model.width=0.03',
  '--config.model.head_layers=1',
  '--config.model.head_dim=8',
  '--config.optim.warmup=2 steps',
  '--config.optim.base_lr=0.3',
  '--config.train.batch_size=64',
  '--config.train.log_every=1 steps',
  '--config.train.diagnostics_every=0 steps',
  '--config.monitor.knn_every=0 steps',
  '--config.checkpoint.keep_best=0',
  '--config.checkpoint.keep_latest=9',
)


class Processes:
  """The processes of one command; killed at the end of the `with` block."""

  def __init__(
    self,
    arguments: Sequence[str],
    *,
    count: int,
    logs: pathlib.Path,
    devices: int = 2,
    module: str = 'simclr_jax.main',
    cache: pathlib.Path | None = None,
    extra: dict[int, Sequence[str]] | None = None,
    before: dict[int, str] | None = None,
  ):
    """Starts them.

    Args:
      arguments: Of the command, in all processes.
      count: Processes; a single one gets no flags about others.
      logs: Folder for what they print.
      devices: Simulated, in each process.
      module: The command.
      cache: Folder of compiled programs.
      extra: More arguments for some processes.
      before: Python that runs first, in some processes.
    """
    logs.mkdir(parents=True, exist_ok=True)
    self._logs = [logs / f'process-{k}.txt' for k in range(count)]
    port = free_port()
    environment = {
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      # Nobody listens there: the processes must not ask it for each other.
      'http_proxy': 'http://127.0.0.1:9',
      # Compiling is most of the time, and the programs run for moments.
      'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    }
    if cache is not None:
      environment |= {
        'JAX_ENABLE_COMPILATION_CACHE': 'true',
        'JAX_COMPILATION_CACHE_DIR': str(cache),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      }
    self.all: list[subprocess.Popen[bytes]] = []
    for k in range(count):
      flags = [*arguments, *(extra or {}).get(k, ())]
      if count > 1:
        flags += [
          f'--coordinator=127.0.0.1:{port}',
          f'--num_processes={count}',
          f'--process_id={k}',
        ]
      code = _START.format(module=module, before=(before or {}).get(k, ''))
      with open(self._logs[k], 'wb') as log:
        self.all.append(
          subprocess.Popen(
            [sys.executable, '-c', code, *flags],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
          )
        )

  def __enter__(self) -> Processes:
    return self

  def __exit__(self, *unused: object) -> None:
    for process in self.all:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.wait()

  def log(self, k: int) -> str:
    """What process k has printed."""
    return self._logs[k].read_text(errors='replace')

  def errors(self, k: int) -> list[str]:
    """Its lines that say what went wrong."""
    return [x for x in self.log(k).splitlines() if x.startswith('error')]

  def code(self, k: int, *, timeout: float = 240.0) -> int:
    """Exit code of process k, awaited."""
    return self.all[k].wait(timeout=timeout)

  def codes(self) -> list[int]:
    """Exit codes of all, awaited."""
    return [self.code(k) for k in range(len(self.all))]

  def finish(self) -> None:
    """Awaits that all end well."""
    codes = self.codes()
    logs = '\n'.join(self.log(k)[-3000:] for k in range(len(self.all)))
    assert set(codes) == {0}, f'{codes}\n{logs}'

  def wait_until(
    self, condition: Callable[[], bool], *, timeout: float = 240.0
  ) -> None:
    """Awaits a condition while all run."""
    deadline = time.monotonic() + timeout
    while not condition():
      for k, process in enumerate(self.all):
        assert process.poll() is None, self.log(k)[-3000:]
      assert time.monotonic() < deadline, self.log(0)[-3000:]
      time.sleep(0.01)


def free_port() -> int:
  """A port of loopback that was free just now."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port: int = free.getsockname()[1]
  return port
