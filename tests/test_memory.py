"""What this process may use: the least of what the system says."""

from __future__ import annotations

import resource

import pytest

from simclr_jax import memory

GIB = 2**30


@pytest.fixture
def system(tmp_path, monkeypatch):
  """Files of proc and sys, without ulimits; a function that writes them."""
  monkeypatch.setattr(
    resource, 'getrlimit', lambda kind: (resource.RLIM_INFINITY,) * 2
  )

  def write(**files):
    for name, text in files.items():
      path = tmp_path / name.replace('__', '/').replace('_dot_', '.')
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text)
    return memory.usable(tmp_path)

  write(proc__meminfo=f'MemTotal: 99999999 kB\nMemAvailable: {8 * 2**20} kB\n')
  return write


def test_free_memory(system):
  assert system() == (8 * GIB, 'free memory of this machine')


@pytest.mark.parametrize('inner,outer', [('max', 3), (2, 'max'), (2, 3)])
def test_the_tightest_of_nested_cgroups(system, inner, outer):
  """Page cache of files is given back before anything is killed."""

  def text(limit):
    return limit if limit == 'max' else str(limit * GIB)

  found = system(
    proc__self__cgroup='0::/job/task\n',
    sys__fs__cgroup__job__task__memory_dot_max=text(inner),
    sys__fs__cgroup__job__task__memory_dot_current=str(GIB),
    sys__fs__cgroup__job__task__memory_dot_stat=f'anon 5\ninactive_file {GIB}',
    sys__fs__cgroup__job__memory_dot_max=text(outer),
    sys__fs__cgroup__job__memory_dot_current=str(GIB),
  )
  assert found.num_bytes == 2 * GIB
  assert found.limit.endswith('job/task' if inner == 2 else 'job')


def test_version_1_in_a_container_that_sees_names_of_its_host(system):
  mount = 'sys__fs__cgroup__memory__'
  found = system(
    proc__self__cgroup='4:cpu,memory:/docker/abc\n3:cpuset:/\n',
    **{
      f'{mount}memory_dot_limit_in_bytes': str(4 * GIB),
      f'{mount}memory_dot_usage_in_bytes': str(3 * GIB),
      f'{mount}memory_dot_stat': f'total_active_file {GIB}\nactive_file 7\n',
    },
  )
  assert found.num_bytes == 2 * GIB


def test_ulimits_count_less_what_is_held(system, monkeypatch):
  limits = {resource.RLIMIT_AS: 5 * GIB}
  monkeypatch.setattr(
    resource,
    'getrlimit',
    lambda kind: (limits.get(kind, resource.RLIM_INFINITY), 0),
  )
  found = system(proc__self__status=f'Name: x\nVmSize: {2**20} kB\n')
  assert found == (4 * GIB, 'limit of ulimit -v')


def test_a_system_that_tells_nothing(tmp_path):
  assert memory.usable(tmp_path / 'nowhere') is None


def test_errors_of_memory():
  XlaRuntimeError = type('XlaRuntimeError', (RuntimeError,), {})
  assert memory.ran_out(MemoryError())
  assert memory.ran_out(XlaRuntimeError('RESOURCE_EXHAUSTED: Out of memory'))
  assert not memory.ran_out(XlaRuntimeError('INTERNAL: x'))
  assert not memory.ran_out(RuntimeError('RESOURCE_EXHAUSTED'))
