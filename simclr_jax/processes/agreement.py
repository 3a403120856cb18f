"""What all processes have to know of each other, as collectives.

Every process has to make the same calls in the same order; with a single one
they cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import itertools
import json
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils
import numpy as np

from simclr_jax import retries
from simclr_jax.processes import names

T = TypeVar('T')
# Sizes of what is exchanged are multiples of it: each is a program to compile.
_BLOCK = 1024
_SHOWN = 4


class AgreedFailure(Exception):
  """Something failed in at least one process, and all of them know.

  Attributes:
    where: The process that failed, 'process 1 of 2 on HOST'.
    error: What was raised there, in that process alone; elsewhere None.
    is_mistake: Whether it was a ValueError, which tells the user what to mend.
    is_away: Whether it was a `retries.DataAway`.
  """

  def __init__(
    self,
    message: str,
    *,
    where: str,
    error: Exception | None = None,
    is_mistake: bool,
    is_away: bool = False,
  ):
    super().__init__(message)
    self.where = where
    self.error = error
    self.is_mistake = is_mistake
    self.is_away = is_away


def gather(value: Any) -> list[Any]:
  """The JSON value of every process, by process."""
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
  room = -(-int(sizes.max()) // _BLOCK) * _BLOCK
  padded = np.zeros(room, np.uint8)
  padded[: len(data)] = data
  rows = multihost_utils.process_allgather(padded)
  return [
    json.loads(row[:size].tobytes())
    for row, size in zip(rows, sizes.ravel(), strict=True)
  ]


def from_first(value: Any) -> Any:
  """The JSON value of process 0, in every process."""
  return gather(value if jax.process_index() == 0 else None)[0]


@contextlib.contextmanager
def together() -> Iterator[None]:
  """A block that succeeds in all processes or fails in all of them.

  The block itself must hold no collective: a process that failed before it
  would leave the others waiting in it. A single process just runs it.

  Raises:
    AgreedFailure: In every process, if the block raised an exception in one;
      its message is that of the first process that failed.
  """
  if jax.process_count() == 1:
    yield
    return
  error: Exception | None = None
  try:
    yield
  except Exception as caught:
    error = caught
  if isinstance(error, AgreedFailure):
    raise error  # a nested block: the others are told already
  mine = None
  if error is not None:
    mine = {
      'text': str(error) or type(error).__name__,
      'type': type(error).__name__,
      'is_mistake': isinstance(error, ValueError),
      'is_away': isinstance(error, retries.DataAway),
    }
  found = gather(mine)
  failed = {k: entry for k, entry in enumerate(found) if entry is not None}
  if not failed:
    return
  first = next(iter(failed.values()))
  same = [k for k, entry in failed.items() if entry == first]
  is_said = first['is_mistake'] or first['is_away']
  text = first['text'] if is_said else _with_type(first)
  others = len(failed) - len(same)
  if others:
    text += f' ({others} other processes failed in another way)'
  raise AgreedFailure(
    text,
    where=names.name_all(same),
    error=error,
    is_mistake=all(entry['is_mistake'] for entry in failed.values()),
    is_away=all(entry['is_away'] for entry in failed.values()),
  ) from error


def begun(items: Iterator[T]) -> Iterator[T]:
  """The same items; that data are away for the first one, all agree on.

  Raises:
    AgreedFailure: If they are, in one of several processes.
    Exception: Any other of the first item, in this process alone.
  """
  if jax.process_count() == 1:
    return items
  failure: Exception | None = None
  with together():
    try:
      first = list(itertools.islice(items, 1))
    except retries.DataAway:
      raise
    except Exception as error:
      failure = error
  if failure is not None:
    raise failure
  return itertools.chain(first, items)


def _with_type(entry: Mapping[str, Any]) -> str:
  return f'{entry["type"]}: {entry["text"]}'


def check_same(values: Mapping[str, Any], *, consequence: str) -> None:
  """Refuses processes that differ.

  Args:
    values: Name for people -> JSON value; names may differ as well.
    consequence: What would go wrong.

  Raises:
    AgreedFailure: In every process, naming those that are in the minority.
  """
  if jax.process_count() == 1:
    return
  everyone = gather(dict(values))
  lines: list[str] = []
  odd: set[int] = set()
  for name in dict.fromkeys(name for each in everyone for name in each):
    here = [json.dumps(each.get(name), sort_keys=True) for each in everyone]
    if len(set(here)) > 1:
      lines.append(f'  - {name}: {_who_has_what(here)}')
      odd |= set(_minority(here))
  if lines:
    raise AgreedFailure(
      'the processes differ:\n' + '\n'.join(lines) + f'\n{consequence}',
      where=names.name_all(sorted(odd)),
      is_mistake=True,
    )


def _groups(values: Sequence[str]) -> list[tuple[str, list[int]]]:
  """(value, processes) by falling size, then by process."""
  groups: dict[str, list[int]] = {}
  for process, value in enumerate(values):
    groups.setdefault(value, []).append(process)
  return sorted(groups.items(), key=lambda item: (-len(item[1]), item[1]))


def _minority(values: Sequence[str]) -> list[int]:
  """Processes without the commonest value (in a tie: the first's)."""
  return [k for _, members in _groups(values)[1:] for k in members]


def _who_has_what(values: Sequence[str]) -> str:
  groups = _groups(values)
  parts = [
    f'{names.name_all(members)}: {_shorten(value)}'
    for value, members in groups[:_SHOWN]
  ]
  if len(groups) > _SHOWN:
    parts.append(f'{len(groups) - _SHOWN} more')
  return '; '.join(parts)


def _shorten(value: str, length: int = 120) -> str:
  return value if len(value) <= length else value[: length - 3] + '...'
