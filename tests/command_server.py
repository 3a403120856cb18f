"""Commands run as the shell would run them, a hundred in a minute.

Importing JAX, Orbax and TensorFlow takes longer than nearly every mistake takes
to be found. One process imports them once, starts no device and no thread, and
forks for every command line: the child gets its own `sys.argv`, runs the
module as `__main__` and ends. So exit code, stdout and stderr are the real
ones, a segmentation fault or a hang is seen from outside, and a command can
run without root's rights over files or with little memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import ctypes
import importlib
import json
import os
import pathlib
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
_IMPORTS = (
  'absl.app',
  'ml_collections.config_flags',
  'simclr_jax.training.loop',
  'simclr_jax.training.run',
  'simclr_jax.data.preparation',
  'simclr_jax.evaluation.jobs',
  'simclr_jax.evaluation.plots',
  'simclr_jax.reports.page',
  'simclr_jax.retrieval.judging',
  'simclr_jax.retrieval.duplicates',
  'cloudpickle',
  'cv2',
  'pyarrow.parquet',
  'pyarrow.compute',
  'sklearn.datasets',
)
# Nothing here runs in two threads: only then is a fork safe.
_ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
  'OPENBLAS_NUM_THREADS': '1',
  'OMP_NUM_THREADS': '1',
  'TF_CPP_MIN_LOG_LEVEL': '3',
  'PYTHONPATH': str(ROOT),
}


class Done(NamedTuple):
  """How a command ended: exit code (-signal), what it wrote, peak memory."""

  code: int
  out: str
  err: str
  peak_bytes: int


class Server:
  """The process that forks; a context manager."""

  def __init__(self, environment: Mapping[str, str]):
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'tests.command_server'],
      cwd=ROOT,
      env={**os.environ, **_ENVIRONMENT, **environment},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def __enter__(self) -> Server:
    return self

  def __exit__(self, *_: object) -> None:
    self._process.kill()
    self._process.wait()
    for pipe in (self._process.stdin, self._process.stdout):
      if pipe:
        pipe.close()

  def run(
    self,
    module: str,
    arguments: Sequence[str],
    *,
    cwd: pathlib.Path,
    timeout: float = 120.0,
    unprivileged: bool = False,
    tensorflow: bool = False,
    max_memory: int = 0,
    max_file: int = 0,
  ) -> Done:
    """`python -m simclr_jax.<module> <arguments>`.

    Args:
      module: Name of the command.
      arguments: Of the command line.
      cwd: Working directory.
      timeout: Seconds until it is killed, which is code -9.
      unprivileged: Whether the modes of files hold for root too.
      tensorflow: Whether it may be imported beforehand.
      max_memory: Bytes of address space beyond those in use; 0 for any.
      max_file: Bytes of the largest file that it can write, as if the disk
        were full then; 0 for any.
    """
    assert self._process.stdin and self._process.stdout
    request = {
      'module': f'simclr_jax.{module}',
      'arguments': list(arguments),
      'cwd': str(cwd),
      'timeout': timeout,
      'unprivileged': unprivileged,
      'tensorflow': tensorflow,
      'max_memory': max_memory,
      'max_file': max_file,
    }
    self._process.stdin.write(json.dumps(request) + '\n')
    self._process.stdin.flush()
    answer = self._process.stdout.readline()
    assert answer, f'the server died of {arguments}'
    return Done(**json.loads(answer))


def _serve() -> None:
  """Answers requests on stdin by lines on stdout until stdin is closed."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  for name in _IMPORTS:
    importlib.import_module(name)
  for line in sys.stdin:
    request = json.loads(line)
    if request.pop('tensorflow'):
      from simclr_jax.data.lazy_tf import tf, tfds

      assert tf.io and tfds.core
    answers.write(json.dumps(_run(**request)._asdict()) + '\n')
    answers.flush()


def _run(
  module: str,
  arguments: list[str],
  cwd: str,
  timeout: float,
  unprivileged: bool,
  max_memory: int,
  max_file: int,
) -> Done:
  with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
    child = os.fork()
    if not child:
      code = 70
      try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if max_memory:
          limit = _address_space() + max_memory
          resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if max_file:
          resource.setrlimit(resource.RLIMIT_FSIZE, (max_file, max_file))
        if unprivileged:
          _drop_capabilities()
        code = _become(module, arguments, cwd)
      except BaseException:
        traceback.print_exc()
      finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    code, peak = _wait(child, timeout)
    texts = []
    for file in (out, err):
      file.seek(0)
      texts.append(file.read().decode(errors='backslashreplace'))
  return Done(code, *texts, peak_bytes=peak)


def _drop_capabilities() -> None:
  """Takes from root what lets it pass over the modes of files.

  It stays the same user: another one could not read the interpreter where that
  is installed in somebody's home, or in a private temporary folder.
  """
  # struct __user_cap_header_struct and two __user_cap_data_struct of
  # linux/capability.h, version 3; process 0 is this one.
  header = (ctypes.c_uint32 * 2)(0x20080522, 0)
  none = (ctypes.c_uint32 * 6)()
  libc = ctypes.CDLL(None, use_errno=True)
  if libc.capset(header, none):
    raise OSError(ctypes.get_errno(), 'capset')


def _become(module: str, arguments: list[str], cwd: str) -> int:
  """What `python -m module` does; the exit code."""
  os.chdir(cwd)
  sys.argv = [module, *arguments]
  try:
    runpy.run_module(module, run_name='__main__', alter_sys=True)
  except SystemExit as stop:
    if isinstance(stop.code, str):
      print(stop.code, file=sys.stderr)
      return 1
    return int(stop.code or 0)
  except BaseException:
    traceback.print_exc()
    return 1
  return 0


def _wait(child: int, timeout: float) -> tuple[int, int]:
  """(exit code or -signal, peak bytes in memory) of a child."""
  deadline = time.monotonic() + timeout
  while True:
    done, status, usage = os.wait4(child, os.WNOHANG)
    if done:
      return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
    if time.monotonic() > deadline:
      os.kill(child, signal.SIGKILL)
    time.sleep(0.005)


def _address_space() -> int:
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  return pages * resource.getpagesize()


if __name__ == '__main__':
  _serve()
