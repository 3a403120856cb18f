"""Random access to array_record files, of which not all stay open.

The library gives no cause where a file cannot be opened: the file then has no
records, as if it were damaged. So the system itself is asked.
"""

from __future__ import annotations

import functools
import resource
from typing import Any

_BLOCK = 1 << 20  # bytes
_MOST = 4096  # open files


def count(path: str) -> int:
  """Records of a file, opened anew; a damaged one has none.

  Raises:
    OSError: If the system does not let it be read.
  """
  return int(_open(path).num_records())


def forget() -> None:
  """Closes all files: some may have been written anew."""
  _readers().cache_clear()


def read(path: str, record: int) -> bytes:
  """Bytes of a record; from any thread.

  Raises:
    OSError: As `count`.
    Exception: Whatever the library raises for a damaged file.
  """
  try:
    data: bytes = _readers()(path).read([record])[0]
  except (OSError, MemoryError):
    raise
  except Exception:
    forget()
    _check_system(path)
    data = _readers()(path).read([record])[0]
  return data


@functools.cache
def _readers() -> functools._lru_cache_wrapper[Any]:
  """Opens a file, or gives it from those that are open.

  Half of the files that this process may have open: opening one takes 0.3 ms.
  """
  soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
  most = _MOST if soft == resource.RLIM_INFINITY else min(soft // 2, _MOST)
  return functools.lru_cache(most)(_open)


def _open(path: str) -> Any:
  try:
    from array_record.python import array_record_module
  except ImportError as error:
    raise ValueError(
      f'{path} is an array_record file: `pip install array_record`, or prepare '
      'the data set with `tfds build --file_format=tfrecord`'
    ) from error
  # Twice: what refused it may have passed by the time the system is asked.
  for _ in range(2):
    # No read-ahead: the next read is somewhere else.
    reader = array_record_module.ArrayRecordReader(
      path, options='readahead_buffer_size:0'
    )
    if reader.ok():
      return reader
    forget()
    _check_system(path)
  return reader


def _check_system(path: str) -> None:
  """Raises the OSError that reading a local file meets, if there is one."""
  if '://' not in path:
    with open(path, 'rb', buffering=0) as file:
      while file.read(_BLOCK):
        pass
