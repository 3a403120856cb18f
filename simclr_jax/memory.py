"""Memory that this process may use, and the errors of running out of it.

Linux ends a process that takes more without a word (exit code 137), so a run
compares what it needs with what there is before its first step.
"""

from __future__ import annotations

from collections.abc import Iterator
import pathlib
import resource
from typing import NamedTuple


class OutOfMemory(RuntimeError):
  """This process ran out of memory; the message says what to change."""


class DoesNotFit(OutOfMemory):
  """All processes of the run agree, before the first step, that it cannot."""


class Usable(NamedTuple):
  """Bytes that this process may take beyond those that it holds, and why."""

  num_bytes: int
  limit: str


def ran_out(error: BaseException) -> bool:
  """Whether an error says that memory of the host or a device is used up.

  JAX's own errors are known by name, because this module does without JAX.
  """
  names = ('JaxRuntimeError', 'XlaRuntimeError')
  return isinstance(error, MemoryError) or (
    type(error).__name__ in names and 'RESOURCE_EXHAUSTED' in str(error)
  )


def usable(root: pathlib.Path = pathlib.Path('/')) -> Usable | None:
  """The least of free memory, the cgroups' limits and ulimits.

  Args:
    root: Parent of proc and sys.

  Returns:
    None where the system does not tell (other than Linux).
  """
  found = [*_free(root), *_cgroups(root), *_ulimits(root)]
  return min(found, key=lambda usable: usable.num_bytes, default=None)


def format_bytes(num_bytes: float) -> str:
  """In GB, as the documentation counts memory."""
  return f'{num_bytes / 1e9:.{1 if num_bytes >= 1e9 else 2}f} GB'


def _free(root: pathlib.Path) -> Iterator[Usable]:
  kilobytes = _fields(root / 'proc/meminfo').get('MemAvailable')
  if kilobytes is not None:
    yield Usable(1024 * kilobytes, 'free memory of this machine')


def _cgroups(root: pathlib.Path) -> Iterator[Usable]:
  """Every cgroup that this process is in, the outer ones too."""
  mounts = root / 'sys/fs/cgroup'
  for line in _read(root / 'proc/self/cgroup').splitlines():
    _, controllers, path = line.split(':', 2)
    if not controllers:
      yield from _nested(mounts, path, 'memory.max', 'memory.current')
    elif 'memory' in controllers.split(','):
      yield from _nested(
        mounts / 'memory',
        path,
        'memory.limit_in_bytes',
        'memory.usage_in_bytes',
      )


def _nested(
  mount: pathlib.Path, path: str, limit_file: str, used_file: str
) -> Iterator[Usable]:
  # A container may see the names of its host, of which only the mount is here.
  folder = mount / path.strip('/')
  for place in (folder, *folder.parents):
    if not place.is_relative_to(mount):
      return
    limit, used = (_read(place / name) for name in (limit_file, used_file))
    if limit.isdigit() and used.isdigit():  # Not 'max'.
      # The page cache of files is given back before a process is killed.
      stat = _fields(place / 'memory.stat')
      cache = sum(
        stat.get(f'total_{name}', stat.get(name, 0))
        for name in ('active_file', 'inactive_file')
      )
      yield Usable(
        max(0, int(limit) - int(used) + cache),
        f'memory limit of the cgroup {place}',
      )


def _ulimits(root: pathlib.Path) -> Iterator[Usable]:
  status = _fields(root / 'proc/self/status')
  for kind, field, flag in (
    (resource.RLIMIT_AS, 'VmSize', '-v'),
    (resource.RLIMIT_DATA, 'VmData', '-d'),
  ):
    limit, _ = resource.getrlimit(kind)
    if limit != resource.RLIM_INFINITY and field in status:
      held = 1024 * status[field]
      yield Usable(max(0, limit - held), f'limit of ulimit {flag}')


def _fields(path: pathlib.Path) -> dict[str, int]:
  """'name: 12 kB' or 'name 12' in each line, as {name: 12}."""
  found = {}
  for line in _read(path).splitlines():
    words = line.replace(':', ' ').split()
    if len(words) > 1 and words[1].isdigit():
      found[words[0]] = int(words[1])
  return found


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text().strip()
  except (OSError, UnicodeDecodeError):
    return ''
